-- A run that waits to be sent again may have been sent before, and one whose runner is gone may not have been.

create or replace function gateway.sweep(
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
                4, 'QUEUE_TIMEOUT', case when p_reservation.attempts = 0
                    then 'The run waited too long and was not sent to n8n.'
                    else 'The run waited too long to be sent again. It may have been sent to n8n before, and nobody knows how '
                        'that ended.'
                end, p_reservation.execution_id
            )
        );
    else
        v_row := gateway.end_execution(
            p_reservation, 'EXECUTION_STATE_UNKNOWN',
            case when v_policy = 'UNKNOWN_OUTCOME_POLICY_CAPTURE' then p_reservation.amount end,
            p_error => gateway.run_error(
                2, 'OUTCOME_UNKNOWN', 'The run may have been sent to n8n, and nobody knows how it ended.',
                p_reservation.execution_id
            )
        );
    end if;
    perform gateway.tell_end(v_row);
    return case when v_policy = 'UNKNOWN_OUTCOME_POLICY_CAPTURE' and not p_reservation.queued then 'CAPTURED'
        else 'VOIDED' end;
end
$$;
