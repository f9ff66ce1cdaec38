-- Tenants and who belongs to them.

create table public.organizations (
    id uuid primary key default gateway.uuid_v7(),
    name text not null check (char_length(name) between 1 and 100 and name !~ '[[:cntrl:]]'),
    slug text not null unique check (char_length(slug) <= 63 and slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
    clerk_organization_id text unique check (clerk_organization_id ~ '^[A-Za-z0-9_-]{1,255}$'),
    is_active boolean not null default true,
    default_workflow_id uuid,
    auth_policy text not null default 'AUTH_POLICY_JWT'
        check (auth_policy in ('AUTH_POLICY_JWT', 'AUTH_POLICY_SIGNED_KEY', 'AUTH_POLICY_JWT_AND_SIGNED')),
    fingerprint_policy text not null default 'FINGERPRINT_POLICY_LOG' check (
        fingerprint_policy in ('FINGERPRINT_POLICY_LOG', 'FINGERPRINT_POLICY_CHALLENGE', 'FINGERPRINT_POLICY_DENY')
    ),
    minimum_signature_version integer not null default 0 check (minimum_signature_version between 0 and 2),
    rate_limit_requests integer check (rate_limit_requests between 0 and 1000000),
    rate_limit_period_seconds integer check (rate_limit_period_seconds between 0 and 86400),
    max_concurrent_executions integer not null default 0 check (max_concurrent_executions between 0 and 100000),
    max_open_streams integer not null default 0 check (max_open_streams between 0 and 100000),
    low_balance_threshold integer not null default 0 check (low_balance_threshold >= 0),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint organizations_rate_limit_check
        check ((rate_limit_requests is null) = (rate_limit_period_seconds is null))
);
comment on table public.organizations is 'Tenants: every other row belongs to exactly one.';
comment on column public.organizations.clerk_organization_id is
    'Clerk organization whose session tokens act for this one; null when Clerk does not know it.';
comment on column public.organizations.default_workflow_id is 'Workflow that runs when a call names none.';

create table public.organization_members (
    organization_id uuid not null references public.organizations (id),
    profile_id text not null references public.profiles (id),
    role text not null check (
        role in ('MEMBER_ROLE_OWNER', 'MEMBER_ROLE_ADMIN', 'MEMBER_ROLE_MEMBER', 'MEMBER_ROLE_VIEWER')
    ),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, profile_id)
);
create index organization_members_profile_idx on public.organization_members (profile_id, organization_id);
comment on table public.organization_members is
    'Members by invitation. A token of the organization''s Clerk organization makes a member, too, without a row.';

-- Who the caller is to an organization ------------------------------------------------------------------------

-- These three have no search_path of their own, so that Postgres can inline them; they name nothing but operators.

create function gateway.clerk_organization(p_claims jsonb) returns text
language sql immutable
as $$
    select coalesce(p_claims -> 'o' ->> 'id', p_claims ->> 'org_id')
$$;
comment on function gateway.clerk_organization(jsonb) is
    'The Clerk organization of a token (version 2 or 1 of Clerk''s claims); null when it has none.';

create function gateway.clerk_role(p_claims jsonb) returns text
language sql immutable
as $$
    select case coalesce(p_claims -> 'o' ->> 'rol', p_claims ->> 'org_role')
        when 'admin' then 'MEMBER_ROLE_ADMIN'
        when 'org:admin' then 'MEMBER_ROLE_ADMIN'
        else 'MEMBER_ROLE_MEMBER'
    end
$$;
comment on function gateway.clerk_role(jsonb) is 'What a token''s role in its Clerk organization is worth here.';

create function gateway.role_rank(p_role text) returns integer
language sql immutable
as $$
    select case p_role
        when 'MEMBER_ROLE_OWNER' then 4
        when 'MEMBER_ROLE_ADMIN' then 3
        when 'MEMBER_ROLE_MEMBER' then 2
        when 'MEMBER_ROLE_VIEWER' then 1
    end
$$;
comment on function gateway.role_rank(text) is 'Roles in order: each may do all that the lower ones may.';

create function gateway.caller_organizations() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_claims jsonb := auth.jwt();
begin
    return array(
        select m.organization_id from public.organization_members m where m.profile_id = v_claims ->> 'sub'
        union
        select o.id from public.organizations o
        where o.clerk_organization_id = gateway.clerk_organization(v_claims) and v_claims ->> 'sub' is not null
    );
