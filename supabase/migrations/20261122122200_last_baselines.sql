-- Which of a subject's baselines is the last one: what is the same on a day is one row, so neither the row's id nor
-- its time tells when it was seen again.

alter table public.security_logs add column last_seen_at timestamptz not null default now();
comment on column public.security_logs.last_seen_at is 'Of the last call.';

create or replace function gateway.security_event_json(p_row public.security_logs) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return to_jsonb(p_row) - '{seen_on, last_seen_at}'::text[];
end
$$;

create or replace function public.note_security_events(p_events jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_noted integer;
begin
    perform gateway.require_service();
    -- In one order for all who write, so that none waits for another in a circle.
    insert into public.security_logs as known (
        organization_id, status, subject_id, session_id, signals, fingerprint, action, request_id, count, last_seen_at
    )
    select e.organization_id, e.status, e.subject_id, e.session_id, e.signals, e.fingerprint, e.action,
        left(e.request_id, 128), e.count, now() - make_interval(secs => coalesce(e.age_seconds, 0))
    from jsonb_to_recordset(p_events) as e (
        organization_id uuid, status text, subject_id text, session_id text, signals text[], fingerprint text,
        action text, request_id text, count integer, age_seconds double precision
    )
    join public.organizations o on o.id = e.organization_id
    order by e.organization_id, e.subject_id, e.session_id, e.fingerprint, e.status, e.action
    on conflict (organization_id, subject_id, session_id, fingerprint, status, action, seen_on)
    do update set
        count = least(known.count::bigint + excluded.count, 2147483647),
        last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at);
    get diagnostics v_noted = row_count;
    delete from public.security_logs l
    using (select distinct e.organization_id from jsonb_to_recordset(p_events) as e (organization_id uuid)) as seen
    where l.organization_id = seen.organization_id
        and l.id < gateway.uuid_floor(now() - interval '180 days');
    return jsonb_build_object('noted', v_noted);
end
$$;
comment on function public.note_security_events(jsonb) is
    'Adds events, an array of objects with the columns of security_logs and how long ago the last of them was '
    '(age_seconds), to those of the same day; forgets what is older than 180 days. For the gateway itself only.';

create or replace function public.find_baseline(
    p_organization_id uuid, p_subject_id text, p_session_id text, p_origin text default ''
) returns jsonb
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
            and starts_with(l.fingerprint, p_origin)
        order by l.last_seen_at desc, l.id desc limit 1
    ));
end
$$;
