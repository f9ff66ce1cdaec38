-- A run is answered with what its runner has to know of the workflow, and not with whatever the table has: less to
-- print, to send and to read, and a column that is added stays where it is.

create or replace function public.begin_execution(
    p_execution_id uuid, p_organization_id uuid default null, p_workflow_id uuid default null,
    p_credits integer default null, p_idempotency_key text default null, p_request_hash text default null,
    p_metadata jsonb default '{}', p_runner text default null, p_lease_seconds integer default 60,
    p_queue boolean default false
) returns json
language plpgsql security definer set search_path = '' set enable_seqscan = off
set plan_cache_mode = 'force_generic_plan'
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_MEMBER');
    v_claims jsonb := auth.jwt();
    v_caller text := v_claims ->> 'sub';
    v_workflow_id uuid := coalesce(p_workflow_id, v_organization.default_workflow_id);
    v_may_wait boolean := p_queue or p_runner is not null;
    v_found record;
    v_workflow public.workflows;
    v_known public.executions;
    v_reservation public.reservations;
    v_is_limited boolean;
    v_is_running boolean;
begin
    -- Memberships alone do not say where data goes: anybody can give anybody one.
    if p_organization_id is null and p_workflow_id is null and not starts_with(v_caller, 'key:')
        and gateway.clerk_organization(v_claims) is null
    then
        perform gateway.fail(
            'GW400', 'ORGANIZATION_REQUIRED', 'The call says neither which workflow to run nor for which organization.',
            p_fields => '{"workflow_id": "is needed, because neither the call nor its token names an organization"}'
        );
    end if;
    if jsonb_typeof(p_metadata) <> 'object' then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'The metadata is not an object.', p_fields => '{"metadata": "is no object"}'
        );
    elsif not gateway.is_metadata(p_metadata) then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'The metadata are texts by name, 512 KiB at most.',
            p_fields => '{"metadata": "must be an object of strings, 512 KiB at most"}'
        );
    end if;
    if starts_with(v_caller, 'key:') and v_workflow_id <> all (gateway.caller_workflows()) then
        perform gateway.no_such_workflow();
    end if;
    if p_idempotency_key is not null then
        -- A key is free again after 24 hours; only of a run that has ended, or it would run twice at one time.
        update public.executions e set idempotency_key_expired = true
        where e.organization_id = v_organization.id and e.idempotency_key = p_idempotency_key
            and not e.idempotency_key_expired and e.created_at < now() - interval '24 hours'
            and e.finished_at is not null;
        select e.* into v_known from public.executions e
        where e.organization_id = v_organization.id and e.idempotency_key = p_idempotency_key
            and not e.idempotency_key_expired;
        if found then
            return gateway.stored_outcome(v_known, p_request_hash, v_may_wait)::json;
        end if;
    end if;
    if v_workflow_id is null then
        perform gateway.fail(
            'GW412', 'WORKFLOW_REQUIRED', 'The call names no workflow and the organization has no default one.',
            p_fields => '{"workflow_id": "is needed, because the organization has no default workflow"}'
        );
    end if;
    select w as workflow, a.balance - a.reserved as available into v_found
    from public.credit_accounts a
    left join public.workflows w
        on w.organization_id = a.organization_id and w.id = v_workflow_id and w.archived_at is null
    where a.organization_id = v_organization.id;
    v_workflow := v_found.workflow;
    if (v_workflow.is_active and v_workflow.credits_per_execution <= least(v_found.available, p_credits)) is not true
    then
        perform gateway.refuse_run(v_workflow, p_credits, v_found.available);
    end if;
    v_is_limited := v_organization.max_concurrent_executions > 0 or v_workflow.concurrency_limit > 0;
    v_is_running := not (p_queue or v_is_limited);
    if v_is_running is null or (v_may_wait or v_is_limited) and (p_lease_seconds between 1 and 600) is not true
        or v_is_running and not gateway.is_runner(p_runner)
    then
        perform gateway.refuse_lease(p_runner, p_queue);
    end if;
    with run as (
        insert into public.executions (
            id, organization_id, workflow_id, state, metadata, idempotency_key, request_hash, credits_reserved,
            created_by, started_at
        ) values (
            p_execution_id, v_organization.id, v_workflow_id,
            case when v_is_running then 'EXECUTION_STATE_RUNNING' else 'EXECUTION_STATE_PENDING' end
                ::public.execution_state,
            coalesce(p_metadata, '{}'), p_idempotency_key, p_request_hash, v_workflow.credits_per_execution,
            v_caller, case when v_is_running then now() end
        ) on conflict do nothing
        returning credits_reserved as price
    ), reservation as (
        insert into public.reservations (
            organization_id, execution_id, workflow_id, queued, amount, credits_per_unit, pricing_mode,
            unknown_outcome_policy, attempts, runner, lease_expires_at
        )
        select
            v_organization.id, p_execution_id, v_workflow_id, not v_is_running, run.price,
            v_workflow.credits_per_unit, v_workflow.pricing_mode::public.pricing_mode,
            v_workflow.unknown_outcome_policy::public.unknown_outcome_policy,
            v_is_running::integer, case when v_is_running then p_runner end,
            -- Nobody renews the lease of a run without a runner: it is the longest that there is.
            now() + make_interval(secs => case when v_may_wait or v_is_limited then p_lease_seconds else 600 end)
        from run
    ), account as (
        update public.credit_accounts a set reserved = a.reserved + run.price, updated_at = now()
        from run
        where a.organization_id = v_organization.id and run.price > 0 and a.balance - a.reserved >= run.price
        returning a.balance - a.reserved as available
    )
    select run.price, account.available into v_found from run left join account on true;
    if not found then
        select e.* into v_known from public.executions e
        where e.organization_id = v_organization.id and e.idempotency_key = p_idempotency_key
            and not e.idempotency_key_expired;
        if found then
            return gateway.stored_outcome(v_known, p_request_hash, v_may_wait)::json;
        end if;
        perform gateway.fail('GW409', 'ALREADY_EXISTS', 'There is an execution of this id already.');
    end if;
    if v_found.available is null then
        select v_found.price as price, a.balance - a.reserved as available into v_found from public.credit_accounts a
        where a.organization_id = v_organization.id;
        if v_found.price > 0 then
            perform gateway.insufficient_credits(v_found.available, v_found.price);
        end if;
    end if;
    if v_is_limited and not p_queue then
        v_reservation.organization_id := v_organization.id;
        v_reservation.execution_id := p_execution_id;
        v_reservation.workflow_id := v_workflow.id;
        v_is_running := gateway.admit(v_reservation, p_runner, p_lease_seconds);
        if not (v_is_running or v_may_wait) then
            perform gateway.fail('GW412', 'CONCURRENCY_LIMIT', 'As many runs as are allowed are under way.');
        end if;
    end if;
    return json_build_object(
        'replayed', false,
        'execution_id', p_execution_id,
        'organization_id', v_organization.id,
        'state', case when v_is_running then 'EXECUTION_STATE_RUNNING' else 'EXECUTION_STATE_PENDING' end,
        'workflow', json_build_object(
            'id', v_workflow.id,
            'webhook_path', v_workflow.webhook_path,
            'response_mode', v_workflow.response_mode,
            'credential_mode', v_workflow.credential_mode,
            'is_idempotent', v_workflow.is_idempotent,
            'unknown_outcome_policy', v_workflow.unknown_outcome_policy,
            'timeout_seconds', v_workflow.timeout_seconds,
            'idle_timeout_seconds', v_workflow.idle_timeout_seconds
        ),
        'credits', v_found.price,
        'credits_remaining', v_found.available
    );
end
$$;
comment on function public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb, text, integer, boolean) is
    'Checks that the caller may run the workflow for at most p_credits (null: any price), holds the price and writes '
    'the execution, all or nothing: {"replayed": false, execution_id, organization_id, state, "workflow": what a '
    'runner has to know of it, credits, credits_remaining}. It is RUNNING, leased to p_runner and counted as sent; or '
    'PENDING, for start_execution, with p_queue or when a limit of the organization or workflow is reached or others '
    'wait before it (GW412 for a caller without p_runner and p_queue, which cannot wait). With an idempotency key used '
    'within 24 hours for the same request: {"replayed": true, in_progress, execution_id, organization_id, "execution": '
    'Execution, credits_remaining}, and nothing else happens; GW410 for another request.';
