-- Who belongs to an organization and what that allows.
--
-- What each role may do; each may do all that the ones to its right may:
--
--   owner                      admin                    member                  viewer
--   slug, activity, policies   name, default workflow   runs workflows          reads the organization,
--   owners                     members below owner                              its members, workflows,
--                              workflows                                        executions and credits;
--                              API keys                                         leaves
--                              credentials
--
-- An API key has a member's rights in its own organization alone, narrowed by its scopes and workflows. What is
-- allowed to whom function by function is docs/permissions.md, and a test holds the two together.

-- Memberships that the identity provider decides ---------------------------------------------------------------

alter table public.organization_members
    add column id uuid not null default gateway.uuid_v7(),
    add column is_external boolean not null default false,
    add constraint organization_members_id_key unique (organization_id, id);
comment on column public.organization_members.id is 'What lists go by.';
comment on column public.organization_members.is_external is
    'Seen in a token of the Clerk organization: shown to people. Rights follow from the token, not from the row.';
comment on table public.organization_members is
    'Members by invitation, and those that Clerk''s tokens have told of. Only the first have rights by their row.';

-- The caller, who may be a key ----------------------------------------------------------------------------------

create function gateway.key_organization(p_claims jsonb) returns uuid
language sql immutable
as $$
    select case
        when p_claims ->> 'sub' = 'key:' || (p_claims ->> 'key_id') then (p_claims ->> 'organization_id')::uuid
    end
$$;
comment on function gateway.key_organization(jsonb) is
    'The organization of the API key that these claims were made for; null for users. The gateway makes them from its '
    'own table; a session token whose subject begins with "key:" is refused.';

create or replace function gateway.caller_organizations() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_claims jsonb := auth.jwt();
begin
    if gateway.key_organization(v_claims) is not null then
        return array[gateway.key_organization(v_claims)];
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

drop function gateway.authorize(uuid, text);
create function gateway.authorize(p_organization_id uuid, p_role text, p_inactive boolean default false)
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
            when o.clerk_organization_id = gateway.clerk_organization(v_claims) then gateway.clerk_role(v_claims)
        end as role
    into v_found
    from public.organizations o
    left join public.organization_members m
        on m.organization_id = o.id and m.profile_id = v_subject and not m.is_external
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
    if not (p_inactive or (v_found.organization).is_active) then
        perform gateway.fail('GW412', 'ORGANIZATION_INACTIVE', 'The organization is not active.');
    end if;
    return v_found.organization;
end
$$;
comment on function gateway.authorize(uuid, text, boolean) is
    'The organization (null: as own_organization finds it) if the caller has at least this role in it; an API key has '
    'MEMBER in its own. A row of organization_members decides before the token''s role. GW404 for who is no member, '
    'GW403 for too low a role, GW412 when the organization is not active and p_inactive does not allow that.';

create or replace function gateway.ensure_profile() returns text
language plpgsql security definer set search_path = ''
as $$
declare
    v_id text := gateway.caller_id();
    v_email text := left(auth.jwt() ->> 'email', 320);
begin
    if starts_with(v_id, 'key:') then
        perform gateway.fail('GW403', 'USER_REQUIRED', 'An API key cannot do this, only a user can.');
    end if;
    if exists (
        select from public.profiles p where p.id = v_id and p.email is not distinct from coalesce(v_email, p.email)
    ) then
        return v_id;
    end if;
    insert into public.profiles as p (id, email) values (v_id, v_email)
    on conflict (id) do update set email = excluded.email, updated_at = now()
        where excluded.email is not null and p.email is distinct from excluded.email;
    return v_id;
end
$$;
comment on function gateway.ensure_profile() is
    'Makes the caller''s profile, or brings its address up to date -> id. GW403 for an API key.';

create function public.meet_caller() returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_profile text := gateway.ensure_profile();
    v_claims jsonb := auth.jwt();
    v_role text := gateway.clerk_role(v_claims);
    v_organization uuid;
begin
    select o.id into v_organization from public.organizations o
    where o.clerk_organization_id = gateway.clerk_organization(v_claims)
        and not exists (
            select from public.organization_members m
            where m.organization_id = o.id and m.profile_id = v_profile and (m.role = v_role or not m.is_external)
        );
    if found then
        insert into public.organization_members as m (organization_id, profile_id, role, is_external)
        values (v_organization, v_profile, v_role, true)
        on conflict (organization_id, profile_id) do update set role = excluded.role, updated_at = now()
            where m.is_external;
    end if;
    return jsonb_build_object('profile_id', v_profile);
