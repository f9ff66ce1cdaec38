-- Webhooks: what endpoints of organizations are told of, and how far that has come.

create type public.webhook_delivery_state as enum (
    'WEBHOOK_DELIVERY_STATE_PENDING', 'WEBHOOK_DELIVERY_STATE_DELIVERED', 'WEBHOOK_DELIVERY_STATE_FAILED'
);
comment on type public.webhook_delivery_state is 'n8ngateway.v1.WebhookDeliveryState.';

create table public.webhook_endpoints (
    id uuid primary key default gateway.uuid_v7(),
    organization_id uuid not null references public.organizations (id),
    url text not null check (
        char_length(url) <= 2048 and url ~ '^https?://[^/?#@[:space:]]+([/?][^#[:space:]]*)?$'
    ),
    description text not null default '' check (char_length(description) <= 500),
    event_types text[] not null default '{}',
    is_enabled boolean not null default true,
    secret_id uuid not null,
    previous_secret_id uuid,
    previous_secret_expires_at timestamptz,
    failing_since timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (organization_id, id),
    constraint webhook_endpoints_previous_check
        check ((previous_secret_id is null) = (previous_secret_expires_at is null))
);
comment on table public.webhook_endpoints is 'Where organizations are told of events. Nobody reads it but functions.';
comment on column public.webhook_endpoints.event_types is 'WebhookEventType by name; empty for all.';
comment on column public.webhook_endpoints.secret_id is 'Its signing secret is webhook/<this> in tenant_secrets.';
comment on column public.webhook_endpoints.failing_since is 'First failure since the last success.';

create table public.webhook_deliveries (
    id uuid primary key default gateway.uuid_v7(),
    organization_id uuid not null,
    webhook_id uuid not null,
    event_type text not null,
    payload text not null,
    state public.webhook_delivery_state not null default 'WEBHOOK_DELIVERY_STATE_PENDING',
    attempts integer not null default 0,
    attempts_left integer not null default 11 check (attempts_left >= 0),
    response_status integer not null default 0,
    error_message text not null default '' check (char_length(error_message) <= 500),
    next_attempt_at timestamptz not null default now(),
    leased_until timestamptz,
    created_at timestamptz not null default now(),
    delivered_at timestamptz,
    foreign key (organization_id, webhook_id)
        references public.webhook_endpoints (organization_id, id) on delete cascade
);
create index webhook_deliveries_list_idx on public.webhook_deliveries (organization_id, webhook_id, id);
create index webhook_deliveries_due_idx on public.webhook_deliveries (webhook_id, next_attempt_at)
    where state = 'WEBHOOK_DELIVERY_STATE_PENDING';
create index webhook_deliveries_leased_idx on public.webhook_deliveries (webhook_id) where leased_until is not null;
comment on table public.webhook_deliveries is
    'Events on their way to endpoints, kept for 30 days. Nobody reads it but functions.';
comment on column public.webhook_deliveries.payload is 'The body of every attempt, byte by byte.';
comment on column public.webhook_deliveries.attempts_left is 'Until it has failed; 11 again when it is redelivered.';
comment on column public.webhook_deliveries.leased_until is
    'A replica is at it until then; past that it is taken for dead. Null while nobody is.';

create function gateway.webhook_json(p_row public.webhook_endpoints) returns jsonb
language sql stable set search_path = ''
as $$
    select jsonb_build_object(
        'id', p_row.id,
        'organization_id', p_row.organization_id,
        'url', p_row.url,
        'description', p_row.description,
        'event_types', to_jsonb(p_row.event_types),
        'is_enabled', p_row.is_enabled,
        'previous_secret_expires_at',
            case when p_row.previous_secret_expires_at > now() then p_row.previous_secret_expires_at end,
        'created_at', p_row.created_at,
        'updated_at', p_row.updated_at
    )
$$;
comment on function gateway.webhook_json(public.webhook_endpoints) is 'ProtoJSON of n8ngateway.v1.Webhook.';

create function gateway.webhook_event_type(p_type text) returns text
language sql immutable set search_path = ''
as $$
    select 'WEBHOOK_EVENT_TYPE_' || upper(replace(p_type, '.', '_'))
$$;
comment on function gateway.webhook_event_type(text) is 'WebhookEventType of an event, "execution.finished" for example.';

