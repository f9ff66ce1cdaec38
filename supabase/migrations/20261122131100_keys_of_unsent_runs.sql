-- An idempotency key stands for one run, and for no other as long as that one may have run. One that was never sent to
-- n8n, and whose caller was told to come back, has nothing to protect: its key is free for the call that comes back.

comment on column public.executions.idempotency_key_expired is
    'Its key is free: it was used again after 24 hours, or the run was never sent.';

create function public.release_idempotency_key(p_execution_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    update public.executions e set idempotency_key_expired = true
    where e.id = p_execution_id and not e.idempotency_key_expired and e.state = 'EXECUTION_STATE_FAILED'
        and coalesce(e.credits_used, 0) = 0
        and e.error @? '$.details[*] ? (@."@type" == "type.googleapis.com/google.rpc.RetryInfo")';
    return jsonb_build_object('released', found);
end
$$;
comment on function public.release_idempotency_key(uuid) is
    'Frees the idempotency key of a run that FAILED and whose error has a RetryInfo, which none has that may have been '
    'sent to n8n: {released: bool}. For the gateway itself only.';

revoke all on function public.release_idempotency_key(uuid) from public, anon, authenticated, service_role;
grant execute on function public.release_idempotency_key(uuid) to service_role, authenticator;
