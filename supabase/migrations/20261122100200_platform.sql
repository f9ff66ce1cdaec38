-- What the platform keeps to itself: its settings, and what it may do in every organization.

create table public.platform_settings (
    name text primary key,
    value text not null,
    updated_at timestamptz not null default now(),
    constraint platform_settings_value_check check (
        name = 'workflow_management' and value in ('organization', 'platform')
        or name = 'organization_creation' and value in ('anyone', 'platform')
    )
);
comment on table public.platform_settings is 'Settings of the whole platform that are not as they are by default.';

create function gateway.platform_setting(p_name text) returns text
language plpgsql stable security definer set search_path = ''
as $$
begin
    return coalesce(
        (select s.value from public.platform_settings s where s.name = p_name),
        case p_name when 'workflow_management' then 'organization' when 'organization_creation' then 'anyone' end
    );
end
$$;
comment on function gateway.platform_setting(text) is
    'workflow_management: who sets webhook paths and prices on the shared n8n (organization, platform); '
    'organization_creation: who makes organizations (anyone, platform). The first is the default.';

create function public.list_platform_settings() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    return jsonb_build_object(
        'workflow_management', gateway.platform_setting('workflow_management'),
        'organization_creation', gateway.platform_setting('organization_creation')
    );
end
$$;
comment on function public.list_platform_settings() is 'All settings, {name: value}. For the platform only.';

