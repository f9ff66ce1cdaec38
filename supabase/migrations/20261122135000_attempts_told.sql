-- Whoever takes a run has to know whether another runner may have told events of it.

create or replace function public.start_execution(p_execution_id uuid, p_runner text, p_lease_seconds integer default 60)
    returns jsonb
language plpgsql security definer set search_path = '' set enable_seqscan = off
as $$
declare
    v_found record;
    v_reservation public.reservations;
    v_row public.executions;
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
    elsif gateway.has_left_its_n8n(v_found.workflow) then
        v_row := gateway.end_execution(
            v_reservation, 'EXECUTION_STATE_FAILED', null, p_error => gateway.run_error(
                9, 'N8N_CHANGED', 'The workflow was registered for an n8n that its organization does not use any more.',
                p_execution_id
            )
        );
        perform gateway.tell_end(v_row);
        return jsonb_build_object('started', false, 'reason', 'ENDED');
    -- Looked at before the account is locked, so that those that wait do not hold up those that run.
    elsif not (gateway.has_room(v_reservation) and gateway.admit(v_reservation, p_runner, p_lease_seconds)) then
        return jsonb_build_object('started', false, 'reason', 'LIMIT');
    end if;
    return jsonb_build_object(
        'started', true,
        'execution_id', p_execution_id,
        'organization_id', v_reservation.organization_id,
        'workflow', gateway.workflow_json(v_found.workflow),
        'credits', v_reservation.amount,
        'attempts', v_reservation.attempts + 1
    );
end
$$;

comment on function public.start_execution(uuid, text, integer) is
    'Leases a PENDING run to a runner and counts it as sent: {"started": true, execution_id, organization_id, '
    '"workflow": Workflow, credits, attempts (how often it has been leased, this time included)}; else '
    '{"started": false, "reason": "LIMIT" (no room, or others before it), "TAKEN" (it runs) or "ENDED"}. For the gateway '
    'itself only.';
