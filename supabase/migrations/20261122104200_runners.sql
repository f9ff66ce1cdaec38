-- A run between its begin and its end, whoever has it in hand: started from the queue, leased to a runner, taken up
-- again when the runner is gone, cancelled; and lists of runs.

-- Cancel --------------------------------------------------------------------------------------------------------

create function public.cancel_execution(p_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_reservation public.reservations;
    v_row public.executions;
begin
    select r.* into v_reservation
    from public.executions e
    join public.reservations r on r.organization_id = e.organization_id and r.execution_id = e.id
    where e.id = p_id and e.organization_id = any (gateway.caller_organizations())
        and (e.workflow_id = any (gateway.caller_workflows())) is not false
    for no key update of r;
    if not found then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
    end if;
    perform gateway.authorize(v_reservation.organization_id, 'MEMBER_ROLE_MEMBER', p_inactive => true);
    if v_reservation.state = 'HELD' and v_reservation.queued then
        v_row := gateway.end_execution(
            v_reservation, 'EXECUTION_STATE_CANCELLED', null,
            p_error => gateway.run_error(1, 'EXECUTION_CANCELLED', 'The run was cancelled.', p_id)
        );
        perform gateway.tell_end(v_row);
    else
        select e.* into v_row from public.executions e where e.id = p_id;
        if v_reservation.state = 'HELD' then
            update public.reservations r set cancel_requested_at = coalesce(r.cancel_requested_at, now())
            where r.organization_id = v_reservation.organization_id and r.execution_id = p_id;
        elsif v_row.state <> 'EXECUTION_STATE_CANCELLED' then
            perform gateway.fail(
                'GW412', 'EXECUTION_ENDED', 'The run has ended.', jsonb_build_object('state', v_row.state)
            );
        end if;
    end if;
    return gateway.execution_json(v_row) || jsonb_build_object('runner', v_reservation.runner);
end
$$;
comment on function public.cancel_execution(uuid) is
    'A PENDING run is cancelled and costs nothing; of a RUNNING one it is noted that it is to be, which renew_leases '
    'tells its runner -> Execution with its "runner", for members. One that was cancelled answers the same; GW412 for '
    'one that ended otherwise.';

-- Runners -------------------------------------------------------------------------------------------------------

create function public.start_execution(p_execution_id uuid, p_runner text, p_lease_seconds integer default 60)
    returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_found record;
    v_reservation public.reservations;
begin
    perform gateway.require_service();
    if coalesce(p_runner, '') = '' then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A run is started by a runner.', p_fields => '{"runner": "is needed"}'
        );
    end if;
    select r as reservation, w as workflow into v_found
    from public.executions e
    join public.reservations r on r.organization_id = e.organization_id and r.execution_id = e.id
    join public.workflows w on w.id = e.workflow_id
    where e.id = p_execution_id
    for no key update of r;
    if not found then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
    end if;
    v_reservation := v_found.reservation;
    if v_reservation.state <> 'HELD' then
        return jsonb_build_object('started', false, 'reason', 'ENDED');
    elsif not v_reservation.queued then
        return jsonb_build_object('started', false, 'reason', 'TAKEN');
    -- Looked at before the account is locked, so that those that wait do not hold up those that run.
    elsif not (gateway.has_room(v_reservation) and gateway.admit(v_reservation, p_runner, p_lease_seconds)) then
        return jsonb_build_object('started', false, 'reason', 'LIMIT');
    end if;
    return jsonb_build_object(
        'started', true,
        'execution_id', p_execution_id,
        'organization_id', v_reservation.organization_id,
        'workflow', gateway.workflow_json(v_found.workflow),
        'credits', v_reservation.amount
    );
end
$$;
comment on function public.start_execution(uuid, text, integer) is
    'Leases a PENDING run to a runner and counts it as sent: {"started": true, execution_id, organization_id, '
    '"workflow": Workflow, credits}; else {"started": false, "reason": "LIMIT" (no room, or others before it), '
    '"TAKEN" (it runs) or "ENDED"}. For the gateway itself only.';

