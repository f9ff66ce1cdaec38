-- Runs that are settled together are settled in the order of their organizations, as runs are begun together: the
-- gateway says which those are. Two transactions that lock the accounts of several never wait for each other then.

drop function public.settle_execution(uuid, text, integer, jsonb, jsonb, text, boolean, text, integer, integer);
create function public.settle_execution(
    p_execution_id uuid, p_state text, p_duration_ms integer default null, p_result jsonb default null,
    p_error jsonb default null, p_n8n_execution_id text default null, p_result_truncated boolean default false,
    p_runner text default null, p_units integer default null, p_last_sequence integer default null,
    p_organization_id uuid default null
) returns jsonb
language plpgsql security definer set search_path = '' set enable_seqscan = off
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_found record;
    v_reservation public.reservations;
    v_row public.executions;
begin
    perform gateway.require_service();
    if p_state not in (
        'EXECUTION_STATE_COMPLETED', 'EXECUTION_STATE_FAILED', 'EXECUTION_STATE_CANCELLED',
        'EXECUTION_STATE_TIMED_OUT', 'EXECUTION_STATE_UNKNOWN'
    ) then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'An execution cannot be settled so.', p_fields => '{"state": "is not final"}'
        );
    end if;
    select r as reservation, e.started_at, o.has_webhooks into v_found
    from public.executions e
    join public.reservations r on r.organization_id = e.organization_id and r.execution_id = e.id
    join public.organizations o on o.id = e.organization_id
    where e.id = p_execution_id and (p_organization_id is null or e.organization_id = p_organization_id)
    for no key update of r;
    if not found then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
    end if;
    v_reservation := v_found.reservation;
    if v_reservation.state = 'HELD' then
        if p_runner <> v_reservation.runner then
            perform gateway.fail('GW412', 'LEASE_LOST', 'Another runner has the run in hand.');
        end if;
        v_row := gateway.end_execution(
            v_reservation, p_state::public.execution_state,
            case
                when p_state = 'EXECUTION_STATE_COMPLETED' then gateway.price(
                    v_reservation,
                    coalesce(
                        p_duration_ms, extract(epoch from now() - coalesce(v_found.started_at, now())) * 1000
                    ),
                    p_units
                )
                when p_state = 'EXECUTION_STATE_UNKNOWN'
                    and v_reservation.unknown_outcome_policy = 'UNKNOWN_OUTCOME_POLICY_CAPTURE'
                    then v_reservation.amount
            end,
            p_duration_ms, p_result, p_error, p_n8n_execution_id, p_result_truncated, p_last_sequence
        );
        if v_found.has_webhooks then
            perform gateway.tell_end(v_row);
        end if;
    else
        select e.* into v_row from public.executions e where e.id = p_execution_id;
    end if;
    return jsonb_build_object(
        'state', v_row.state,
        'credits_used', v_row.credits_used,
        'credits_remaining', v_row.credits_remaining
    );
end
$$;
comment on function public.settle_execution(
    uuid, text, integer, jsonb, jsonb, text, boolean, text, integer, integer, uuid
) is
    'Ends an execution: COMPLETED captures its price, by p_duration_ms or p_units where the workflow''s pricing says '
    'so; UNKNOWN captures all that is held if the workflow''s policy is CAPTURE; else what is held is given back: '
    '{state, credits_used, credits_remaining}. One that has ended stays as it is and answers what it ended with. '
    'GW412 LEASE_LOST when p_runner is given and another one has it; GW404 when p_organization_id is given and the '
    'execution is another one''s. For the gateway itself only.';

revoke all on function public.settle_execution(
    uuid, text, integer, jsonb, jsonb, text, boolean, text, integer, integer, uuid
) from public, anon, authenticated, service_role;
grant execute on function public.settle_execution(
    uuid, text, integer, jsonb, jsonb, text, boolean, text, integer, integer, uuid
) to service_role, authenticator;
