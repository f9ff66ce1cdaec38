-- What was noticed about callers: the fingerprints that sessions and keys began with, and those that differ.

create table public.security_logs (
    id uuid not null default gateway.uuid_v7(),
    organization_id uuid not null references public.organizations (id),
    status text not null check (status in ('SECURITY_EVENT_STATUS_BASELINE', 'SECURITY_EVENT_STATUS_SUSPICIOUS')),
    subject_id text not null,
    session_id text not null default '',
    signals text[] not null default '{}' check (signals <@ array['user_agent', 'network']),
    fingerprint text not null check (fingerprint ~ '^[0-9a-f]{64}$'),
    action text not null check (action in ('logged', 'challenged', 'denied')),
    request_id text not null default '',
    count integer not null check (count > 0),
    seen_on date not null default (now() at time zone 'utc')::date,
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, subject_id, session_id, fingerprint, status, action, seen_on)
);
comment on table public.security_logs is
    'What was noticed about callers, one row a day for what is the same. Nobody reads it but functions.';
comment on column public.security_logs.fingerprint is
    'The first 8 characters name the key, 28 are a MAC of the network and 28 one of the user agent, each with the '
    'organization. The values themselves are not kept.';
comment on column public.security_logs.request_id is 'Of the first call.';
comment on column public.security_logs.count is 'Calls that the row stands for.';

create function gateway.security_event_json(p_row public.security_logs) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return to_jsonb(p_row) - 'seen_on';
end
$$;
comment on function gateway.security_event_json(public.security_logs) is 'ProtoJSON of n8ngateway.v1.SecurityEvent.';

create function public.note_security_events(p_events jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_noted integer;
begin
    perform gateway.require_service();
    -- In one order for all who write, so that none waits for another in a circle.
    insert into public.security_logs as known (
        organization_id, status, subject_id, session_id, signals, fingerprint, action, request_id, count
    )
    select e.organization_id, e.status, e.subject_id, e.session_id, e.signals, e.fingerprint, e.action,
        left(e.request_id, 128), e.count
    from jsonb_to_recordset(p_events) as e (
        organization_id uuid, status text, subject_id text, session_id text, signals text[], fingerprint text,
        action text, request_id text, count integer
    )
    join public.organizations o on o.id = e.organization_id
    order by e.organization_id, e.subject_id, e.session_id, e.fingerprint, e.status, e.action
    on conflict (organization_id, subject_id, session_id, fingerprint, status, action, seen_on)
    do update set count = least(known.count::bigint + excluded.count, 2147483647);
    get diagnostics v_noted = row_count;
    delete from public.security_logs l
    using (select distinct e.organization_id from jsonb_to_recordset(p_events) as e (organization_id uuid)) as seen
    where l.organization_id = seen.organization_id
        and l.id < gateway.uuid_floor(now() - interval '180 days');
    return jsonb_build_object('noted', v_noted);
end
$$;
comment on function public.note_security_events(jsonb) is
    'Adds events, an array of objects with the columns of security_logs, to those of the same day; forgets what is '
    'older than 180 days. For the gateway itself only.';

create function public.find_baseline(p_organization_id uuid, p_subject_id text, p_session_id text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    return jsonb_build_object('fingerprint', (
        select l.fingerprint from public.security_logs l
        where l.organization_id = p_organization_id
            and l.subject_id = p_subject_id
            and l.session_id = p_session_id
            and l.status = 'SECURITY_EVENT_STATUS_BASELINE'
            -- A key that was rotated begins anew.
            and l.created_at > coalesce((
                select max(a.created_at) from public.audit_events a
                where a.organization_id = p_organization_id
                    and a.resource_id = p_subject_id
                    and a.action = 'api_key.rotated'
            ), '-infinity')
        order by l.id desc limit 1
    ));
end
$$;
comment on function public.find_baseline(uuid, text, text) is
    'What the calls of a session or key are compared with: {"fingerprint": the last baseline, or null}. For the '
    'gateway itself only.';

create function public.list_security_events(
    p_organization_id uuid, p_status text default null, p_subject_id text default null,
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
    select array_agg(gateway.security_event_json(page) order by page.id desc) into v_rows
    from (
        select l.* from public.security_logs l
        where l.organization_id = v_organization.id
            and l.id < v_before
            and (p_start_time is null or l.created_at >= p_start_time and l.id >= gateway.uuid_floor(p_start_time))
            and (p_end_time is null or l.created_at < p_end_time)
            and (p_status is null or l.status = p_status)
            and (p_subject_id is null or l.subject_id = p_subject_id)
        order by l.id desc limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'security_events', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_security_events(uuid, text, text, timestamptz, timestamptz, uuid, integer) is
    'One organization''s security events, newest first, for admins, also while it is not active: {"security_events": '
    '[SecurityEvent], "next": last id, null at the end}; narrowed by what is given.';

alter table public.security_logs enable row level security;
revoke all on table public.security_logs from public, anon, authenticated, service_role;

revoke all on all functions in schema gateway from public;
revoke all on function
    public.note_security_events(jsonb),
    public.find_baseline(uuid, text, text),
    public.list_security_events(uuid, text, text, timestamptz, timestamptz, uuid, integer)
    from public, anon, authenticated, service_role;
grant execute on function
    public.note_security_events(jsonb),
    public.find_baseline(uuid, text, text)
    to service_role, authenticator;
grant execute on function
    public.list_security_events(uuid, text, text, timestamptz, timestamptz, uuid, integer)
    to authenticated, authenticator;
