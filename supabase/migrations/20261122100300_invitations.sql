-- Membership by consent: an organization invites, and the user accepts or declines.
--
-- An invitation is no row of organization_members, so that whatever asks who belongs to an organization need not know
-- of invitations.

create table public.invitations (
    id uuid not null default gateway.uuid_v7(),
    organization_id uuid not null references public.organizations (id),
    profile_id text not null references public.profiles (id),
    role text not null check (
        role in ('MEMBER_ROLE_OWNER', 'MEMBER_ROLE_ADMIN', 'MEMBER_ROLE_MEMBER', 'MEMBER_ROLE_VIEWER')
    ),
    invited_by text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, profile_id)
);
create index invitations_organization_idx on public.invitations (organization_id, id);
create index invitations_profile_idx on public.invitations (profile_id, id);
comment on table public.invitations is 'Memberships that were offered and not answered; they give no rights.';
comment on column public.invitations.id is 'What lists go by.';

create function gateway.invited_member_json(p_row public.invitations) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'organization_id', p_row.organization_id,
        'profile_id', p_row.profile_id,
        'role', p_row.role,
        'email', null,
        'is_external', false,
        'is_pending', true,
        'created_at', p_row.created_at,
        'updated_at', p_row.updated_at
    );
end
$$;
comment on function gateway.invited_member_json(public.invitations) is
    'ProtoJSON of n8ngateway.v1.Member for one who has not accepted.';

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
        'is_pending', false,
        'created_at', p_row.created_at,
        'updated_at', p_row.updated_at
    );
end
$$;

create function gateway.invitation(p_organization_id uuid, p_profile_id text) returns public.invitations
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_row public.invitations;
begin
    select i.* into v_row from public.invitations i
    where i.organization_id = p_organization_id and i.profile_id = p_profile_id;
    return v_row;
end
$$;
comment on function gateway.invitation(uuid, text) is 'A user''s invitation to an organization, or null.';

create function gateway.may_give(p_organization_id uuid, p_role text) returns void
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_own text := gateway.caller_role(p_organization_id);
begin
    if gateway.role_rank(p_role) > gateway.role_rank(v_own) then
        perform gateway.fail(
            'GW403', 'ROLE_INSUFFICIENT', 'Nobody can give or take a role above its own.',
            jsonb_build_object('role', v_own, 'required_role', p_role)
        );
    end if;
end
$$;
comment on function gateway.may_give(uuid, text) is 'GW403 for a role above the caller''s own.';

create or replace function public.add_member(p_organization_id uuid, p_profile_id text, p_role text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN');
    v_member public.organization_members;
    v_invitation public.invitations;
begin
    perform gateway.may_give(v_organization.id, p_role);
    if starts_with(p_profile_id, 'key:') then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'An API key cannot be a member.', p_fields => '{"profile_id": "is no user"}'
        );
    end if;
    perform from public.organizations o where o.id = v_organization.id for no key update;
    select m.* into v_member from public.organization_members m
    where m.organization_id = v_organization.id and m.profile_id = p_profile_id;
    if v_member.is_external then
        -- It is one of the Clerk organization's own, and nothing that it could refuse.
        update public.organization_members m set role = p_role, is_external = false, updated_at = now()
        where m.organization_id = v_organization.id and m.profile_id = p_profile_id
        returning * into v_member;
        return gateway.member_json(v_member);
    elsif found or (gateway.invitation(v_organization.id, p_profile_id)).id is not null then
        perform gateway.fail(
            'GW409', 'ALREADY_EXISTS', 'The user is a member or invited already.',
            p_fields => '{"profile_id": "is a member or invited already"}'
        );
    elsif (select count(*) from public.invitations i where i.organization_id = v_organization.id) >= 1000 then
        perform gateway.fail('GW412', 'INVITATIONS_FULL', 'An organization has at most 1000 open invitations.');
    end if;
    insert into public.profiles (id) values (p_profile_id) on conflict do nothing;
    insert into public.invitations (organization_id, profile_id, role, invited_by)
    values (v_organization.id, p_profile_id, p_role, coalesce(auth.jwt() ->> 'sub', ''))
    returning * into v_invitation;
    perform gateway.audit(
        v_organization.id, 'member.invited', 'member', p_profile_id, jsonb_build_object('role', p_role)
    );
    return gateway.invited_member_json(v_invitation);