end
$$;
comment on function gateway.caller_organizations() is
    'Organizations that the caller belongs to in any role; what policies compare with, once a statement.';

create function gateway.own_organization() returns uuid
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_clerk_organization text := gateway.clerk_organization(auth.jwt());
    v_id uuid;
    v_ids uuid[];
begin
    if v_clerk_organization is not null then
        select o.id into v_id from public.organizations o where o.clerk_organization_id = v_clerk_organization;
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
comment on function gateway.own_organization() is
    'The organization of a call that names none: that of the token''s Clerk organization, else the caller''s only one, '
    'else GW400.';

create function gateway.authorize(p_organization_id uuid, p_role text) returns public.organizations
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_claims jsonb := auth.jwt();
    v_subject text := gateway.caller_id();
    v_id uuid := coalesce(p_organization_id, gateway.own_organization());
    v_found record;
begin
    select
        o as organization,
        coalesce(m.role, case
            when o.clerk_organization_id = gateway.clerk_organization(v_claims) then gateway.clerk_role(v_claims)
        end) as role
    into v_found
    from public.organizations o
    left join public.organization_members m on m.organization_id = o.id and m.profile_id = v_subject
    where o.id = v_id;
    if v_found.role is null then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    if gateway.role_rank(v_found.role) < gateway.role_rank(p_role) then
        perform gateway.fail(
            'GW403', 'ROLE_INSUFFICIENT', 'The caller''s role in the organization does not allow this.',
            jsonb_build_object('role', v_found.role, 'required_role', p_role)
        );
    end if;
    if not (v_found.organization).is_active then
        perform gateway.fail('GW412', 'ORGANIZATION_INACTIVE', 'The organization is not active.');
    end if;
    return v_found.organization;
end
$$;
comment on function gateway.authorize(uuid, text) is
    'The organization (null: as own_organization finds it) if the caller has at least this role in it. A row of '
    'organization_members decides before the token''s role. GW404 for who is no member, GW403 for too low a role, '
    'GW412 when the organization is not active.';

-- Operations --------------------------------------------------------------------------------------------------

create function gateway.organization_json(p_row public.organizations) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'id', p_row.id,
        'name', p_row.name,
        'slug', p_row.slug,
        'clerk_organization_id', p_row.clerk_organization_id,
        'is_active', p_row.is_active,
        'default_workflow_id', p_row.default_workflow_id,
        'auth_policy', p_row.auth_policy,
        'fingerprint_policy', p_row.fingerprint_policy,
        'minimum_signature_version', p_row.minimum_signature_version,
        'rate_limit', case when p_row.rate_limit_requests is not null then jsonb_build_object(
            'requests', p_row.rate_limit_requests, 'period_seconds', p_row.rate_limit_period_seconds
        ) end,
        'max_concurrent_executions', p_row.max_concurrent_executions,
        'max_open_streams', p_row.max_open_streams,
        'low_balance_threshold', p_row.low_balance_threshold,
        'created_at', p_row.created_at,
        'updated_at', p_row.updated_at
    );
end
$$;
comment on function gateway.organization_json(public.organizations) is 'ProtoJSON of n8ngateway.v1.Organization.';

create function gateway.free_slug(p_name text) returns text
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_slug text := trim(both '-' from left(regexp_replace(lower(coalesce(p_name, '')), '[^a-z0-9]+', '-', 'g'), 54));
begin
    if v_slug = '' then
        v_slug := 'organization';
    elsif not exists (select from public.organizations o where o.slug = v_slug) then
        return v_slug;
    end if;
    return v_slug || '-' || left(gen_random_uuid()::text, 8);
end
$$;
comment on function gateway.free_slug(text) is 'A slug like the name, told apart by a suffix if it is taken.';

create function gateway.claimable_clerk_organization(p_requested text) returns text
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_claims jsonb := auth.jwt();
    v_own text := gateway.clerk_organization(v_claims);
begin
    if gateway.clerk_role(v_claims) <> 'MEMBER_ROLE_ADMIN' then
        v_own := null;
    end if;
    if p_requested <> coalesce(v_own, '') then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A Clerk organization can only be bound by one of its administrators.',
            p_fields => '{"clerk_organization_id": "must be that of the session token, or empty"}'
        );
    end if;
    if exists (select from public.organizations o where o.clerk_organization_id = v_own) then
        if p_requested is not null then
            perform gateway.fail(
                'GW409', 'ALREADY_EXISTS', 'The Clerk organization is bound to an organization already.',
                p_fields => '{"clerk_organization_id": "is taken"}'
            );
        end if;
        return null;
    end if;
    return v_own;