end
$$;
comment on function public.meet_caller() is
    'Notes a user at first sight: its profile, and its membership in the Clerk organization of its token -> '
    '{profile_id}. Writes only what is new.';

-- Organizations -----------------------------------------------------------------------------------------------

create function public.update_organization(p_id uuid, p_changes jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_old public.organizations := gateway.authorize(
        p_id,
        case when p_changes ?| array['slug', 'is_active'] then 'MEMBER_ROLE_OWNER' else 'MEMBER_ROLE_ADMIN' end,
        p_inactive => (p_changes -> 'is_active' = 'true') is true
    );
    v_new public.organizations;
begin
    select o.* into v_old from public.organizations o where o.id = v_old.id for no key update;
    v_new := jsonb_populate_record(v_old, gateway.changed_fields(p_changes, jsonb_build_object(
        'name', '', 'slug', '', 'is_active', true, 'default_workflow_id', null
    )));
    if v_new is not distinct from v_old then
        return gateway.organization_json(v_old);
    end if;
    if v_new.default_workflow_id is distinct from v_old.default_workflow_id and not exists (
        select from public.workflows w
        where w.organization_id = v_old.id and w.id = v_new.default_workflow_id and w.archived_at is null
    ) and v_new.default_workflow_id is not null then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'The default workflow must be one of the organization''s own.',
            p_fields => '{"default_workflow_id": "is no workflow of the organization"}'
        );
    end if;
    update public.organizations o set
        name = v_new.name,
        slug = v_new.slug,
        is_active = v_new.is_active,
        default_workflow_id = v_new.default_workflow_id,
        updated_at = now()
    where o.id = v_old.id
    returning * into v_new;
    return gateway.organization_json(v_new);
exception when unique_violation then
    perform gateway.fail(
        'GW409', 'ALREADY_EXISTS', 'Another organization has this already.', p_fields => '{"slug": "is taken"}'
    );
end
$$;
comment on function public.update_organization(uuid, jsonb) is
    'Sets the fields that p_changes names (null: to the default) -> Organization, for admins; slug and is_active for '
    'owners. GW412 when it is not active, unless that is what changes.';

-- Members -----------------------------------------------------------------------------------------------------