create function gateway.webhook_delivery_json(p_row public.webhook_deliveries) returns jsonb
language sql stable set search_path = ''
as $$
    select jsonb_build_object(
        'id', p_row.id,
        'webhook_id', p_row.webhook_id,
        'event_type', gateway.webhook_event_type(p_row.event_type),
        'state', p_row.state,
        'attempts', p_row.attempts,
        'response_status', p_row.response_status,
        'error_message', p_row.error_message,
        'next_attempt_at', case when p_row.state = 'WEBHOOK_DELIVERY_STATE_PENDING' then p_row.next_attempt_at end,
        'created_at', p_row.created_at,
        'delivered_at', p_row.delivered_at
    )
$$;
comment on function gateway.webhook_delivery_json(public.webhook_deliveries) is
    'ProtoJSON of n8ngateway.v1.WebhookDelivery.';

-- Endpoints ---------------------------------------------------------------------------------------------------

create function gateway.keep_has_webhooks() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization_id uuid := coalesce(new.organization_id, old.organization_id);
    v_has boolean;
begin
    -- One change of an organization's endpoints at a time: the next one must see this one.
    perform from public.organizations o where o.id = v_organization_id for no key update;
    v_has := exists (
        select from public.webhook_endpoints e where e.organization_id = v_organization_id and e.is_enabled
    );
    update public.organizations o set has_webhooks = v_has where o.id = v_organization_id and o.has_webhooks <> v_has;
    return null;
end
$$;
comment on function gateway.keep_has_webhooks() is 'Trigger: says on the organization whether any endpoint takes events.';
create trigger webhook_endpoints_kept after insert or delete or update of is_enabled on public.webhook_endpoints
    for each row execute function gateway.keep_has_webhooks();

create function gateway.own_webhook(p_organization_id uuid, p_id uuid, p_lock boolean default true)
    returns public.webhook_endpoints
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN', p_inactive => true);
    v_row public.webhook_endpoints;
begin
    if p_lock then
        perform from public.organizations o where o.id = v_organization.id for no key update;
    end if;
    select e.* into v_row from public.webhook_endpoints e where e.organization_id = v_organization.id and e.id = p_id;
    if not found then
        perform gateway.fail('GW404', 'WEBHOOK_NOT_FOUND', 'There is no such webhook.');
    end if;
    return v_row;
end
$$;
comment on function gateway.own_webhook(uuid, uuid, boolean) is
    'The endpoint, if the caller may change it, while no other change of the organization''s is under way. GW404 for one '
    'of another organization.';

