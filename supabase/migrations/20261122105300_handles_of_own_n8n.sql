-- An n8n of an organization's own redeems handles of that organization's runs alone.

drop function public.redeem_credential_handle(text, uuid, jsonb);

create function public.redeem_credential_handle(
    p_handle_hash text, p_execution_id uuid, p_names jsonb default '[]', p_organization_ids jsonb default null
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization_id uuid;
begin
    perform gateway.require_service();
    update public.credential_handles h set redeemed_at = now()
    where h.handle_hash = p_handle_hash and h.execution_id = p_execution_id
        and h.redeemed_at is null and h.expires_at > now()
        and coalesce(p_organization_ids ? h.organization_id::text, true)
        and exists (select from public.executions e where e.id = h.execution_id and e.state = 'EXECUTION_STATE_RUNNING')
    returning h.organization_id into v_organization_id;
    if not found then
        perform gateway.fail(
            'GW403', 'HANDLE_INVALID', 'The handle is not of this run, has been used, or has expired.'
        );
    end if;
    return jsonb_build_object(
        'organization_id', v_organization_id,
        'secrets', case when p_names = '[]' then public.reveal_secrets(v_organization_id, p_prefix => 'credential/')
            else public.reveal_secrets(v_organization_id, (
                select jsonb_agg('credential/' || n) from jsonb_array_elements_text(p_names) n
            )) end
    );
end
$$;
comment on function public.redeem_credential_handle(text, uuid, jsonb, jsonb) is
    'A run''s credentials, those of the names or all -> {organization_id, "secrets": {name: envelope}}, once. '
    'p_organization_ids are those of the n8n that asks, null for the default one. GW403 for a handle of another run or '
    'none, a used or expired one, and a run that has ended. For the gateway itself only.';

revoke all on function public.redeem_credential_handle(text, uuid, jsonb, jsonb)
    from public, anon, authenticated, service_role;
grant execute on function public.redeem_credential_handle(text, uuid, jsonb, jsonb) to service_role, authenticator;