create function public.set_platform_setting(p_name text, p_value text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    insert into public.platform_settings as s (name, value) values (p_name, p_value)
    on conflict (name) do update set value = excluded.value, updated_at = now();
    return public.list_platform_settings();
exception when check_violation or not_null_violation then
    perform gateway.fail(
        'GW400', 'INVALID_ARGUMENT',
        'Settings are workflow_management (organization, platform) and organization_creation (anyone, platform).',
        p_fields => case when gateway.platform_setting(p_name) is null then '{"name": "is no setting"}'
            else '{"value": "is not one of the setting''s values"}' end::jsonb
    );
end
$$;
comment on function public.set_platform_setting(text, text) is
    'Sets one -> all settings; GW400 for what is none. For the platform only.';

-- The platform acts in every organization --------------------------------------------------------------------------

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
    'token''s role. GW404 for who is no member, and for another one than the call''s tenant, GW403 for too low a role, '
    'GW412 when the organization is not active and p_inactive does not allow that.';

create or replace function gateway.own_workflow(p_id uuid) returns public.workflows
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_is_platform boolean := current_setting('role', true) is not distinct from 'service_role';
    v_row public.workflows;
begin
    select w.* into v_row from public.workflows w
    where w.id = p_id and (v_is_platform or w.organization_id = any (gateway.caller_organizations()))
    for no key update;
    if not found then
        perform gateway.no_such_workflow();
    end if;
    perform gateway.authorize(v_row.organization_id, 'MEMBER_ROLE_ADMIN');
    return v_row;
end
$$;

create or replace function public.set_workflow_active(p_id uuid, p_active boolean) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.workflows := gateway.own_workflow(p_id);
begin
    if v_row.archived_at is not null then
        perform gateway.fail('GW412', 'WORKFLOW_ARCHIVED', 'The workflow has been deleted.');
    end if;
    if v_row.is_active <> p_active then
        update public.workflows w set is_active = p_active, updated_at = now() where w.id = p_id
        returning * into v_row;
    end if;
    return gateway.workflow_json(v_row);
end
$$;

create function public.create_organization_for(p_organization jsonb, p_owner text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.organizations;
begin
    perform gateway.require_service();
    if coalesce(p_owner, '') = '' or starts_with(p_owner, 'key:') then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'An organization needs a user as its owner.',
            p_fields => '{"owner": "is no user"}'
        );
    end if;
    insert into public.profiles (id) values (p_owner) on conflict do nothing;
    insert into public.organizations (name, slug, clerk_organization_id) values (
        coalesce(p_organization ->> 'name', ''),
        coalesce(nullif(p_organization ->> 'slug', ''), gateway.free_slug(p_organization ->> 'name')),
        nullif(p_organization ->> 'clerk_organization_id', '')
    ) returning * into v_row;
    insert into public.organization_members (organization_id, profile_id, role)
    values (v_row.id, p_owner, 'MEMBER_ROLE_OWNER');
    insert into public.credit_accounts (organization_id) values (v_row.id);
    return gateway.organization_json(v_row);
exception when unique_violation then
    perform gateway.fail('GW409', 'ALREADY_EXISTS', 'Another organization has this slug or Clerk organization already.');
end
$$;
comment on function public.create_organization_for(jsonb, text) is
    'name, slug and clerk_organization_id of an organization, and the user who will own it -> Organization. For the '
    'platform only.';

-- What tenants may do no more ---------------------------------------------------------------------------------------

-- Triggers, so that no way of writing a row goes past them.

create function gateway.refuse_tenant(p_setting text, p_message text) returns void
language plpgsql set search_path = ''
as $$
begin
    perform gateway.fail('GW403', 'PLATFORM_ONLY', p_message, jsonb_build_object('setting', p_setting));
end
$$;
comment on function gateway.refuse_tenant(text, text) is 'The one answer for what a setting leaves to the platform.';

create function gateway.guard_organization() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if current_setting('role', true) = 'authenticated'
        and gateway.platform_setting('organization_creation') = 'platform' then
        perform gateway.refuse_tenant('organization_creation', 'Organizations are created by the platform.');
    end if;
    return new;
end
$$;
comment on function gateway.guard_organization() is 'Trigger: holds organization_creation.';
create trigger organizations_guard before insert on public.organizations
    for each row execute function gateway.guard_organization();

alter table public.workflows add column is_platform_managed boolean not null default false;
comment on column public.workflows.is_platform_managed is
    'Whether its webhook path and price were last set by the platform, and not by the organization.';

create function gateway.has_own_n8n(p_organization_id uuid) returns boolean
language plpgsql stable security definer set search_path = ''
as $$
begin
    -- The table comes with a later migration, and a statement that names it is read only when it is reached.
    if to_regclass('public.n8n_instances') is null then
        return false;
    end if;
    return exists (select from public.n8n_instances i where i.organization_id = p_organization_id);
end
$$;
comment on function gateway.has_own_n8n(uuid) is 'Whether the organization''s workflows run on an n8n of its own.';

create function gateway.guard_workflow() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    v_is_tenant boolean := current_setting('role', true) is not distinct from 'authenticated';
    v_is_priced boolean := tg_op = 'INSERT' or (
        new.webhook_path, new.credits_per_execution, new.pricing_mode, new.credits_per_unit
    ) is distinct from (old.webhook_path, old.credits_per_execution, old.pricing_mode, old.credits_per_unit);
begin
    if v_is_tenant
        and (v_is_priced or (new.is_active and not old.is_active and not old.is_platform_managed))
        and gateway.platform_setting('workflow_management') = 'platform'
        and not gateway.has_own_n8n(new.organization_id)
    then
        perform gateway.refuse_tenant(
            'workflow_management', 'Workflows on the shared n8n, their paths and prices are set by the platform.'
        );
    end if;
    if v_is_priced then
        new.is_platform_managed := not v_is_tenant;
    end if;
    return new;
end
$$;
comment on function gateway.guard_workflow() is
    'Trigger: holds workflow_management. What an organization registered for an n8n of its own cannot be activated '
    'without that.';
create trigger workflows_guard before insert or update on public.workflows
    for each row execute function gateway.guard_workflow();

-- Who may do what ---------------------------------------------------------------------------------------------

alter table public.platform_settings enable row level security;
revoke all on table public.platform_settings from public, anon, authenticated, service_role;

revoke all on all functions in schema gateway from public;
revoke all on function
    public.list_platform_settings(), public.set_platform_setting(text, text),
    public.create_organization_for(jsonb, text)
    from public, anon, authenticated, service_role;
grant execute on function
    public.list_platform_settings(), public.set_platform_setting(text, text),
    public.create_organization_for(jsonb, text)
    to service_role, authenticator;
grant execute on function
    public.register_workflow(jsonb), public.update_workflow(uuid, jsonb), public.set_workflow_active(uuid, boolean),
    public.delete_workflow(uuid)
    to service_role;
