-- Limits of their own: of an organization, which the platform sets, and of an API key, which its admins do.

alter table public.api_keys
    add column rate_limit_requests integer check (rate_limit_requests between 0 and 1000000),
    add column rate_limit_period_seconds integer check (rate_limit_period_seconds between 0 and 86400),
    add constraint api_keys_rate_limit_check
        check ((rate_limit_requests is null) = (rate_limit_period_seconds is null));
comment on column public.api_keys.rate_limit_requests is
    'Calls of this key alone in any rate_limit_period_seconds, beside its organization''s limit; null for none, 0 for the '
    'gateway''s default.';

create or replace function gateway.api_key_json(p_row public.api_keys) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'id', p_row.id,
        'organization_id', p_row.organization_id,
        'name', p_row.name,
        'public_id', p_row.public_id,
        'environment', p_row.environment,
        'scopes', p_row.scopes,
        'workflow_ids', to_jsonb(p_row.workflow_ids),
        'rate_limit', case when p_row.rate_limit_requests is not null then jsonb_build_object(
            'requests', p_row.rate_limit_requests, 'period_seconds', p_row.rate_limit_period_seconds
        ) end,
        'state', case
            when p_row.revoked_at is not null then 'API_KEY_STATE_REVOKED'
            when p_row.expires_at <= now() then 'API_KEY_STATE_EXPIRED'
            else 'API_KEY_STATE_ACTIVE'
        end,
        'expires_at', p_row.expires_at,
        'last_used_at', p_row.last_used_at,
        'previous_expires_at', case when p_row.previous_expires_at > now() then p_row.previous_expires_at end,
        'revoked_at', p_row.revoked_at,
        'created_by', p_row.created_by,
        'created_at', p_row.created_at,
        'updated_at', p_row.updated_at
    );
end
$$;
comment on function gateway.api_key_json(public.api_keys) is 'ProtoJSON of n8ngateway.v1.ApiKey.';

create or replace function public.create_api_key(
    p_organization_id uuid, p_api_key jsonb, p_public_id text, p_secret_hash text, p_client_secret jsonb
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN');
    v_workflow_ids uuid[] := array(select jsonb_array_elements_text(coalesce(p_api_key -> 'workflow_ids', '[]'))::uuid);
    v_row public.api_keys;
begin
    if exists (
        select from unnest(v_workflow_ids) i
        where not exists (
            select from public.workflows w
            where w.organization_id = v_organization.id and w.id = i and w.archived_at is null
        )
    ) then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A key can only be for workflows of its organization.',
            p_fields => '{"api_key.workflow_ids": "names what is no workflow of the organization"}'
        );
    elsif (p_api_key ->> 'expires_at')::timestamptz <= now() then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A key must expire in the future.',
            p_fields => '{"api_key.expires_at": "is not in the future"}'
        );
    end if;
    insert into public.api_keys (
        organization_id, name, public_id, environment, secret_hash, scopes, workflow_ids, expires_at, created_by,
        rate_limit_requests, rate_limit_period_seconds
    ) values (
        v_organization.id,
        coalesce(p_api_key ->> 'name', ''),
        p_public_id,
        case
            when starts_with(p_public_id, 'gw_test_') then 'API_KEY_ENVIRONMENT_TEST'
            else 'API_KEY_ENVIRONMENT_LIVE'
        end,
        p_secret_hash,
        p_api_key -> 'scopes',
        v_workflow_ids,
        (p_api_key ->> 'expires_at')::timestamptz,
        gateway.caller_id(),
        case when p_api_key ? 'rate_limit' then coalesce((p_api_key -> 'rate_limit' ->> 'requests')::integer, 0) end,
        case when p_api_key ? 'rate_limit' then coalesce((p_api_key -> 'rate_limit' ->> 'period_seconds')::integer, 0) end
    ) returning * into v_row;
    perform gateway.keep_secret(v_organization.id, 'api_key/' || p_secret_hash, p_client_secret);
    return gateway.api_key_json(v_row);
end
$$;

create or replace function public.find_api_key(p_public_id text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    return coalesce((
        select jsonb_build_object(
            'id', k.id,
            'organization_id', k.organization_id,
            'secret_hash', k.secret_hash,
            'previous_hash', k.previous_hash,
            'previous_expires_at', extract(epoch from k.previous_expires_at),
            'expires_at', extract(epoch from k.expires_at),
            'last_used_at', extract(epoch from k.last_used_at),
            'is_revoked', k.revoked_at is not null or not o.is_active,
            'scopes', k.scopes,
            'workflow_ids', to_jsonb(k.workflow_ids),
            'rate_limit', case when k.rate_limit_requests is not null then jsonb_build_array(
                k.rate_limit_requests, k.rate_limit_period_seconds
            ) end,
            'policy', gateway.policy_json(o)
        )
        from public.api_keys k
        join public.organizations o on o.id = k.organization_id
        where k.public_id = p_public_id
    ), '{}');
end
$$;
comment on function public.find_api_key(text) is
    'What authentication needs of a key and its organization''s policy, times in seconds since 1970; {} for none. For '
    'the gateway itself only.';

create function public.set_limits(
    p_organization_id uuid, p_requests integer, p_period_seconds integer, p_max_open_streams integer
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.organizations;
begin
    perform gateway.require_service();
    update public.organizations o set
        rate_limit_requests = p_requests,
        rate_limit_period_seconds = p_period_seconds,
        max_open_streams = p_max_open_streams,
        updated_at = now()
    where o.id = p_organization_id
    returning * into v_row;
    if not found then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    return gateway.organization_json(v_row);
end
$$;
comment on function public.set_limits(uuid, integer, integer, integer) is
    'Calls in any period and streams open at a time of an organization, null and 0 for the gateway''s defaults -> '
    'Organization. For the platform only.';

-- Who may do what ---------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;

revoke all on function public.set_limits(uuid, integer, integer, integer)
    from public, anon, authenticated, service_role;
grant execute on function public.set_limits(uuid, integer, integer, integer) to service_role, authenticator;
