-- One-time handles, by which a run gets at its credentials without n8n keeping them.

create table public.credential_handles (
    organization_id uuid not null,
    execution_id uuid not null,
    handle_hash text not null unique check (handle_hash ~ '^[0-9a-f]{64}$'),
    expires_at timestamptz not null default now() + interval '5 minutes',
    redeemed_at timestamptz,
    primary key (organization_id, execution_id),
    foreign key (organization_id, execution_id) references public.executions (organization_id, id)
);
comment on table public.credential_handles is
    'Handles, at most one for each run, by the SHA-256 of what the run was sent.';

create function public.create_credential_handle(p_execution_id uuid, p_handle_hash text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization_id uuid;
begin
    perform gateway.require_service();
    select e.organization_id into v_organization_id from public.executions e where e.id = p_execution_id;
    if not found then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
    end if;
    delete from public.credential_handles h
    where h.organization_id = v_organization_id and h.expires_at < now() - interval '1 hour';
    insert into public.credential_handles (organization_id, execution_id, handle_hash)
    values (v_organization_id, p_execution_id, p_handle_hash);
    return '{}';
end
$$;
comment on function public.create_credential_handle(uuid, text) is
    'Lets a run redeem its credentials once within 5 minutes -> {}. For the gateway itself only.';

create function public.redeem_credential_handle(
    p_handle_hash text, p_execution_id uuid, p_names jsonb default '[]'
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
comment on function public.redeem_credential_handle(text, uuid, jsonb) is
    'A run''s credentials, those of the names or all -> {organization_id, "secrets": {name: envelope}}, once. GW403 '
    'for a handle of another run or none, a used or expired one, and a run that has ended. For the gateway itself only.';

alter table public.credential_handles enable row level security;
revoke all on table public.credential_handles from public, anon, authenticated, service_role;

revoke all on function
    public.create_credential_handle(uuid, text), public.redeem_credential_handle(text, uuid, jsonb)
    from public, anon, authenticated, service_role;
grant execute on function
    public.create_credential_handle(uuid, text), public.redeem_credential_handle(text, uuid, jsonb)
    to service_role, authenticator;
