-- What an organization asks of its callers, found before anything is done for them.

create function gateway.policy_json(p_row public.organizations) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'organization_id', p_row.id,
        'auth_policy', p_row.auth_policy,
        'minimum_signature_version', p_row.minimum_signature_version,
        'fingerprint_policy', p_row.fingerprint_policy,
        'rate_limit', case when p_row.rate_limit_requests > 0 then jsonb_build_object(
            'requests', p_row.rate_limit_requests, 'period_seconds', p_row.rate_limit_period_seconds
        ) end,
        'max_open_streams', p_row.max_open_streams
    );
end
$$;
comment on function gateway.policy_json(public.organizations) is
    'What the organization asks of its callers; rate_limit is null for the gateway''s default.';

create function public.find_policy(p_claims jsonb, p_organization_id uuid default null) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_clerk text := gateway.clerk_organization(p_claims);
begin
    perform gateway.require_service();
    return coalesce((
        select gateway.policy_json(o) from public.organizations o
        where o.id = coalesce(
            p_organization_id,
            (select c.id from public.organizations c where c.clerk_organization_id = v_clerk),
            (
                select (array_agg(m.organization_id))[1] from public.organization_members m
                where m.profile_id = p_claims ->> 'sub' and not m.is_external
                having count(*) = 1
            )
        ) and (
            o.clerk_organization_id = v_clerk
            or exists (
                select from public.organization_members m
                where m.organization_id = o.id and m.profile_id = p_claims ->> 'sub' and not m.is_external
            )
        )
    ), '{}');
end
$$;
comment on function public.find_policy(jsonb, uuid) is
    'The policy of the organization that a user of these claims acts for: the one that is named, else that of the '
    'token''s Clerk organization, else the user''s only one; {} for none, and for one that is not the user''s. For the '
    'gateway itself only.';

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

-- Who may do what ---------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;

revoke all on function public.find_policy(jsonb, uuid) from public, anon, authenticated, service_role;
grant execute on function public.find_policy(jsonb, uuid) to service_role, authenticator;
