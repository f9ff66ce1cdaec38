-- Who changed what, written in the transaction of the change.
--
-- Whatever changes something that an administrator would ask about later calls gateway.audit(), which knows by itself
-- who does it and by which request. Tables whose rows say all there is to tell have a trigger for it, so that no
-- function can forget it, and changes by hand are noted, too. A function that changes anything else calls it itself:
--
--     perform gateway.audit(v_organization.id, 'webhook.deleted', 'webhook', v_row.id::text);
--     perform gateway.audit(v_new.organization_id, 'webhook.updated', 'webhook', v_new.id::text,
--         gateway.difference(gateway.webhook_json(v_old), gateway.webhook_json(v_new)));
--
-- It can be called from SECURITY DEFINER functions alone. Secrets are never among the changes: only their names are.

create table public.audit_events (
    id uuid not null default gateway.uuid_v7(),
    organization_id uuid not null references public.organizations (id),
    actor_type text not null check (actor_type in ('user', 'api_key', 'n8n', 'platform')),
    actor_id text not null default '',
    impersonator_id text not null default '',
    action text not null check (action ~ '^[a-z0-9_]+[.][a-z0-9_]+$' and char_length(action) <= 64),
    resource_type text not null,
    resource_id text not null,
    changes jsonb not null default '{}' check (jsonb_typeof(changes) = 'object'),
    request_id text not null default '',
    created_at timestamptz not null default now(),
    primary key (organization_id, id)
);
create index audit_events_actor_idx on public.audit_events (organization_id, actor_id, id);
create index audit_events_action_idx on public.audit_events (organization_id, action, id);
create index audit_events_resource_idx on public.audit_events (organization_id, resource_id, id);
comment on table public.audit_events is 'Who changed what: appended to, never changed. Nobody reads it but functions.';
comment on column public.audit_events.impersonator_id is 'Who acted in the actor''s name; empty for nobody.';
comment on column public.audit_events.changes is 'Fields that changed with their new values; no secret.';
create trigger audit_events_append_only before update or delete or truncate on public.audit_events
    for each statement execute function gateway.refuse_change();

create function gateway.request_header(p_name text) returns text
language sql stable
as $$
    select nullif(current_setting('request.headers', true), '')::jsonb ->> p_name
$$;
comment on function gateway.request_header(text) is
    'A header, by its lower-case name, of the request to PostgREST; the direct path sets the same. The gateway sends '
    'x-gateway-request-id and x-gateway-tenant. Any caller may write what it likes into them: believe them nothing.';

create function gateway.audit(
    p_organization_id uuid, p_action text, p_resource_type text, p_resource_id text, p_changes jsonb default '{}'
) returns void
language plpgsql security definer set search_path = ''
as $$
declare
    v_claims jsonb := auth.jwt();
    v_subject text := coalesce(v_claims ->> 'sub', '');
    -- The role that was set for this call; none for somebody at the database itself.
    v_is_authenticated boolean := current_setting('role', true) is not distinct from 'authenticated';
begin
    insert into public.audit_events (
        organization_id, actor_type, actor_id, impersonator_id, action, resource_type, resource_id, changes, request_id
    ) values (
        p_organization_id,
        case
            when v_is_authenticated and starts_with(v_subject, 'key:') then 'api_key'
            when v_is_authenticated then 'user'
            when v_subject = 'n8n' then 'n8n'
            else 'platform'
        end,
        case when v_is_authenticated then regexp_replace(v_subject, '^key:', '') else '' end,
        case when v_is_authenticated then coalesce(v_claims -> 'act' ->> 'sub', '') else '' end,
        p_action, p_resource_type, p_resource_id, p_changes,
        left(coalesce(gateway.request_header('x-gateway-request-id'), ''), 128)
    );
end
$$;
comment on function gateway.audit(uuid, text, text, text, jsonb) is
    'Notes what the caller of this statement does to a resource of an organization. Actions read <resource>.<done>.';

