-- Who calls, found out in fewer steps: most of what a read costs is what row-level security asks about the caller.
--
-- What costs is not the data but each expression of PL/pgSQL, which is made ready once a transaction, each call of a
-- function that cannot be inlined, and each time the claims are parsed. So a function parses them once and hands them
-- on, what a column decides is asked before a function is called, and what is one expression is a function in SQL
-- without settings, which Postgres inlines.

-- Inlined ------------------------------------------------------------------------------------------------------------

create function gateway.living_key_organization(p_claims jsonb) returns uuid
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization_id uuid;
begin
    select k.organization_id into v_organization_id from public.api_keys k
    where k.id = (p_claims ->> 'key_id')::uuid
        and p_claims ->> 'sub' = 'key:' || (p_claims ->> 'key_id')
        and k.organization_id = (p_claims ->> 'organization_id')::uuid
        and k.revoked_at is null and (k.expires_at is null or k.expires_at > now());
    if not found then
        perform gateway.fail('GW401', 'API_KEY_INVALID', 'The API key is not valid any more.');
    end if;
    return v_organization_id;
end
$$;
comment on function gateway.living_key_organization(jsonb) is
    'Organization of the API key that the claims are those of; fails with GW401 when it is not valid any more.';

create or replace function gateway.key_organization(p_claims jsonb) returns uuid
language sql stable
as $$
    select case when starts_with(p_claims ->> 'sub', 'key:') then gateway.living_key_organization(p_claims) end
$$;
comment on function gateway.key_organization(jsonb) is
    'Organization of the API key that calls, as living_key_organization finds it; null when it is no key that calls.';

create or replace function gateway.is_held(p_organization public.organizations) returns boolean
language sql stable
as $$
    select p_organization.fingerprint_policy = 'FINGERPRINT_POLICY_LOG'
        and coalesce(p_organization.rate_limit_requests, 0) = 0 and p_organization.max_open_streams = 0
        or coalesce(gateway.request_header('x-gateway-policy') = p_organization.id::text, true)
$$;

create or replace function gateway.workflow_json(p_row public.workflows) returns jsonb
language sql stable
as $$
    select jsonb_build_object(
        'id', p_row.id,
        'organization_id', p_row.organization_id,
        'name', p_row.name,
        'description', p_row.description,
        'n8n_workflow_id', p_row.n8n_workflow_id,
        'webhook_path', p_row.webhook_path,
        'credits_per_execution', p_row.credits_per_execution,
        'pricing_mode', p_row.pricing_mode,
        'credits_per_unit', p_row.credits_per_unit,
        'response_mode', p_row.response_mode,
        'credential_mode', p_row.credential_mode,
        'concurrency_limit', p_row.concurrency_limit,
        'is_idempotent', p_row.is_idempotent,
        'unknown_outcome_policy', p_row.unknown_outcome_policy,
        'timeout_seconds', p_row.timeout_seconds,
        'idle_timeout_seconds', p_row.idle_timeout_seconds,
        'is_active', p_row.is_active,
        'created_at', p_row.created_at,
        'updated_at', p_row.updated_at,
        'archived_at', p_row.archived_at
    )
$$;

-- What policies compare with -----------------------------------------------------------------------------------------

create function gateway.memberships(p_claims jsonb) returns uuid[]
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'auto'
as $$
declare
    v_key_organization uuid := gateway.key_organization(p_claims);
    v_subject text := p_claims ->> 'sub';
    v_clerk_organization text := gateway.clerk_organization(p_claims);
begin
    if v_key_organization is not null then
        return array[v_key_organization];
    end if;
    return array(
        select m.organization_id from public.organization_members m
        where m.profile_id = v_subject and not m.is_external
        union all
        select o.id from public.organizations o
        where o.clerk_organization_id = v_clerk_organization and v_subject is not null
    );
end
$$;
comment on function gateway.memberships(jsonb) is
    'Organizations that who has these claims belongs to in any role; one of them may stand there twice.';

create or replace function gateway.caller_memberships() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
begin
    return gateway.memberships(auth.jwt());
end
$$;

create or replace function gateway.caller_organizations() returns uuid[]
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'auto'
as $$
declare
    v_claims jsonb := auth.jwt();
    v_tenant text := gateway.request_header('x-gateway-tenant');
    v_ids uuid[] := gateway.memberships(v_claims);
begin
    return array(
        select o.id from public.organizations o
        where o.id = any (v_ids) and (v_tenant is null or o.id::text = v_tenant)
            and (
                o.auth_policy = 'AUTH_POLICY_JWT'
                or gateway.meets_policy(o, gateway.caller_role(o.id), v_claims)
            )
            and gateway.is_held(o)
    );
end
$$;

create or replace function gateway.caller_workflows() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_claims jsonb := auth.jwt();
begin
    if gateway.key_organization(v_claims) is null or jsonb_typeof(v_claims -> 'workflow_ids') is distinct from 'array'
    then
        return null;
    end if;
    return array(select w::uuid from jsonb_array_elements_text(v_claims -> 'workflow_ids') w);
