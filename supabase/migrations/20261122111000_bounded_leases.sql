-- What a member's own token may begin directly, around the gateway, ends by itself and soon: whoever begins a run says
-- who has it in hand and for how long, and the longest that can be said is ten minutes.

create function gateway.refuse_lease() returns trigger
language plpgsql set search_path = ''
as $$
begin
    if new.runner !~ '^[A-Za-z0-9._-]{1,64}$' then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A runner''s name has another form.',
            p_fields => '{"runner": "must be 1 to 64 of A-Z, a-z, 0-9, dot, hyphen and underscore"}'
        );
    elsif new.queued is null then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A run is queued or it is not.', p_fields => '{"queue": "is needed"}'
        );
    elsif new.runner is null and not new.queued and new.lease_expires_at > now() then
        new.lease_expires_at := least(new.lease_expires_at, now() + interval '10 minutes');
        return new;
    end if;
    perform gateway.fail(
        'GW400', 'INVALID_ARGUMENT', 'A run is leased for 1 to 600 seconds.',
        p_fields => '{"lease_seconds": "must be from 1 to 600"}'
    );
end
$$;
comment on function gateway.refuse_lease() is
    'Refuses a lease that is out of bounds; one without a runner, which nobody renews, is cut to the longest.';

-- Conditions of triggers, so that a run within bounds pays for no function.
create trigger reservations_leased before insert on public.reservations
    for each row when (
        (new.lease_expires_at > now() and new.lease_expires_at <= now() + interval '10 minutes') is not true
        or new.queued is null or new.runner !~ '^[A-Za-z0-9._-]{1,64}$'
    ) execute function gateway.refuse_lease();
create trigger reservations_named before update of runner on public.reservations
    for each row when (new.runner !~ '^[A-Za-z0-9._-]{1,64}$') execute function gateway.refuse_lease();

create function gateway.refuse_metadata() returns trigger
language plpgsql set search_path = ''
as $$
begin
    perform gateway.fail(
        'GW400', 'INVALID_ARGUMENT', 'The metadata are texts by name, 512 KiB at most.',
        p_fields => '{"metadata": "must be an object of strings, 512 KiB at most"}'
    );
end
$$;
comment on function gateway.refuse_metadata() is
    'Refuses metadata that no Execution has room for: one such row would spoil each list that it is on.';

create trigger executions_labelled before insert on public.executions
    for each row when (
        new.metadata <> '{}' and (
            new.metadata @? 'strict $.* ? (@.type() != "string")' or octet_length(new.metadata::text) > 524288
        )
    ) execute function gateway.refuse_metadata();

-- The sweep takes turns by organization: who has many runs taken up keeps nobody else's waiting.

create index reservations_expiry_idx on public.reservations (organization_id, lease_expires_at) where state = 'HELD';
drop index public.reservations_lease_idx;

create or replace function public.sweep_executions(
    p_limit integer default 100, p_lease_seconds integer default 60, p_longest_wait_seconds integer default 86400
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_reservation public.reservations;
    v_action text;
    v_actions jsonb := '[]';
    v_organization_id uuid;
begin
    perform gateway.require_service();
    for v_reservation in
        -- One step from organization to organization along the index.
        with recursive organization (id) as (
            (
                select r.organization_id from public.reservations r
                where r.state = 'HELD' order by r.organization_id limit 1
            )
            union all
            select (
                select r.organization_id from public.reservations r
                where r.state = 'HELD' and r.organization_id > o.id order by r.organization_id limit 1
            )
            from organization o where o.id is not null
        ), expired as (
            select r.organization_id, r.execution_id, r.lease_expires_at,
                row_number() over (partition by r.organization_id order by r.lease_expires_at) as turn
            from organization o
            cross join lateral (
                select r.organization_id, r.execution_id, r.lease_expires_at from public.reservations r
                where r.organization_id = o.id and r.state = 'HELD' and r.lease_expires_at < now()
                order by r.lease_expires_at limit p_limit
            ) r
        ), chosen as (
            select e.organization_id, e.execution_id from expired e order by e.turn, e.lease_expires_at limit p_limit
        ), locked as materialized (
            select r.* from chosen c
            join public.reservations r using (organization_id, execution_id)
            where r.state = 'HELD' and r.lease_expires_at < now()
            for no key update of r skip locked
        )
        select * from locked order by organization_id, execution_id
    loop
        v_action := gateway.sweep(v_reservation, p_lease_seconds, p_longest_wait_seconds);
        v_actions := v_actions || jsonb_build_object(
            'execution_id', v_reservation.execution_id,
            'organization_id', v_reservation.organization_id,
            'action', v_action
        );
    end loop;
    for v_organization_id in select distinct u.organization_id from public.unposted_charges u limit p_limit loop
        perform gateway.post_charges(v_organization_id, p_may_wait => false);
    end loop;
    return v_actions;
end
$$;
comment on function public.sweep_executions(integer, integer, integer) is
    'Takes up to so many runs whose lease has run out, each by one caller and organizations in turn: [{execution_id, '
    'organization_id, action}]. VOIDED or CAPTURED: it has ended. RETRY: it is PENDING, to be queued again; for '
    'p_lease_seconds nobody else is told. For the gateway itself only.';

revoke all on all functions in schema gateway from public;