end
$$;
comment on function gateway.claimable_clerk_organization(text) is
    'The Clerk organization of the token, if its holder administers it and it is bound to none yet; else null. '
    'GW400 when another one is asked for, GW409 when it is asked for and taken.';

create function public.create_organization(p_organization jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_profile text := gateway.ensure_profile();
    v_slug text := nullif(p_organization ->> 'slug', '');
    v_row public.organizations;
    v_constraint text;
begin
    insert into public.organizations (
        name, slug, clerk_organization_id, is_active, auth_policy, fingerprint_policy, minimum_signature_version,
        max_concurrent_executions, max_open_streams, low_balance_threshold
    ) values (
        coalesce(p_organization ->> 'name', ''),
        coalesce(v_slug, gateway.free_slug(p_organization ->> 'name')),
        gateway.claimable_clerk_organization(nullif(p_organization ->> 'clerk_organization_id', '')),
        coalesce((p_organization ->> 'is_active')::boolean, true),
        coalesce(nullif(p_organization ->> 'auth_policy', 'AUTH_POLICY_UNSPECIFIED'), 'AUTH_POLICY_JWT'),
        coalesce(
            nullif(p_organization ->> 'fingerprint_policy', 'FINGERPRINT_POLICY_UNSPECIFIED'), 'FINGERPRINT_POLICY_LOG'
        ),
        coalesce((p_organization ->> 'minimum_signature_version')::integer, 0),
        coalesce((p_organization ->> 'max_concurrent_executions')::integer, 0),
        coalesce((p_organization ->> 'max_open_streams')::integer, 0),
        coalesce((p_organization ->> 'low_balance_threshold')::integer, 0)
    ) returning * into v_row;
    insert into public.organization_members (organization_id, profile_id, role)
    values (v_row.id, v_profile, 'MEMBER_ROLE_OWNER');
    insert into public.credit_accounts (organization_id) values (v_row.id);
    return gateway.organization_json(v_row);
exception when unique_violation then
    get stacked diagnostics v_constraint = constraint_name;
    perform gateway.fail(
        'GW409', 'ALREADY_EXISTS', 'Another organization has this already.',
        p_fields => case v_constraint
            when 'organizations_clerk_organization_id_key' then '{"clerk_organization_id": "is taken"}'
            else '{"slug": "is taken"}'
        end::jsonb
    );
end
$$;
comment on function public.create_organization(jsonb) is
    'Organization -> Organization (ProtoJSON, proto field names). The caller becomes its owner; its balance is 0.';

create function public.list_organizations(p_after uuid default null, p_limit integer default null) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    v_limit integer := gateway.page_size(p_limit);
    v_rows jsonb[];
begin
    select array_agg(gateway.organization_json(page) order by page.id) into v_rows
    from (
        select o.* from public.organizations o
        where o.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
        order by o.id limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'organizations', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_organizations(uuid, integer) is
    'The caller''s organizations, oldest first: {"organizations": [Organization], "next": last id, null at the end}.';

create function public.get_organization(p_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    v_row public.organizations;
begin
    select o.* into v_row from public.organizations o where o.id = p_id;
    if not found then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    return gateway.organization_json(v_row);
end
$$;
comment on function public.get_organization(uuid) is 'Organization, also when it is not active; GW404.';

-- Who may do what ---------------------------------------------------------------------------------------------

alter table public.organizations enable row level security;
alter table public.organization_members enable row level security;
revoke all on table public.organizations, public.organization_members
    from public, anon, authenticated, service_role;
grant select on table public.organizations, public.organization_members to authenticated, service_role;
create policy organizations_read on public.organizations for select to authenticated
    using (id = any ((select gateway.caller_organizations())::uuid[]));
create policy organization_members_read on public.organization_members for select to authenticated
    using (organization_id = any ((select gateway.caller_organizations())::uuid[]));

revoke all on all functions in schema gateway from public;
grant execute on function
    gateway.caller_organizations(), gateway.authorize(uuid, text), gateway.organization_json(public.organizations)
    to authenticated, service_role;

revoke all on function
    public.create_organization(jsonb), public.list_organizations(uuid, integer), public.get_organization(uuid)
    from public, anon, authenticated, service_role;
grant execute on function public.create_organization(jsonb) to authenticated, authenticator;
grant execute on function public.list_organizations(uuid, integer), public.get_organization(uuid)
    to authenticated, service_role, authenticator;