end
$$;
comment on function public.add_member(uuid, text, text) is
    'Invites a user, who need not have been seen before -> Member, pending; one whom the Clerk organization makes a '
    'member already gets the role at once. For admins; owners only by owners. GW412 above 1000 invitations.';

create or replace function public.list_members(
    p_organization_id uuid, p_after uuid default null, p_limit integer default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER');
    v_is_admin boolean := gateway.key_organization(auth.jwt()) is null
        and gateway.role_rank(gateway.caller_role(v_organization.id)) >= gateway.role_rank('MEMBER_ROLE_ADMIN');
    v_after uuid := coalesce(p_after, '00000000-0000-0000-0000-000000000000');
    v_limit integer := gateway.page_size(p_limit);
    v_rows jsonb[];
    v_ids uuid[];
begin
    select
        array_agg(
            case when page.member is null then gateway.invited_member_json(page.invitation)
                else gateway.member_json(page.member) end
            order by page.id
        ),
        array_agg(page.id order by page.id)
    into v_rows, v_ids
    from (
        (
            select m.id, m as member, null::public.invitations as invitation from public.organization_members m
            where m.organization_id = v_organization.id and m.id > v_after
            order by m.id limit v_limit + 1
        ) union all (
            select i.id, null, i from public.invitations i
            where v_is_admin and i.organization_id = v_organization.id and i.id > v_after
            order by i.id limit v_limit + 1
        ) order by id limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'members', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_ids[v_limit] end
    );
end
$$;
comment on function public.list_members(uuid, uuid, integer) is
    'Members, oldest first: {"members": [Member], "next": id of the last row, null at the end}; for admins also those '
    'who are invited.';

create or replace function public.get_member(p_organization_id uuid, p_profile_id text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER');
    v_row public.organization_members;
    v_invitation public.invitations;
begin
    select m.* into v_row from public.organization_members m
    where m.organization_id = v_organization.id and m.profile_id = p_profile_id;
    if found then
        return gateway.member_json(v_row);
    end if;
    v_invitation := gateway.invitation(v_organization.id, p_profile_id);
    if v_invitation.id is null or gateway.key_organization(auth.jwt()) is not null
        or gateway.role_rank(gateway.caller_role(v_organization.id)) < gateway.role_rank('MEMBER_ROLE_ADMIN')
    then
        perform gateway.no_such_member();
    end if;
    return gateway.invited_member_json(v_invitation);
end
$$;
comment on function public.get_member(uuid, text) is 'Member; for admins also one who is invited; GW404.';

create function gateway.invitation_to_change(p_organization_id uuid, p_profile_id text, p_role text)
    returns public.invitations
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_row public.invitations := gateway.invitation(p_organization_id, p_profile_id);
begin
    if v_row.id is not null then
        perform gateway.authorize(v_row.organization_id, 'MEMBER_ROLE_ADMIN', p_inactive => p_role is null);
        perform gateway.may_give(v_row.organization_id, v_row.role);
        perform gateway.may_give(v_row.organization_id, p_role);
    end if;
    return v_row;
end
$$;
comment on function gateway.invitation_to_change(uuid, text, text) is
    'The invitation, if the caller may give it this role (null: withdraw it); null if there is none.';

create or replace function public.update_member(p_organization_id uuid, p_profile_id text, p_role text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_invitation public.invitations := gateway.invitation_to_change(p_organization_id, p_profile_id, p_role);
    v_row public.organization_members;
begin
    if v_invitation.id is not null then
        if v_invitation.role is distinct from p_role then
            update public.invitations i set role = p_role, updated_at = now() where i.id = v_invitation.id
            returning * into v_invitation;
            perform gateway.audit(
                p_organization_id, 'member.invited', 'member', p_profile_id, jsonb_build_object('role', p_role)
            );
        end if;
        return gateway.invited_member_json(v_invitation);
    end if;
    v_row := gateway.member_to_change(p_organization_id, p_profile_id, coalesce(p_role, ''));
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
    'Gives a member, or one who is invited, another role -> Member, for admins. Who belongs by its token can be given '
    'less than that says, and as much again.';

create or replace function public.remove_member(p_organization_id uuid, p_profile_id text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_invitation public.invitations := gateway.invitation_to_change(p_organization_id, p_profile_id, null);
    v_row public.organization_members;
begin
    if v_invitation.id is not null then
        delete from public.invitations i where i.id = v_invitation.id;
        perform gateway.audit(p_organization_id, 'member.uninvited', 'member', p_profile_id);
        return '{}';
    end if;
    v_row := gateway.member_to_change(p_organization_id, p_profile_id, null);
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
    'Ends a membership or withdraws an invitation -> {}, for admins, and for the member itself. Whom Clerk''s '
    'organization makes a member all the same has no more than the role that ended, until an admin says otherwise.';

-- What the invited do -----------------------------------------------------------------------------------------

create function public.list_invitations(p_after uuid default null, p_limit integer default null) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_profile text := gateway.ensure_profile();
    v_limit integer := gateway.page_size(p_limit);
    v_rows jsonb[];
    v_ids uuid[];
begin
    select
        array_agg(
            jsonb_build_object(
                'organization_id', page.organization_id,
                'organization_name', page.name,
                'role', page.role,
                'invited_by', page.invited_by,
                'created_at', page.created_at
            )
            order by page.id
        ),
        array_agg(page.id order by page.id)
    into v_rows, v_ids
    from (
        select i.*, o.name from public.invitations i join public.organizations o on o.id = i.organization_id
        where i.profile_id = v_profile and i.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
        order by i.id limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'invitations', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_ids[v_limit] end
    );
end
$$;
comment on function public.list_invitations(uuid, integer) is
    'The caller''s open invitations, oldest first: {"invitations": [Invitation], "next": id of the last row, null at '
    'the end}. GW403 for an API key.';

create function gateway.answered_invitation(p_organization_id uuid) returns public.invitations
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_row public.invitations;
begin
    delete from public.invitations i
    where i.organization_id = p_organization_id and i.profile_id = gateway.ensure_profile()
    returning * into v_row;
    if not found then
        perform gateway.fail('GW404', 'INVITATION_NOT_FOUND', 'The organization has not invited the caller.');
    end if;
    return v_row;
end
$$;
comment on function gateway.answered_invitation(uuid) is 'The caller''s invitation, which is then no more; GW404.';

create function public.accept_invitation(p_organization_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_invitation public.invitations := gateway.answered_invitation(p_organization_id);
    v_row public.organization_members;
begin
    if not (select o.is_active from public.organizations o where o.id = p_organization_id) then
        perform gateway.fail('GW412', 'ORGANIZATION_INACTIVE', 'The organization is not active.');
    end if;
    insert into public.organization_members as m (organization_id, profile_id, role)
    values (v_invitation.organization_id, v_invitation.profile_id, v_invitation.role)
    on conflict (organization_id, profile_id) do update set
        role = excluded.role, is_external = false, updated_at = now()
    returning * into v_row;
    return gateway.member_json(v_row);
end
$$;
comment on function public.accept_invitation(uuid) is
    'Makes the caller a member as it was invited -> Member. GW404 without an invitation, GW412 while the organization '
    'is not active.';

create function public.decline_invitation(p_organization_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_invitation public.invitations := gateway.answered_invitation(p_organization_id);
begin
    perform gateway.audit(p_organization_id, 'member.declined', 'member', v_invitation.profile_id);
    return '{}';
end
$$;
comment on function public.decline_invitation(uuid) is 'Ends the caller''s invitation -> {}; GW404 without one.';

-- Who may do what ---------------------------------------------------------------------------------------------

alter table public.invitations enable row level security;
revoke all on table public.invitations from public, anon, authenticated, service_role;

revoke all on all functions in schema gateway from public;
revoke all on function
    public.list_invitations(uuid, integer), public.accept_invitation(uuid), public.decline_invitation(uuid)
    from public, anon, authenticated, service_role;
grant execute on function
    public.list_invitations(uuid, integer), public.accept_invitation(uuid), public.decline_invitation(uuid)
    to authenticated, authenticator;