create function public.create_webhook(
    p_organization_id uuid, p_webhook jsonb, p_secret_id uuid, p_secret jsonb
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN');
    v_row public.webhook_endpoints;
begin
    perform from public.organizations o where o.id = v_organization.id for no key update;
    if (select count(*) from public.webhook_endpoints e where e.organization_id = v_organization.id) >= 20 then
        perform gateway.fail('GW412', 'WEBHOOKS_FULL', 'An organization has at most 20 webhooks.');
    end if;
    insert into public.webhook_endpoints (organization_id, url, description, event_types, is_enabled, secret_id)
    values (
        v_organization.id,
        p_webhook ->> 'url',
        coalesce(p_webhook ->> 'description', ''),
        array(select jsonb_array_elements_text(coalesce(p_webhook -> 'event_types', '[]'))),
        coalesce((p_webhook ->> 'is_enabled')::boolean, true),
        p_secret_id
    ) returning * into v_row;
    perform gateway.keep_secret(v_organization.id, 'webhook/' || p_secret_id, p_secret);
    perform gateway.audit(
        v_row.organization_id, 'webhook.created', 'webhook', v_row.id::text,
        gateway.difference(null, gateway.webhook_json(v_row))
    );
    return gateway.webhook_json(v_row);
end
$$;
comment on function public.create_webhook(uuid, jsonb, uuid, jsonb) is
    'Webhook, the id of its secret and that in an envelope -> Webhook, for admins. GW412 above 20 of them.';

create function public.list_webhooks(
    p_organization_id uuid, p_after uuid default null, p_limit integer default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN', p_inactive => true);
    v_limit integer := gateway.page_size(p_limit);
    v_rows jsonb[];
begin
    select array_agg(gateway.webhook_json(page) order by page.id) into v_rows
    from (
        select e.* from public.webhook_endpoints e
        where e.organization_id = v_organization.id
            and e.id > coalesce(p_after, '00000000-0000-0000-0000-000000000000')
        order by e.id limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'webhooks', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_webhooks(uuid, uuid, integer) is
    'Endpoints, oldest first, for admins: {"webhooks": [Webhook], "next": last id, null at the end}.';

create function public.get_webhook(p_organization_id uuid, p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
    return gateway.webhook_json(gateway.own_webhook(p_organization_id, p_id, false));
end
$$;
comment on function public.get_webhook(uuid, uuid) is 'Webhook, for admins; GW404.';

create function public.update_webhook(p_organization_id uuid, p_id uuid, p_changes jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_old public.webhook_endpoints := gateway.own_webhook(p_organization_id, p_id);
    v_new public.webhook_endpoints;
begin
    update public.webhook_endpoints e set
        url = case when p_changes ? 'url' then coalesce(p_changes ->> 'url', '') else e.url end,
        description = case when p_changes ? 'description' then coalesce(p_changes ->> 'description', '')
            else e.description end,
        event_types = case when p_changes ? 'event_types' then array(
            select jsonb_array_elements_text(case when jsonb_typeof(p_changes -> 'event_types') = 'array'
                then p_changes -> 'event_types' else '[]' end)
        ) else e.event_types end,
        is_enabled = case when p_changes ? 'is_enabled' then coalesce((p_changes ->> 'is_enabled')::boolean, true)
            else e.is_enabled end,
        failing_since = case when p_changes ?| '{is_enabled,url}' then null else e.failing_since end,
        updated_at = clock_timestamp()
    where e.id = v_old.id
    returning * into v_new;
    perform gateway.audit(
        v_new.organization_id, 'webhook.updated', 'webhook', v_new.id::text,
        gateway.difference(gateway.webhook_json(v_old), gateway.webhook_json(v_new))
    );
    return gateway.webhook_json(v_new);
end
$$;
comment on function public.update_webhook(uuid, uuid, jsonb) is
    'Changes url, description, event_types and is_enabled, those that are given -> Webhook, for admins. null clears.';

create function public.delete_webhook(p_organization_id uuid, p_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.webhook_endpoints := gateway.own_webhook(p_organization_id, p_id);
begin
    perform gateway.drop_secrets(v_row.organization_id, array(
        select 'webhook/' || i from unnest(array[v_row.secret_id, v_row.previous_secret_id]) i where i is not null
    ));
    delete from public.webhook_endpoints e where e.id = v_row.id;
    perform gateway.audit(v_row.organization_id, 'webhook.deleted', 'webhook', v_row.id::text);
    return '{}';
end
$$;
comment on function public.delete_webhook(uuid, uuid) is
    'Removes an endpoint with its secrets and deliveries -> {}, for admins; GW404.';

create function public.rotate_webhook_secret(
    p_organization_id uuid, p_id uuid, p_secret_id uuid, p_secret jsonb, p_overlap_seconds integer
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_old public.webhook_endpoints := gateway.own_webhook(p_organization_id, p_id);
    v_new public.webhook_endpoints;
begin
    update public.webhook_endpoints e set
        secret_id = p_secret_id,
        previous_secret_id = case when p_overlap_seconds > 0 then v_old.secret_id end,
        previous_secret_expires_at =
            case when p_overlap_seconds > 0 then now() + make_interval(secs => p_overlap_seconds) end,
        updated_at = clock_timestamp()
    where e.id = v_old.id
    returning * into v_new;
    perform gateway.drop_secrets(v_old.organization_id, array(
        select 'webhook/' || i from unnest(array[v_old.secret_id, v_old.previous_secret_id]) i
        where i is not null and i is distinct from v_new.previous_secret_id
    ));
    perform gateway.keep_secret(v_new.organization_id, 'webhook/' || p_secret_id, p_secret);
    perform gateway.audit(
        v_new.organization_id, 'webhook.rotated', 'webhook', v_new.id::text, '{"secrets": ["signing_secret"]}'
    );
    return gateway.webhook_json(v_new);
end
$$;
comment on function public.rotate_webhook_secret(uuid, uuid, uuid, jsonb, integer) is
    'Gives an endpoint another signing secret -> Webhook, for admins. The old one signs, too, for the overlap; one from '
    'an earlier rotation no more.';

-- Deliveries --------------------------------------------------------------------------------------------------

create function public.list_webhook_deliveries(
    p_organization_id uuid, p_webhook_id uuid, p_state text default null, p_after uuid default null,
    p_limit integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_webhook public.webhook_endpoints := gateway.own_webhook(p_organization_id, p_webhook_id, false);
    v_limit integer := gateway.page_size(p_limit);
    v_rows jsonb[];
begin
    select array_agg(gateway.webhook_delivery_json(page) order by page.id desc) into v_rows
    from (
        select d.* from public.webhook_deliveries d
        where d.organization_id = v_webhook.organization_id and d.webhook_id = v_webhook.id
            and d.id < coalesce(p_after, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            and (p_state is null or d.state::text = p_state)
        order by d.id desc limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'deliveries', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_webhook_deliveries(uuid, uuid, text, uuid, integer) is
    'Deliveries of an endpoint, newest first, for admins: {"deliveries": [WebhookDelivery], "next": last id, null at the '
    'end}; of one state if given.';

create function public.redeliver_webhook(p_organization_id uuid, p_webhook_id uuid, p_delivery_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_webhook public.webhook_endpoints := gateway.own_webhook(p_organization_id, p_webhook_id);
    v_row public.webhook_deliveries;
begin
    select d.* into v_row from public.webhook_deliveries d
    where d.organization_id = v_webhook.organization_id and d.webhook_id = v_webhook.id and d.id = p_delivery_id
    for no key update;
    if not found then
        perform gateway.fail('GW404', 'WEBHOOK_DELIVERY_NOT_FOUND', 'There is no such delivery.');
    elsif not v_webhook.is_enabled then
        perform gateway.fail('GW412', 'WEBHOOK_DISABLED', 'The webhook is not enabled.');
    end if;
    if v_row.state <> 'WEBHOOK_DELIVERY_STATE_PENDING' then
        update public.webhook_deliveries d set
            state = 'WEBHOOK_DELIVERY_STATE_PENDING', attempts_left = 11, next_attempt_at = now(), leased_until = null,
            delivered_at = null
        where d.id = v_row.id
        returning * into v_row;
    end if;
    return gateway.webhook_delivery_json(v_row);
end
$$;
comment on function public.redeliver_webhook(uuid, uuid, uuid) is
    'Queues a delivery again -> WebhookDelivery, for admins; one that waits stays as it is. GW412 for a disabled '
    'endpoint.';

create function gateway.plan_deliveries() returns integer
language plpgsql security definer set search_path = ''
as $$
declare
    v_planned integer;
begin
    with taken as (
        delete from public.outbox_events o where o.id in (
            select e.id from public.outbox_events e order by e.id limit 500 for update skip locked
        )
        returning o.*
    ), planned as (
        insert into public.webhook_deliveries (organization_id, webhook_id, event_type, payload, created_at)
        select t.organization_id, e.id, t.type,
            jsonb_build_object('type', t.type, 'timestamp', t.created_at, 'data', t.payload)::text, t.created_at
        from taken t
        join public.webhook_endpoints e on e.organization_id = t.organization_id and e.is_enabled
            and (e.event_types = '{}' or gateway.webhook_event_type(t.type) = any (e.event_types))
        order by t.id
    )
    select count(*) into v_planned from taken;
    return v_planned;
end
$$;
comment on function gateway.plan_deliveries() is
    'Makes deliveries of at most 500 events, one for each endpoint that wants it -> events taken.';

create function public.take_webhook_deliveries(
    p_limit integer, p_failing_limit integer, p_each integer, p_lease_seconds integer
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_planned integer;
    v_taken jsonb;
begin
    perform gateway.require_service();
    v_planned := gateway.plan_deliveries();
    delete from public.webhook_deliveries d where d.id in (
        select old.id from public.webhook_deliveries old
        where old.id < gateway.uuid_floor(now() - interval '30 days')
            and old.state <> 'WEBHOOK_DELIVERY_STATE_PENDING'
        order by old.id limit 100 for update skip locked
    );
    -- One step from endpoint to endpoint along the index, so that a long queue of one does not hide the others.
    with recursive waiting (webhook_id) as (
        (
            select d.webhook_id from public.webhook_deliveries d
            where d.state = 'WEBHOOK_DELIVERY_STATE_PENDING' order by d.webhook_id limit 1
        )
        union all
        select (
            select d.webhook_id from public.webhook_deliveries d
            where d.state = 'WEBHOOK_DELIVERY_STATE_PENDING' and d.webhook_id > w.webhook_id
            order by d.webhook_id limit 1
        )
        from waiting w where w.webhook_id is not null
    ), due as (
        select d.id, e.failing_since is not null as is_failing
        from waiting w
        join public.webhook_endpoints e on e.id = w.webhook_id and e.is_enabled
        cross join lateral (
            select count(*)::integer as leased from public.webhook_deliveries l
            where l.webhook_id = e.id and l.leased_until > now()
        ) under_way
        cross join lateral (
            select d.id from public.webhook_deliveries d
            where d.webhook_id = e.id and d.state = 'WEBHOOK_DELIVERY_STATE_PENDING'
                and d.next_attempt_at <= now() and (d.leased_until is null or d.leased_until <= now())
            order by d.next_attempt_at
            limit greatest(case when e.failing_since is null then p_each else 1 end - under_way.leased, 0)
            for no key update skip locked
        ) d
    ), chosen as (
        select r.id from (
            select due.id, due.is_failing, row_number() over (partition by due.is_failing order by random()) as place
            from due
        ) r
        where r.place <= case when r.is_failing then p_failing_limit else p_limit end
        order by r.is_failing limit p_limit
    ), leased as (
        update public.webhook_deliveries d set
            attempts = d.attempts + 1,
            attempts_left = greatest(d.attempts_left - 1, 0),
            leased_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from chosen where d.id = chosen.id
        returning d.*
    )
    select jsonb_agg(jsonb_build_object(
        'id', l.id,
        'organization_id', l.organization_id,
        'webhook_id', l.webhook_id,
        'url', e.url,
        'payload', l.payload,
        'attempt', l.attempts,
        'attempts_since_queued', 11 - l.attempts_left,
        'is_failing', e.failing_since is not null,
        'secrets', public.reveal_secrets(l.organization_id, jsonb_build_array(
            'webhook/' || e.secret_id,
            'webhook/' || case when e.previous_secret_expires_at > now() then e.previous_secret_id end
        ))
    )) into v_taken
    from leased l join public.webhook_endpoints e on e.id = l.webhook_id;
    return jsonb_build_object('planned', v_planned, 'deliveries', coalesce(v_taken, '[]'));
end
$$;
comment on function public.take_webhook_deliveries(integer, integer, integer, integer) is
    'Plans deliveries of new events and leases due ones: at most p_limit, of them p_failing_limit to endpoints that '
    'failed last, and so that no endpoint has more than p_each under way, a failing one no more than 1 -> {"planned", '
    '"deliveries": [{id, organization_id, webhook_id, url, payload, attempt, attempts_since_queued, is_failing, '
    '"secrets": {name: envelope}}]}. For the gateway itself only.';

create function public.finish_webhook_delivery(
    p_id uuid, p_attempt integer, p_status integer default 0, p_error text default '', p_retry_seconds integer default 0,
    p_is_gone boolean default false
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.webhook_deliveries;
    v_endpoint public.webhook_endpoints;
begin
    perform gateway.require_service();
    update public.webhook_deliveries d set
        state = (case
            when p_error = '' then 'WEBHOOK_DELIVERY_STATE_DELIVERED'
            when p_is_gone or d.attempts_left = 0 then 'WEBHOOK_DELIVERY_STATE_FAILED'
            else 'WEBHOOK_DELIVERY_STATE_PENDING'
        end)::public.webhook_delivery_state,
        response_status = p_status,
        error_message = left(p_error, 500),
        delivered_at = case when p_error = '' then now() end,
        next_attempt_at = now() + make_interval(secs => p_retry_seconds),
        leased_until = null
    where d.id = p_id and d.attempts = p_attempt and d.state = 'WEBHOOK_DELIVERY_STATE_PENDING'
    returning * into v_row;
    if not found then
        return '{"is_late": true, "is_disabled": false}';
    end if;
    if p_error = '' then
        update public.webhook_endpoints e set failing_since = null
        where e.id = v_row.webhook_id and e.failing_since is not null;
        return '{"is_late": false, "is_disabled": false}';
    end if;
    update public.webhook_endpoints e set failing_since = now() where e.id = v_row.webhook_id and e.failing_since is null;
    update public.webhook_endpoints e set is_enabled = false, updated_at = clock_timestamp()
    where e.id = v_row.webhook_id and e.is_enabled and (p_is_gone or e.failing_since < now() - interval '5 days')
    returning * into v_endpoint;
    if found then
        perform gateway.audit(
            v_endpoint.organization_id, 'webhook.disabled', 'webhook', v_endpoint.id::text,
            jsonb_build_object('is_enabled', false, 'error_message', v_row.error_message)
        );
    end if;
    return jsonb_build_object('is_late', false, 'is_disabled', v_endpoint.id is not null);
end
$$;
comment on function public.finish_webhook_delivery(uuid, integer, integer, text, integer, boolean) is
    'Notes how an attempt ended -> {is_late: it was somebody else''s by then, is_disabled: the endpoint has now been}. '
    'Without an error it is delivered, else due again after p_retry_seconds, unless no attempt is left. An endpoint that '
    'is gone, or has failed for 5 days, is disabled. For the gateway itself only.';

-- Events that rows tell of -------------------------------------------------------------------------------------

create function gateway.emit_key_revoked() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    perform gateway.emit(
        new.organization_id, 'api_key.revoked', jsonb_build_object('api_key', gateway.api_key_json(new))
    );
    return null;
end
$$;
comment on function gateway.emit_key_revoked() is 'Trigger: emits api_key.revoked.';
create trigger api_keys_revoked after update on public.api_keys
    for each row when (old.revoked_at is null and new.revoked_at is not null)
    execute function gateway.emit_key_revoked();

create function gateway.emit_suspicious_caller() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    perform gateway.emit(
        new.organization_id, 'caller.suspicious',
        jsonb_build_object('security_event', gateway.security_event_json(new))
    );
    return null;
end
$$;
comment on function gateway.emit_suspicious_caller() is 'Trigger: emits caller.suspicious.';
create trigger security_logs_suspicious after insert on public.security_logs
    for each row when (new.status = 'SECURITY_EVENT_STATUS_SUSPICIOUS')
    execute function gateway.emit_suspicious_caller();

-- Who may do what ---------------------------------------------------------------------------------------------

alter table public.webhook_endpoints enable row level security;
alter table public.webhook_deliveries enable row level security;
revoke all on table public.webhook_endpoints, public.webhook_deliveries
    from public, anon, authenticated, service_role;

revoke all on all functions in schema gateway from public;

revoke all on function
    public.create_webhook(uuid, jsonb, uuid, jsonb), public.list_webhooks(uuid, uuid, integer),
    public.get_webhook(uuid, uuid), public.update_webhook(uuid, uuid, jsonb), public.delete_webhook(uuid, uuid),
    public.rotate_webhook_secret(uuid, uuid, uuid, jsonb, integer),
    public.list_webhook_deliveries(uuid, uuid, text, uuid, integer), public.redeliver_webhook(uuid, uuid, uuid),
    public.take_webhook_deliveries(integer, integer, integer, integer),
    public.finish_webhook_delivery(uuid, integer, integer, text, integer, boolean)
    from public, anon, authenticated, service_role;
grant execute on function
    public.create_webhook(uuid, jsonb, uuid, jsonb), public.list_webhooks(uuid, uuid, integer),
    public.get_webhook(uuid, uuid), public.update_webhook(uuid, uuid, jsonb), public.delete_webhook(uuid, uuid),
    public.rotate_webhook_secret(uuid, uuid, uuid, jsonb, integer),
    public.list_webhook_deliveries(uuid, uuid, text, uuid, integer), public.redeliver_webhook(uuid, uuid, uuid)
    to authenticated, authenticator;
grant execute on function
    public.take_webhook_deliveries(integer, integer, integer, integer),
    public.finish_webhook_delivery(uuid, integer, integer, text, integer, boolean)
    to service_role, authenticator;
