-- Deliveries take turns by organization: who has many endpoints that are slow holds up itself alone.

create or replace function public.take_webhook_deliveries(
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
    ), endpoint as (
        select e.id, e.organization_id, e.failing_since is not null as is_failing, under_way.leased,
            sum(under_way.leased) over (partition by e.organization_id) as leased_of_organization
        from waiting w
        join public.webhook_endpoints e on e.id = w.webhook_id and e.is_enabled
        cross join lateral (
            select count(*)::integer as leased from public.webhook_deliveries l
            where l.webhook_id = e.id and l.leased_until > now()
        ) under_way
    ), due as (
        select d.id, e.is_failing, e.leased_of_organization
            + row_number() over (partition by e.organization_id order by e.is_failing, random()) as turn
        from endpoint e
        cross join lateral (
            select d.id from public.webhook_deliveries d
            where d.webhook_id = e.id and d.state = 'WEBHOOK_DELIVERY_STATE_PENDING'
                and d.next_attempt_at <= now() and (d.leased_until is null or d.leased_until <= now())
            order by d.next_attempt_at
            limit greatest(case when e.is_failing then 1 else p_each end - e.leased, 0)
            for no key update skip locked
        ) d
    ), chosen as (
        -- Of each organization the first before the second of any.
        select r.id from (
            select due.id, due.is_failing,
                row_number() over (partition by due.is_failing order by due.turn, random()) as place
            from due where due.turn <= 2 * p_each
        ) r
        where r.place <= case when r.is_failing then p_failing_limit else p_limit end
        order by r.is_failing, r.place limit p_limit
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
    'failed last, and so that no endpoint has more than p_each under way, a failing one no more than 1, and no '
    'organization more than twice p_each; organizations take turns -> {"planned", '
    '"deliveries": [{id, organization_id, webhook_id, url, payload, attempt, attempts_since_queued, is_failing, '
    '"secrets": {name: envelope}}]}. For the gateway itself only.';
