-- What Postgres does for a run, in fewer steps. A bound in a regular expression, as {1,64}, has it make up to so many
-- states anew at each use; an object in jsonb is put in order when it is built, and taken apart again to be printed;
-- and a function that is not inlined costs more than the two or three comparisons in it.

-- Names of runners ---------------------------------------------------------------------------------------------------

create function gateway.is_runner(p_name text) returns boolean
language sql immutable
as $$
    select char_length(p_name) between 1 and 64 and p_name !~ '[^A-Za-z0-9._-]'
$$;
comment on function gateway.is_runner(text) is 'Whether a runner may have this name.';

create or replace function gateway.refuse_lease(p_runner text, p_queued boolean) returns void
language plpgsql set search_path = ''
as $$
begin
    if not gateway.is_runner(p_runner) then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A runner''s name has another form.',
            p_fields => '{"runner": "must be 1 to 64 of A-Z, a-z, 0-9, dot, hyphen and underscore"}'
        );
    elsif p_queued is null then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A run is queued or it is not.', p_fields => '{"queue": "is needed"}'
        );
    end if;
    perform gateway.fail(
        'GW400', 'INVALID_ARGUMENT', 'A run is leased for 1 to 600 seconds.',
        p_fields => '{"lease_seconds": "must be from 1 to 600"}'
    );
end
$$;

drop trigger reservations_named on public.reservations;
create trigger reservations_named before update of runner on public.reservations
    for each row when (not gateway.is_runner(new.runner)) execute function gateway.refuse_runner();

-- Begin --------------------------------------------------------------------------------------------------------------

drop function public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb, text, integer, boolean);
create function public.begin_execution(
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
        'workflow', v_workflow,
        'credits', v_found.price,
        'credits_remaining', v_found.available
    );
end
$$;
comment on function public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb, text, integer, boolean) is
    'Checks that the caller may run the workflow for at most p_credits (null: any price), holds the price and writes '
    'the execution, all or nothing: {"replayed": false, execution_id, organization_id, state, "workflow": its row, '
    'credits, credits_remaining}. It is RUNNING, leased to p_runner and counted as sent; or PENDING, for '
    'start_execution, with p_queue or when a limit of the organization or workflow is reached or others wait before it '
    '(GW412 for a caller without p_runner and p_queue, which cannot wait). With an idempotency key used within 24 '
    'hours for the same request: {"replayed": true, in_progress, execution_id, organization_id, "execution": Execution, '
    'credits_remaining}, and nothing else happens; GW410 for another request.';

-- End ----------------------------------------------------------------------------------------------------------------

create or replace function gateway.end_execution(
    p_reservation public.reservations, p_state public.execution_state, p_credits integer,
    p_duration_ms integer default null, p_result jsonb default null, p_error jsonb default null,
    p_n8n_execution_id text default null, p_result_truncated boolean default false, p_last_sequence integer default null
) returns public.executions
language plpgsql security definer set search_path = ''
as $$
declare
    v_amount integer;
    v_captured integer;
    v_row public.executions;
begin
    -- Not by its state: an index of those that are held would do for that, and be read from end to end.
    update public.reservations r set
        state = case when p_credits is null then 'VOIDED' else 'CAPTURED' end::public.reservation_state,
        captured = least(greatest(coalesce(p_credits, 0), 0), r.amount),
        queued = false,
        resolved_at = now()
    where r.organization_id = p_reservation.organization_id and r.execution_id = p_reservation.execution_id
        and r.resolved_at is null
    returning r.amount, r.captured into v_amount, v_captured;
    if not found then
        select e.* into v_row from public.executions e where e.id = p_reservation.execution_id;
        return v_row;
    end if;
    if v_captured > 0 then
        insert into public.unposted_charges (organization_id, execution_id, credits)
        values (p_reservation.organization_id, p_reservation.execution_id, v_captured);
    end if;
    if v_amount > v_captured then
        update public.credit_accounts a set reserved = a.reserved - (v_amount - v_captured), updated_at = now()
        where a.organization_id = p_reservation.organization_id;
    end if;
    update public.executions e set
        state = p_state,
        has_failed = p_state <> 'EXECUTION_STATE_COMPLETED',
        credits_used = v_captured,
        credits_reserved = 0,
        credits_remaining = (
            select a.balance - a.reserved from public.credit_accounts a
            where a.organization_id = p_reservation.organization_id
        ),
        execution_time_ms = p_duration_ms,
        n8n_execution_id = p_n8n_execution_id,
        result = p_result,
        result_truncated = p_result_truncated,
        error = p_error,
        last_sequence = coalesce(p_last_sequence, e.last_sequence),
        finished_at = now()
    where e.id = p_reservation.execution_id
    returning e.* into v_row;
    return v_row;
end
$$;
comment on function gateway.end_execution(
    public.reservations, public.execution_state, integer, integer, jsonb, jsonb, text, boolean, integer
) is
    'Ends a run whose reservation the caller has locked: captures so many credits, at most what it holds, and gives the '
    'rest back (null: none, voided). A run that has ended stays as it is.';

drop function gateway.resolve(public.reservations, integer);

-- Who may do what ----------------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;
revoke all on function public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb, text, integer, boolean)
    from public, anon, authenticated, service_role;
grant execute on function public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb, text, integer, boolean)
    to authenticated, authenticator;
