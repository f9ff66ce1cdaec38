-- A run that is sent again gets another handle, and the one before opens nothing any more.

drop function public.create_credential_handle(uuid, text);

create function public.create_credential_handle(
    p_execution_id uuid, p_handle_hash text, p_runner text default null
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_reservation public.reservations;
begin
    perform gateway.require_service();
    -- Locked, so that nobody takes the run over before the handle is stored and loses his own to it.
    select r.* into v_reservation
    from public.executions e
    join public.reservations r on r.organization_id = e.organization_id and r.execution_id = e.id
    where e.id = p_execution_id
    for share of r;
    if not found then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
    end if;
    if v_reservation.state <> 'HELD' or p_runner <> v_reservation.runner then
        perform gateway.fail('GW412', 'LEASE_LOST', 'Another runner has the run in hand.');
    end if;
    delete from public.credential_handles h
    where h.organization_id = v_reservation.organization_id and h.expires_at < now() - interval '1 hour';
    insert into public.credential_handles as h (organization_id, execution_id, handle_hash)
    values (v_reservation.organization_id, p_execution_id, p_handle_hash)
    on conflict (organization_id, execution_id) do update
        set handle_hash = excluded.handle_hash, expires_at = excluded.expires_at, redeemed_at = null;
    return '{}';
end
$$;
comment on function public.create_credential_handle(uuid, text, text) is
    'Lets a run redeem its credentials once within 5 minutes -> {}. A handle that it had before opens nothing any more. '
    'GW412 LEASE_LOST for a run that has ended, and when p_runner is given and another one has it. For the gateway '
    'itself only.';

comment on table public.credential_handles is
    'Handles, at most one for each run, that of its last attempt, by the SHA-256 of what the run was sent.';

revoke all on function public.create_credential_handle(uuid, text, text)
    from public, anon, authenticated, service_role;
grant execute on function public.create_credential_handle(uuid, text, text) to service_role, authenticator;