create function gateway.member_json(p_row public.organization_members) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    return jsonb_build_object(
        'organization_id', p_row.organization_id,
        'profile_id', p_row.profile_id,
        'role', p_row.role,
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
comment on function gateway.member_json(public.organization_members) is 'ProtoJSON of n8ngateway.v1.Member.';

create function gateway.caller_role(p_organization_id uuid) returns text
language plpgsql stable security definer set search_path = ''
as $$
begin
    return coalesce(
        (
            select m.role from public.organization_members m
            where m.organization_id = p_organization_id and m.profile_id = auth.jwt() ->> 'sub' and not m.is_external
        ),
        gateway.clerk_role(auth.jwt())
    );
end
$$;
comment on function gateway.caller_role(uuid) is 'Role of a user that authorize has let in.';

create function gateway.no_such_member() returns void
language plpgsql set search_path = ''
as $$
begin
    perform gateway.fail('GW404', 'MEMBER_NOT_FOUND', 'The organization has no such member.');
end
$$;
comment on function gateway.no_such_member() is 'The one answer for a user that is no member.';

create function gateway.member_to_change(p_organization_id uuid, p_profile_id text, p_role text)
    returns public.organization_members
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(
        p_organization_id,
        case
            when p_role is null and p_profile_id = gateway.caller_id() then 'MEMBER_ROLE_VIEWER'
            else 'MEMBER_ROLE_ADMIN'
        end
    );
    v_row public.organization_members;
begin
    -- One change at a time for each organization, so that two owners cannot both go.
    perform from public.organizations o where o.id = v_organization.id for no key update;
    select m.* into v_row from public.organization_members m
    where m.organization_id = v_organization.id and m.profile_id = p_profile_id;
    if not found then
        perform gateway.no_such_member();
    elsif v_row.is_external then
        perform gateway.fail(
            'GW412', 'MEMBER_EXTERNAL', 'The identity provider decides on this membership.'
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
    'GW403 for roles above the caller''s, GW404, GW412 for the last owner and for who belongs by its token.';

create function public.add_member(p_organization_id uuid, p_profile_id text, p_role text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN');
    v_row public.organization_members;
begin
    if gateway.role_rank(p_role) > gateway.role_rank(gateway.caller_role(v_organization.id)) then
        perform gateway.fail(
            'GW403', 'ROLE_INSUFFICIENT', 'Nobody can give or take a role above its own.',
            jsonb_build_object('role', gateway.caller_role(v_organization.id), 'required_role', p_role)
        );
    end if;
    if starts_with(p_profile_id, 'key:') then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'An API key cannot be a member.', p_fields => '{"profile_id": "is no user"}'
        );
    end if;
    insert into public.profiles (id) values (p_profile_id) on conflict do nothing;
    insert into public.organization_members (organization_id, profile_id, role)
    values (v_organization.id, p_profile_id, p_role)
    returning * into v_row;
    return gateway.member_json(v_row);
exception when unique_violation then
    perform gateway.fail(
        'GW409', 'ALREADY_EXISTS', 'The user is a member already.', p_fields => '{"profile_id": "is a member already"}'
    );
end
$$;
comment on function public.add_member(uuid, text, text) is
    'Makes a user a member -> Member, for admins; owners only by owners. The user need not have been seen before.';

create function public.list_members(p_organization_id uuid, p_after uuid default null, p_limit integer default null)
    returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER');
    v_limit integer := gateway.page_size(p_limit);
    v_rows jsonb[];
    v_ids uuid[];
begin
    select array_agg(gateway.member_json(page) order by page.id), array_agg(page.id order by page.id)
    into v_rows, v_ids
    from (
        select m.* from public.organization_members m
        where m.organization_id = v_organization.id
            and m.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
        order by m.id limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'members', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_ids[v_limit] end
    );
end
$$;
comment on function public.list_members(uuid, uuid, integer) is
    'Members, oldest first: {"members": [Member], "next": id of the last row, null at the end}.';

create function public.get_member(p_organization_id uuid, p_profile_id text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER');
    v_row public.organization_members;
begin
    select m.* into v_row from public.organization_members m
    where m.organization_id = v_organization.id and m.profile_id = p_profile_id;
    if not found then
        perform gateway.no_such_member();
    end if;
    return gateway.member_json(v_row);
end
$$;
comment on function public.get_member(uuid, text) is 'Member; GW404.';

create function public.update_member(p_organization_id uuid, p_profile_id text, p_role text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.organization_members := gateway.member_to_change(
        p_organization_id, p_profile_id, coalesce(p_role, '')
    );
begin
    if v_row.role is distinct from p_role then
        update public.organization_members m set role = p_role, updated_at = now()
        where m.organization_id = v_row.organization_id and m.profile_id = v_row.profile_id
        returning * into v_row;
    end if;
    return gateway.member_json(v_row);
end
$$;
comment on function public.update_member(uuid, text, text) is 'Gives a member another role -> Member, for admins.';

create function public.remove_member(p_organization_id uuid, p_profile_id text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.organization_members := gateway.member_to_change(p_organization_id, p_profile_id, null);
begin
    delete from public.organization_members m
    where m.organization_id = v_row.organization_id and m.profile_id = v_row.profile_id;
    return '{}';
end
$$;
comment on function public.remove_member(uuid, text) is
    'Ends a membership -> {}, for admins, and for the member itself.';

-- Who may do what ---------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;
grant execute on function gateway.authorize(uuid, text, boolean) to authenticated, service_role;

revoke all on function
    public.meet_caller(), public.update_organization(uuid, jsonb), public.add_member(uuid, text, text),
    public.list_members(uuid, uuid, integer), public.get_member(uuid, text), public.update_member(uuid, text, text),
    public.remove_member(uuid, text)
    from public, anon, authenticated, service_role;
grant execute on function
    public.meet_caller(), public.update_organization(uuid, jsonb), public.add_member(uuid, text, text),
    public.list_members(uuid, uuid, integer), public.get_member(uuid, text), public.update_member(uuid, text, text),
    public.remove_member(uuid, text)
    to authenticated, authenticator;