create function gateway.difference(p_old jsonb, p_new jsonb) returns jsonb
language sql immutable set search_path = ''
as $$
    select coalesce(jsonb_object_agg(n.key, n.value), '{}') from jsonb_each(p_new) n
    where n.value is distinct from coalesce(p_old -> n.key, 'null')
        and n.key not in ('id', 'organization_id', 'created_at', 'updated_at', 'last_used_at')
$$;
comment on function gateway.difference(jsonb, jsonb) is
    'Fields of the new object that the old one has not so, without those that say nothing of a change.';

-- What is noted by itself -----------------------------------------------------------------------------------------

create function gateway.audit_organization() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    v_changes jsonb := gateway.difference(gateway.organization_json(old), gateway.organization_json(new));
begin
    if v_changes <> '{}' then
        perform gateway.audit(
            new.id, case when tg_op = 'INSERT' then 'organization.created' else 'organization.updated' end,
            'organization', new.id::text, v_changes
        );
    end if;
    return null;
end
$$;
comment on function gateway.audit_organization() is 'Trigger: notes what becomes of an organization.';
create trigger organizations_audit after insert or update on public.organizations
    for each row execute function gateway.audit_organization();

create function gateway.audit_member() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.organization_members := coalesce(new, old);
begin
    -- Of members that Clerk's tokens tell of, Clerk keeps the records.
    if not v_row.is_external then
        perform gateway.audit(
            v_row.organization_id,
            case tg_op when 'INSERT' then 'member.added' when 'UPDATE' then 'member.updated' else 'member.removed' end,
            'member', v_row.profile_id,
            case when tg_op = 'DELETE' then '{}' else jsonb_build_object('role', v_row.role) end
        );
    end if;
    return null;
end
$$;
comment on function gateway.audit_member() is 'Trigger: notes what becomes of a membership.';
create trigger organization_members_audit after insert or update or delete on public.organization_members
    for each row execute function gateway.audit_member();

create function gateway.audit_workflow() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    v_changes jsonb := gateway.difference(gateway.workflow_json(old), gateway.workflow_json(new));
begin
    if v_changes <> '{}' then
        perform gateway.audit(
            new.organization_id,
            case
                when tg_op = 'INSERT' then 'workflow.registered'
                when v_changes ? 'archived_at' then 'workflow.deleted'
                when v_changes = '{"is_active": true}' then 'workflow.activated'
                when v_changes = '{"is_active": false}' then 'workflow.deactivated'
                else 'workflow.updated'
            end,
            'workflow', new.id::text, v_changes
        );
    end if;
    return null;
end
$$;
comment on function gateway.audit_workflow() is 'Trigger: notes what becomes of a workflow.';
create trigger workflows_audit after insert or update on public.workflows
    for each row execute function gateway.audit_workflow();

create function gateway.audit_api_key() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    v_changes jsonb := gateway.difference(gateway.api_key_json(old), gateway.api_key_json(new));
begin
    if new.secret_hash is distinct from old.secret_hash then
        v_changes := v_changes || '{"secrets": ["key", "client_secret"]}';
    end if;
    if v_changes <> '{}' then
        perform gateway.audit(
            new.organization_id,
            case
                when tg_op = 'INSERT' then 'api_key.created'
                when v_changes ? 'revoked_at' then 'api_key.revoked'
                when v_changes ? 'secrets' then 'api_key.rotated'
                else 'api_key.updated'
            end,
            'api_key', new.id::text, v_changes
        );
    end if;
    return null;
end
$$;
comment on function gateway.audit_api_key() is 'Trigger: notes what becomes of an API key, not its use.';
create trigger api_keys_made_audit after insert on public.api_keys
    for each row execute function gateway.audit_api_key();
create trigger api_keys_audit after update on public.api_keys
    for each row when (old.updated_at is distinct from new.updated_at) execute function gateway.audit_api_key();

create function gateway.audit_credential() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.tenant_secrets := coalesce(new, old);
begin
    perform gateway.audit(
        v_row.organization_id,
        case when tg_op = 'DELETE' then 'credential.deleted' else 'credential.stored' end,
        'credential', substr(v_row.name, 12)
    );
    return null;
