-- Who the caller is, held more tightly.
--
--   * An API key counts while it lives, whoever made the token that speaks of it.
--   * A call that names its tenant (X-Tenant-ID) finds nothing outside of it.
--   * A role that an organization gave to a user of its Clerk organization bounds what Clerk's role is worth, also
--     after the membership has ended: nobody rises by leaving.

-- API keys ----------------------------------------------------------------------------------------------------

create or replace function gateway.key_organization(p_claims jsonb) returns uuid
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization_id uuid;
begin
    if starts_with(p_claims ->> 'sub', 'key:') is not true then
        return null;
    end if;
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
comment on function gateway.key_organization(jsonb) is
    'The organization of the API key that these claims were made for; null for users. GW401 for a key that there is '
    'not, or that was revoked or has expired. A session token whose subject begins with "key:" is refused.';

-- Tenants -----------------------------------------------------------------------------------------------------

create function gateway.caller_memberships() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_claims jsonb := auth.jwt();
    v_key_organization uuid := gateway.key_organization(v_claims);
begin
    if v_key_organization is not null then
        return array[v_key_organization];
    end if;
    return array(
        select m.organization_id from public.organization_members m
        where m.profile_id = v_claims ->> 'sub' and not m.is_external
        union
        select o.id from public.organizations o
        where o.clerk_organization_id = gateway.clerk_organization(v_claims) and v_claims ->> 'sub' is not null
    );
end
$$;
comment on function gateway.caller_memberships() is 'Organizations that the caller belongs to in any role.';

create or replace function gateway.caller_organizations() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_tenant text := gateway.request_header('x-gateway-tenant');
    v_ids uuid[] := gateway.caller_memberships();
begin
    if v_tenant is null then
        return v_ids;
    end if;
    return array(select i from unnest(v_ids) i where i::text = v_tenant);
end
$$;
comment on function gateway.caller_organizations() is
    'Organizations that the caller belongs to, in any role, and acts for: only the one that the call names, if it names '
    'one. What policies compare with, once a statement.';

-- To list them is to choose one.
drop policy organizations_read on public.organizations;
create policy organizations_read on public.organizations for select to authenticated
    using (id = any ((select gateway.caller_memberships())::uuid[]));

create or replace function gateway.own_organization() returns uuid
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_tenant text := gateway.request_header('x-gateway-tenant');
    v_clerk_organization text := gateway.clerk_organization(auth.jwt());
    v_id uuid;
    v_ids uuid[];
begin
    if v_tenant is not null then
        return v_tenant::uuid;
    end if;
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
    'The organization of a request that names none: the call''s tenant, else that of the token''s Clerk organization, '
    'else the caller''s only one, else GW400.';

-- Roles -------------------------------------------------------------------------------------------------------

create table public.role_limits (
    organization_id uuid not null references public.organizations (id),
    profile_id text not null references public.profiles (id),
    role text not null check (role in ('MEMBER_ROLE_ADMIN', 'MEMBER_ROLE_MEMBER', 'MEMBER_ROLE_VIEWER')),
    created_at timestamptz not null default now(),
    primary key (organization_id, profile_id)
);
create index role_limits_profile_idx on public.role_limits (profile_id);
comment on table public.role_limits is
    'The most that a token of the organization''s Clerk organization is worth to a user; gives nothing by itself.';

create function gateway.token_role(p_organization_id uuid, p_claims jsonb) returns text
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_role text := gateway.clerk_role(p_claims);
    v_limit text;
begin
    select l.role into v_limit from public.role_limits l
    where l.organization_id = p_organization_id and l.profile_id = p_claims ->> 'sub';
    return case when gateway.role_rank(v_limit) < gateway.role_rank(v_role) then v_limit else v_role end;
end
$$;
comment on function gateway.token_role(uuid, jsonb) is
    'What a token of the organization''s Clerk organization is worth to its user: Clerk''s role, at most the limit.';

create or replace function gateway.authorize(p_organization_id uuid, p_role text, p_inactive boolean default false)
    returns public.organizations
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_claims jsonb := auth.jwt();
    v_subject text := gateway.caller_id();
    v_id uuid := coalesce(p_organization_id, gateway.own_organization());
    v_key uuid := gateway.key_organization(v_claims);
    v_found record;
begin
    select
        o as organization,
        case
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
    'MEMBER in its own. A row of organization_members decides before the token''s role. GW404 for who is no member, '
    'and for another one than the call''s tenant, GW403 for too low a role, GW412 when the organization is not active '
    'and p_inactive does not allow that.';

create or replace function gateway.caller_role(p_organization_id uuid) returns text
language plpgsql stable security definer set search_path = ''
as $$
begin
    return coalesce(
        (
            select m.role from public.organization_members m
            where m.organization_id = p_organization_id and m.profile_id = auth.jwt() ->> 'sub' and not m.is_external
        ),
        gateway.token_role(p_organization_id, auth.jwt())
    );
end
$$;

