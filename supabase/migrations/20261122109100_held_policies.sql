-- What the gateway holds callers to before it decodes anything: fingerprints, and limits of the organization's own.
--
-- Which organization a user acts for is known then by X-Tenant-ID, by the token or because it is the only one, and its
-- policy is the call's. A request that names another one, or an execution of another one, would reach it held to
-- rules that are not its own. So the gateway says whose they were (x-gateway-policy, an id or "none"), and an
-- organization that has such rules is not reached on a call that was held to others.

create function gateway.is_held(p_organization public.organizations) returns boolean
language plpgsql stable set search_path = ''
as $$
begin
    return p_organization.fingerprint_policy = 'FINGERPRINT_POLICY_LOG'
        and coalesce(p_organization.rate_limit_requests, 0) = 0 and p_organization.max_open_streams = 0
        or coalesce(gateway.request_header('x-gateway-policy') = p_organization.id::text, true);
end
$$;
comment on function gateway.is_held(public.organizations) is
    'Whether a call was held to the organization''s rules, or it has none but the common ones. Calls that did not come '
    'through the gateway are held to none, and say nothing of it.';

create or replace function gateway.caller_organizations() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_tenant text := gateway.request_header('x-gateway-tenant');
    v_ids uuid[] := gateway.caller_memberships();
begin
    return array(
        select o.id from public.organizations o
        where o.id = any (v_ids) and o.id::text = coalesce(v_tenant, o.id::text)
            and (
                o.auth_policy = 'AUTH_POLICY_JWT'
                or gateway.meets_policy(o, gateway.caller_role(o.id), auth.jwt())
            )
            and gateway.is_held(o)
    );
end
$$;
comment on function gateway.caller_organizations() is
    'Organizations that the caller belongs to, in any role, and acts for: whose policy it meets and is held to, and only '
    'the one that the call names, if it names one. What policies compare with, once a statement.';

create or replace function gateway.authorize(p_organization_id uuid, p_role text, p_inactive boolean default false)
    returns public.organizations
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_is_platform boolean := current_setting('role', true) is not distinct from 'service_role';
    v_claims jsonb := auth.jwt();
    v_subject text := case when not v_is_platform then gateway.caller_id() end;
    v_id uuid := coalesce(p_organization_id, case when not v_is_platform then gateway.own_organization() end);
    v_key uuid := gateway.key_organization(v_claims);
    v_found record;
begin
    select
        o as organization,
        case
            when v_is_platform then 'MEMBER_ROLE_OWNER'
            when v_key is not null then case when o.id = v_key then 'MEMBER_ROLE_MEMBER' end
            when m.role is not null then m.role
            when o.clerk_organization_id = gateway.clerk_organization(v_claims) then gateway.token_role(o.id, v_claims)
        end as role
    into v_found
    from public.organizations o
    left join public.organization_members m
        on m.organization_id = o.id and m.profile_id = v_subject and not m.is_external
    where o.id = v_id and o.id::text = coalesce(gateway.request_header('x-gateway-tenant'), o.id::text);
    if v_found.role is null then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    if not (v_is_platform or gateway.meets_policy(v_found.organization, v_found.role, v_claims))
        -- MEMBER is asked for by what begins and cancels runs: there only keys do, whoever administrates.
        or p_role = 'MEMBER_ROLE_MEMBER' and not v_is_platform and v_key is null
            and (v_found.organization).auth_policy = 'AUTH_POLICY_SIGNED_KEY'
    then
        perform gateway.fail(
            'GW403', 'AUTH_POLICY', 'The organization asks its callers for more than this call presents.',
            jsonb_build_object('auth_policy', (v_found.organization).auth_policy)
        );
    end if;
    if not (v_is_platform or v_key is not null or gateway.is_held(v_found.organization)) then
        perform gateway.fail(
            'GW400', 'TENANT_REQUIRED', 'The organization has rules of its own for its callers, and has to be named.',
            p_fields => '{"X-Tenant-ID": "is needed, because the call is made for another organization or for none"}'
        );
    end if;
    if gateway.role_rank(v_found.role) < gateway.role_rank(p_role) then
        perform gateway.fail(
            'GW403', 'ROLE_INSUFFICIENT', 'The caller''s role in the organization does not allow this.',
            jsonb_build_object('role', v_found.role, 'required_role', p_role)
        );
    end if;
    if not (p_inactive or (v_found.organization).is_active) then
        perform gateway.fail('GW412', 'ORGANIZATION_INACTIVE', 'The organization is not active.');
    end if;
    return v_found.organization;
end
$$;
comment on function gateway.authorize(uuid, text, boolean) is
    'The organization (null: as own_organization finds it) if the caller has at least this role in it; an API key has '
    'MEMBER in its own, the platform OWNER in the one that it names. A row of organization_members decides before the '
    'token''s role. GW404 for who is no member, and for another one than the call''s tenant, GW400 for a call that was '
    'held to another one''s rules, GW403 for too low a role and for a call that does not meet the organization''s '
    'policy, GW412 when it is not active and p_inactive does not allow that.';

revoke all on all functions in schema gateway from public;