end
$$;

-- The caller's right to an organization ------------------------------------------------------------------------------

drop function gateway.own_organization();

create function gateway.own_organization(p_tenant text, p_clerk_organization text) returns uuid
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'auto'
as $$
declare
    v_id uuid;
    v_ids uuid[];
begin
    if p_tenant is not null then
        return p_tenant::uuid;
    end if;
    if p_clerk_organization is not null then
        select o.id into v_id from public.organizations o where o.clerk_organization_id = p_clerk_organization;
        if found then
            return v_id;
        end if;
    end if;
    v_ids := gateway.caller_organizations();
    if cardinality(v_ids) <> 1 then
        perform gateway.fail(
            'GW400', 'ORGANIZATION_REQUIRED', 'The call does not say for which organization it is made.',
            p_fields => '{"organization_id": "is needed, because the caller does not belong to exactly one"}'
        );
    end if;
    return v_ids[1];
end
$$;
comment on function gateway.own_organization(text, text) is
    'The organization of a request that names none: the call''s tenant, else that of the token''s Clerk organization, '
    'else the caller''s only one, else GW400.';

create or replace function gateway.authorize(p_organization_id uuid, p_role text, p_inactive boolean default false)
    returns public.organizations
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'auto'
as $$
declare
    v_is_platform boolean := current_setting('role', true) is not distinct from 'service_role';
    v_claims jsonb := auth.jwt();
    v_subject text := v_claims ->> 'sub';
    v_clerk_organization text := gateway.clerk_organization(v_claims);
    v_tenant text := gateway.request_header('x-gateway-tenant');
    v_key uuid;
    v_id uuid := p_organization_id;
    v_found record;
begin
    if not v_is_platform then
        if coalesce(v_subject, '') = '' then
            perform gateway.caller_id();  -- says that there is none
        end if;
        v_key := gateway.key_organization(v_claims);
        if v_id is null then
            v_id := gateway.own_organization(v_tenant, v_clerk_organization);
        end if;
    end if;
    select
        o as organization,
        o.auth_policy,
        o.is_active,
        v_is_platform or v_key is not null or gateway.is_held(o) as is_held,
        case
            when v_is_platform then 'MEMBER_ROLE_OWNER'
            when v_key is not null then case when o.id = v_key then 'MEMBER_ROLE_MEMBER' end
            when m.role is not null then m.role
            when o.clerk_organization_id = v_clerk_organization then gateway.token_role(o.id, v_claims)
        end as role
    into v_found
    from public.organizations o
    left join public.organization_members m
        on m.organization_id = o.id and m.profile_id = v_subject and not m.is_external
    where o.id = v_id and (v_tenant is null or o.id::text = v_tenant);
    if v_found.role is null then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    if v_found.auth_policy <> 'AUTH_POLICY_JWT' and not v_is_platform and (
        not gateway.meets_policy(v_found.organization, v_found.role, v_claims)
        -- MEMBER is asked for by what begins and cancels runs: there only keys do, whoever administrates.
        or p_role = 'MEMBER_ROLE_MEMBER' and v_key is null and v_found.auth_policy = 'AUTH_POLICY_SIGNED_KEY'
    ) then
        perform gateway.fail(
            'GW403', 'AUTH_POLICY', 'The organization asks its callers for more than this call presents.',
            jsonb_build_object('auth_policy', v_found.auth_policy)
        );
    end if;
    if not v_found.is_held then
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
    if not (p_inactive or v_found.is_active) then
        perform gateway.fail('GW412', 'ORGANIZATION_INACTIVE', 'The organization is not active.');
    end if;
    return v_found.organization;
end
$$;

-- Lists --------------------------------------------------------------------------------------------------------------

create function gateway.page(p_name text, p_rows jsonb[], p_limit integer) returns jsonb
language plpgsql immutable set search_path = ''
as $$
begin
    return jsonb_build_object(
        p_name, to_jsonb(p_rows[1:p_limit]),
        'next', case when cardinality(p_rows) > p_limit then p_rows[p_limit] -> 'id' end
    );
end
$$;
comment on function gateway.page(text, jsonb[], integer) is
    'A page of a list that was read one row further: {<name>: [rows], "next": last id, null at the end}.';

create or replace function public.list_workflows(
    p_organization_id uuid default null, p_after uuid default null, p_limit integer default null,
    p_active boolean default null, p_archived boolean default false
) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER');
    v_limit integer := gateway.page_size(p_limit);
begin
    return gateway.page('workflows', array(
        select gateway.workflow_json(w) from public.workflows w
        where w.organization_id = v_organization.id
            and w.id < coalesce(p_after, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            and (p_archived or w.archived_at is null)
            and (p_active is null or w.is_active = p_active)
        order by w.id desc limit v_limit + 1
    ), v_limit);
end
$$;

-- Who may do what ----------------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;
grant execute on function gateway.page(text, jsonb[], integer) to authenticated, service_role;