create or replace function gateway.member_json(p_row public.organization_members) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    return jsonb_build_object(
        'organization_id', p_row.organization_id,
        'profile_id', p_row.profile_id,
        'role', coalesce(
            (
                select l.role from public.role_limits l
                where p_row.is_external and l.organization_id = p_row.organization_id
                    and l.profile_id = p_row.profile_id and gateway.role_rank(l.role) < gateway.role_rank(p_row.role)
            ),
            p_row.role
        ),
        -- To itself alone: whoever adds a member by its id must not learn an address by that.
        'email', (
            select p.email from public.profiles p
            where p.id = p_row.profile_id and p.id = auth.jwt() ->> 'sub'
        ),
        'is_external', p_row.is_external,
        'created_at', p_row.created_at,
        'updated_at', p_row.updated_at
    );
end
$$;

create or replace function gateway.member_to_change(p_organization_id uuid, p_profile_id text, p_role text)
    returns public.organization_members
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(
        p_organization_id,
        case
            when p_role is null and p_profile_id = gateway.caller_id() then 'MEMBER_ROLE_VIEWER'
            else 'MEMBER_ROLE_ADMIN'
        end,
        -- What takes rights away works also while the organization is not active.
        p_inactive => p_role is null
    );
    v_row public.organization_members;
begin
    -- One change at a time for each organization, so that two owners cannot both go.
    perform from public.organizations o where o.id = v_organization.id for no key update;
    select m.* into v_row from public.organization_members m
    where m.organization_id = v_organization.id and m.profile_id = p_profile_id;
    if not found then
        perform gateway.no_such_member();
    elsif v_row.is_external and (p_role is null or gateway.role_rank(p_role) > gateway.role_rank(v_row.role)) then
        perform gateway.fail(
            'GW412', 'MEMBER_EXTERNAL',
            'The identity provider decides on this membership: its role can only be lowered here.'
        );
    end if;
    if greatest(gateway.role_rank(v_row.role), gateway.role_rank(p_role))
        > gateway.role_rank(gateway.caller_role(v_organization.id)) then
        perform gateway.fail(
            'GW403', 'ROLE_INSUFFICIENT', 'Nobody can give or take a role above its own.',
            jsonb_build_object('role', gateway.caller_role(v_organization.id), 'required_role', 'MEMBER_ROLE_OWNER')
        );
    end if;
    if v_row.role = 'MEMBER_ROLE_OWNER' and p_role is distinct from 'MEMBER_ROLE_OWNER' and not exists (
        select from public.organization_members m
        where m.organization_id = v_organization.id and m.profile_id <> p_profile_id
            and m.role = 'MEMBER_ROLE_OWNER' and not m.is_external
    ) then
        perform gateway.fail('GW412', 'LAST_OWNER', 'An organization cannot lose its last owner.');
    end if;
    return v_row;
end
$$;
comment on function gateway.member_to_change(uuid, text, text) is
    'The member, if the caller may give it this role (null: end the membership, which everybody may for itself). '
    'GW403 for roles above the caller''s, GW404, GW412 for the last owner, and for who belongs by its token unless its '
    'role is lowered.';

create or replace function public.update_member(p_organization_id uuid, p_profile_id text, p_role text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.organization_members := gateway.member_to_change(
        p_organization_id, p_profile_id, coalesce(p_role, '')
    );
begin
    if v_row.is_external then
        if p_role is distinct from gateway.member_json(v_row) ->> 'role' then
            insert into public.role_limits as l (organization_id, profile_id, role)
            values (v_row.organization_id, v_row.profile_id, p_role)
            on conflict (organization_id, profile_id) do update set role = excluded.role;
            perform gateway.audit(
                v_row.organization_id, 'member.updated', 'member', v_row.profile_id,
                jsonb_build_object('role', p_role)
            );
        end if;
    elsif v_row.role is distinct from p_role then
        update public.organization_members m set role = p_role, updated_at = now()
        where m.organization_id = v_row.organization_id and m.profile_id = v_row.profile_id
        returning * into v_row;
    end if;
    return gateway.member_json(v_row);
end
$$;
comment on function public.update_member(uuid, text, text) is
    'Gives a member another role -> Member, for admins. Who belongs by its token can be given less than that says, and '
    'as much again.';

create or replace function public.remove_member(p_organization_id uuid, p_profile_id text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.organization_members := gateway.member_to_change(p_organization_id, p_profile_id, null);
begin
    delete from public.organization_members m
    where m.organization_id = v_row.organization_id and m.profile_id = v_row.profile_id;
    insert into public.role_limits (organization_id, profile_id, role)
    select v_row.organization_id, v_row.profile_id, v_row.role from public.organizations o
    where o.id = v_row.organization_id and o.clerk_organization_id is not null
        and v_row.role in ('MEMBER_ROLE_MEMBER', 'MEMBER_ROLE_VIEWER')
    on conflict (organization_id, profile_id) do update set role = excluded.role;
    return '{}';
end
$$;
comment on function public.remove_member(uuid, text) is
    'Ends a membership -> {}, for admins, and for the member itself. Whom Clerk''s organization makes a member all the '
    'same has no more than the role that ended, until an admin says otherwise.';

-- Who may do what ---------------------------------------------------------------------------------------------

alter table public.role_limits enable row level security;
revoke all on table public.role_limits from public, anon, authenticated, service_role;

revoke all on all functions in schema gateway from public;
grant execute on function gateway.caller_memberships() to authenticated, service_role;
