-- A read finds out who calls in two statements, one for the function and one for its policies, and writes its page once.
--
-- Each statement within a function costs as much to make ready as its rows do to find, and each expression between two
-- statements costs more than it looks. An object in jsonb is put in order when it is built, taken apart for the page
-- that it goes into, and taken apart again to be printed; a json is text from the start.

-- Inlined where it has no settings.
create or replace function gateway.page_size(p_limit integer) returns integer
language sql immutable
as $$
    select least(greatest(coalesce(p_limit, 50), 1), 200)
$$;

-- What policies compare with -----------------------------------------------------------------------------------------

create or replace function gateway.caller_organizations() returns uuid[]
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'auto'
as $$
declare
    v_claims jsonb := auth.jwt();
    v_subject text := v_claims ->> 'sub';
    v_key_organization uuid := gateway.key_organization(v_claims);
    v_clerk_organization text := gateway.clerk_organization(v_claims);
    v_tenant text := gateway.request_header('x-gateway-tenant');
begin
    return array(
        select o.id from public.organizations o
        where o.id = any (
                case when v_key_organization is not null then array[v_key_organization] else array(
                    select m.organization_id from public.organization_members m
                    where m.profile_id = v_subject and not m.is_external
                    union all
                    select c.id from public.organizations c
                    where c.clerk_organization_id = v_clerk_organization and v_subject is not null
                ) end
            )
            and (v_tenant is null or o.id::text = v_tenant)
            and (
                o.auth_policy = 'AUTH_POLICY_JWT'
                or gateway.meets_policy(o, gateway.caller_role(o.id), v_claims)
            )
            and gateway.is_held(o)
    );
end
$$;

-- The caller's right to an organization ------------------------------------------------------------------------------

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
    v_found record;
begin
    if not v_is_platform then
        if coalesce(v_subject, '') = '' then
            perform gateway.caller_id();  -- says that there is none
        end if;
        v_key := gateway.key_organization(v_claims);
    end if;
    select
        o as organization,
        o.auth_policy = 'AUTH_POLICY_JWT' or v_is_platform as is_open,
        v_is_platform or v_key is not null or gateway.is_held(o) as is_held,
        o.is_active or p_inactive as is_active,
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
    where (v_tenant is null or o.id::text = v_tenant) and o.id = case
        when p_organization_id is not null or v_is_platform then p_organization_id
        else coalesce(
            (
                select c.id from public.organizations c
                where c.clerk_organization_id = v_clerk_organization and v_tenant is null
            ),
            (select gateway.own_organization(v_tenant, v_clerk_organization))
        )
    end;
    if v_found.role is null then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    if v_found.is_open and v_found.is_held and v_found.is_active
        and gateway.role_rank(v_found.role) >= gateway.role_rank(p_role)
    then
        return v_found.organization;
    end if;
    if not v_found.is_open and (
        not gateway.meets_policy(v_found.organization, v_found.role, v_claims)
        -- MEMBER is asked for by what begins and cancels runs: there only keys do, whoever administrates.
        or p_role = 'MEMBER_ROLE_MEMBER' and v_key is null
            and (v_found.organization).auth_policy = 'AUTH_POLICY_SIGNED_KEY'
    ) then
        perform gateway.fail(
            'GW403', 'AUTH_POLICY', 'The organization asks its callers for more than this call presents.',
            jsonb_build_object('auth_policy', (v_found.organization).auth_policy)
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
    if not v_found.is_active then
        perform gateway.fail('GW412', 'ORGANIZATION_INACTIVE', 'The organization is not active.');
    end if;
    return v_found.organization;
end
$$;

-- Lists --------------------------------------------------------------------------------------------------------------

drop function public.list_workflows(uuid, uuid, integer, boolean, boolean);

create function public.list_workflows(
    p_organization_id uuid default null, p_after uuid default null, p_limit integer default null,
    p_active boolean default null, p_archived boolean default false
) returns json
language plpgsql stable set search_path = '' set enable_seqscan = off
as $$
declare
    v_organization_id uuid := (gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER')).id;
    v_limit integer := gateway.page_size(p_limit);
    v_rows json[] := array(
        select row_to_json(w) from public.workflows w
        where w.organization_id = v_organization_id
            and w.id < coalesce(p_after, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            and (p_archived or w.archived_at is null)
            and (p_active is null or w.is_active = p_active)
        order by w.id desc limit v_limit + 1
    );
begin
    return json_build_object(
        'workflows', v_rows[1:v_limit],
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_workflows(uuid, uuid, integer, boolean, boolean) is
    'One organization''s workflows, newest first: {"workflows": [rows], "next": last id, null at the end}; columns are '
    'named as the fields of Workflow. Only (in)active ones when p_active is given; archived ones too with p_archived.';

revoke all on all functions in schema gateway from public;
revoke all on function public.list_workflows(uuid, uuid, integer, boolean, boolean)
    from public, anon, authenticated, service_role;
grant execute on function public.list_workflows(uuid, uuid, integer, boolean, boolean) to authenticated, authenticator;