end
$$;
comment on function gateway.audit_credential() is 'Trigger: notes what becomes of a credential, by its name alone.';
create trigger tenant_secrets_stored_audit after insert or update on public.tenant_secrets
    for each row when (starts_with(new.name, 'credential/')) execute function gateway.audit_credential();
create trigger tenant_secrets_deleted_audit after delete on public.tenant_secrets
    for each row when (starts_with(old.name, 'credential/')) execute function gateway.audit_credential();

-- Reading -----------------------------------------------------------------------------------------------------

create function gateway.audit_event_json(p_row public.audit_events) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return to_jsonb(p_row);
end
$$;
comment on function gateway.audit_event_json(public.audit_events) is 'ProtoJSON of n8ngateway.v1.AuditEvent.';

create function gateway.uuid_floor(p_time timestamptz) returns uuid
language sql immutable set search_path = ''
as $$
    select (lpad(to_hex((extract(epoch from p_time) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
comment on function gateway.uuid_floor(timestamptz) is 'Below every id that is made at this time or later.';

create function public.list_audit_events(
    p_organization_id uuid, p_actor_id text default null, p_action text default null, p_resource_id text default null,
    p_start_time timestamptz default null, p_end_time timestamptz default null,
    p_after uuid default null, p_limit integer default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN', p_inactive => true);
    v_limit integer := gateway.page_size(p_limit);
    v_before uuid := least(
        coalesce(p_after, 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
        -- An id is made a moment after the time that its row bears.
        gateway.uuid_floor(p_end_time + interval '1 minute')
    );
    v_rows jsonb[];
begin
    select array_agg(gateway.audit_event_json(page) order by page.id desc) into v_rows
    from (
        select a.* from public.audit_events a
        where a.organization_id = v_organization.id
            and a.id < v_before
            and (p_start_time is null or a.created_at >= p_start_time and a.id >= gateway.uuid_floor(p_start_time))
            and (p_end_time is null or a.created_at < p_end_time)
            and (p_actor_id is null or a.actor_id = p_actor_id)
            and (p_action is null or a.action = p_action)
            and (p_resource_id is null or a.resource_id = p_resource_id)
        order by a.id desc limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'audit_events', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_audit_events(uuid, text, text, text, timestamptz, timestamptz, uuid, integer) is
    'One organization''s audit events, newest first, for admins, also while it is not active: {"audit_events": '
    '[AuditEvent], "next": last id, null at the end}; narrowed by what is given.';

create function public.export_audit_events(
    p_organization_id uuid, p_start_time timestamptz default null, p_end_time timestamptz default null,
    p_after uuid default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN', p_inactive => true);
    v_limit constant integer := 1000;
    v_rows jsonb[];
begin
    select array_agg(gateway.audit_event_json(page) order by page.id) into v_rows
    from (
        select a.* from public.audit_events a
        where a.organization_id = v_organization.id
            and a.id > greatest(
                coalesce(p_after, '00000000-0000-0000-0000-000000000000'), gateway.uuid_floor(p_start_time)
            )
            and (p_start_time is null or a.created_at >= p_start_time)
            and (p_end_time is null or a.created_at < p_end_time and a.id < gateway.uuid_floor(
                p_end_time + interval '1 minute'
            ))
        order by a.id limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'audit_events', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.export_audit_events(uuid, timestamptz, timestamptz, uuid) is
    'The same oldest first and 1000 at a time, for a file of all of them.';

-- Who may do what ---------------------------------------------------------------------------------------------

alter table public.audit_events enable row level security;
revoke all on table public.audit_events from public, anon, authenticated, service_role;

revoke all on all functions in schema gateway from public;
revoke all on function
    public.list_audit_events(uuid, text, text, text, timestamptz, timestamptz, uuid, integer),
    public.export_audit_events(uuid, timestamptz, timestamptz, uuid)
    from public, anon, authenticated, service_role;
grant execute on function
    public.list_audit_events(uuid, text, text, text, timestamptz, timestamptz, uuid, integer),
    public.export_audit_events(uuid, timestamptz, timestamptz, uuid)
    to authenticated, authenticator;