create function public.renew_leases(p_runner text, p_execution_ids jsonb, p_lease_seconds integer default 60)
    returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_asked uuid[] := array(select jsonb_array_elements_text(p_execution_ids)::uuid);
    v_renewed uuid[];
    v_cancel uuid[];
begin
    perform gateway.require_service();
    with mine as materialized (
        select r.organization_id, r.execution_id
        from public.executions e
        join public.reservations r on r.organization_id = e.organization_id and r.execution_id = e.id
        where e.id = any (v_asked) and r.state = 'HELD' and r.runner = p_runner
        order by r.organization_id, r.execution_id
        for no key update of r
    ), renewed as (
        update public.reservations r set lease_expires_at = now() + make_interval(secs => p_lease_seconds)
        from mine
        where r.organization_id = mine.organization_id and r.execution_id = mine.execution_id
        returning r.execution_id, r.cancel_requested_at
    )
    select array_agg(execution_id), array_agg(execution_id) filter (where cancel_requested_at is not null)
    into v_renewed, v_cancel
    from renewed;
    return jsonb_build_object(
        'lost', to_jsonb(array(select i from unnest(v_asked) i where i <> all (coalesce(v_renewed, '{}')))),
        'cancel', to_jsonb(coalesce(v_cancel, '{}'))
    );
end
$$;
comment on function public.renew_leases(text, jsonb, integer) is
    'Prolongs a runner''s leases of runs: {"lost": [ids that it has no more], "cancel": [ids that a caller wants '
    'cancelled]}. For the gateway itself only.';

create function public.sweep_executions(
    p_limit integer default 100, p_lease_seconds integer default 60, p_longest_wait_seconds integer default 86400
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_reservation public.reservations;
    v_action text;
    v_actions jsonb := '[]';
begin
    perform gateway.require_service();
    for v_reservation in
        with expired as materialized (
            select r.* from public.reservations r
            where r.state = 'HELD' and r.lease_expires_at < now()
            order by r.lease_expires_at limit p_limit
            for no key update skip locked
        )
        select * from expired order by organization_id, execution_id
    loop
        v_action := gateway.sweep(v_reservation, p_lease_seconds, p_longest_wait_seconds);
        v_actions := v_actions || jsonb_build_object(
            'execution_id', v_reservation.execution_id,
            'organization_id', v_reservation.organization_id,
            'action', v_action
        );
    end loop;
    return v_actions;
end
$$;
comment on function public.sweep_executions(integer, integer, integer) is
    'Takes up to so many runs whose lease has run out, each by one caller: [{execution_id, organization_id, action}]. '
    'VOIDED or CAPTURED: it has ended. RETRY: it is PENDING, to be queued again; for p_lease_seconds nobody else is '
    'told. For the gateway itself only.';

create function gateway.sweep(
    p_reservation public.reservations, p_lease_seconds integer, p_longest_wait_seconds integer
) returns text
language plpgsql security definer set search_path = ''
as $$
declare
    v_policy public.unknown_outcome_policy := p_reservation.unknown_outcome_policy;
    v_is_retried boolean := case
        when p_reservation.cancel_requested_at is not null then false
        when p_reservation.queued
            then p_reservation.created_at > now() - make_interval(secs => p_longest_wait_seconds)
        -- A run that ends its runner again and again must not go on for ever.
        else v_policy = 'UNKNOWN_OUTCOME_POLICY_RETRY' and p_reservation.attempts < 5
    end;
    v_row public.executions;
begin
    if v_is_retried then
        update public.reservations r set
            queued = true, runner = null, lease_expires_at = now() + make_interval(secs => p_lease_seconds)
        where r.organization_id = p_reservation.organization_id and r.execution_id = p_reservation.execution_id;
        if not p_reservation.queued then
            update public.executions e set state = 'EXECUTION_STATE_PENDING', started_at = null
            where e.id = p_reservation.execution_id;
        end if;
        return 'RETRY';
    elsif p_reservation.queued then
        v_row := gateway.end_execution(
            p_reservation, 'EXECUTION_STATE_TIMED_OUT', null, p_error => gateway.run_error(
                4, 'QUEUE_TIMEOUT', 'The run waited too long and was not sent to n8n.', p_reservation.execution_id
            )
        );
    else
        v_row := gateway.end_execution(
            p_reservation, 'EXECUTION_STATE_UNKNOWN',
            case when v_policy = 'UNKNOWN_OUTCOME_POLICY_CAPTURE' then p_reservation.amount end,
            p_error => gateway.run_error(
                2, 'OUTCOME_UNKNOWN', 'The run was sent to n8n, and nobody knows how it ended.',
                p_reservation.execution_id
            )
        );
    end if;
    perform gateway.tell_end(v_row);
    return case when v_policy = 'UNKNOWN_OUTCOME_POLICY_CAPTURE' and not p_reservation.queued then 'CAPTURED'
        else 'VOIDED' end;
end
$$;
comment on function gateway.sweep(public.reservations, integer, integer) is
    'What becomes of a run whose lease has run out, its reservation being locked: RETRY if it was never sent and has '
    'not waited too long, or may be sent again; else it ends, CAPTURED or VOIDED.';

-- Lists ---------------------------------------------------------------------------------------------------------

create function public.list_executions(
    p_organization_id uuid default null, p_filter jsonb default '{}', p_after uuid default null,
    p_limit integer default null
) returns jsonb
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER');
    v_limit integer := gateway.page_size(p_limit);
    v_workflow_id uuid := p_filter ->> 'workflow_id';
    v_states public.execution_state[];
    v_metadata jsonb := p_filter -> 'metadata';
    v_start timestamptz := coalesce((p_filter ->> 'start_time')::timestamptz, '-infinity');
    v_end timestamptz := coalesce((p_filter ->> 'end_time')::timestamptz, 'infinity');
    v_last timestamptz := 'infinity';
    v_rows jsonb[];
begin
    if jsonb_array_length(p_filter -> 'states') > 0 then
        v_states := array(
            select s::public.execution_state from jsonb_array_elements_text(p_filter -> 'states') s
        );
    end if;
    if p_after is not null then
        select e.created_at into v_last from public.executions e where e.id = p_after;
    end if;
    select array_agg(gateway.execution_json(page) - 'result' order by page.created_at desc, page.id desc) into v_rows
    from (
        select e.* from public.executions e
        where e.organization_id = v_organization.id
            and (e.created_at, e.id) < (v_last, coalesce(p_after, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
            and e.created_at >= v_start and e.created_at < v_end
            and (v_workflow_id is null or e.workflow_id = v_workflow_id)
            and (v_states is null or e.state = any (v_states))
            and (v_metadata is null or v_metadata = '{}' or (e.metadata @> v_metadata and e.metadata <> '{}'))
        order by e.created_at desc, e.id desc limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'executions', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_executions(uuid, jsonb, uuid, integer) is
    'One organization''s executions without their results, newest first: {"executions": [Execution], "next": last id, '
    'null at the end}. p_filter: {workflow_id, "states": [name], start_time, end_time (of begin), "metadata": {name: '
    'value}}, each for all when absent.';

-- Who may do what -------------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;

revoke all on function
    public.cancel_execution(uuid), public.start_execution(uuid, text, integer),
    public.renew_leases(text, jsonb, integer), public.sweep_executions(integer, integer, integer),
    public.list_executions(uuid, jsonb, uuid, integer)
    from public, anon, authenticated, service_role;
grant execute on function public.cancel_execution(uuid), public.list_executions(uuid, jsonb, uuid, integer)
    to authenticated, authenticator;
grant execute on function
    public.start_execution(uuid, text, integer), public.renew_leases(text, jsonb, integer),
    public.sweep_executions(integer, integer, integer)
    to service_role, authenticator;
