-- Charging in two phases: a run's price is held while the run is under way, then captured or given back, once.
--
-- Credits of an organization are in four accounts, the columns of its row in credit_accounts; a CHECK says that they
-- balance. Each movement takes from one what it gives to another:
--
--   granted -> balance              GRANT, ADJUSTMENT (back, when negative)     credit_entries
--   balance -> spent                CHARGE; back: REFUND                        credit_entries
--   balance: available -> reserved  a run is begun; back when it has ended      reservations
--
-- A reservation is resolved at most once: every function takes its row first, then the account's, and changes only
-- one that is HELD. So runs that are settled, swept, started and cancelled at one time cannot wait in a circle.

-- Rows of before -----------------------------------------------------------------------------------------------

-- In the order in which a run takes them. Calls that wait here fail whole, or find the new functions.
lock table public.executions, public.credit_accounts, public.credit_entries in share row exclusive mode;

comment on column public.executions.credits_remaining is 'Available right after the run was settled; null before.';

insert into public.reservations (
    organization_id, execution_id, workflow_id, state, queued, amount, captured, credits_per_unit, pricing_mode,
    unknown_outcome_policy, attempts, lease_expires_at, created_at, resolved_at
)
select
    e.organization_id, e.id, e.workflow_id,
    case
        when e.finished_at is null then 'HELD'
        when e.state = 'EXECUTION_STATE_COMPLETED' then 'CAPTURED'
        else 'VOIDED'
    end::public.reservation_state,
    e.state = 'EXECUTION_STATE_PENDING',
    case when e.finished_at is null then e.credits_reserved else e.credits_used end,
    e.credits_used, 0, 'PRICING_MODE_FIXED', w.unknown_outcome_policy::public.unknown_outcome_policy, 1,
    now() + interval '25 hours', e.created_at, e.finished_at
from public.executions e
join public.workflows w on w.id = e.workflow_id;

-- Runs under way were charged when they began: the charge is given back, and the price is held instead.
insert into public.credit_entries (organization_id, kind, amount, balance_after, execution_id, reverses, description)
select
    charge.organization_id, 'CREDIT_ENTRY_KIND_REFUND', -charge.amount,
    a.balance - sum(charge.amount) over (partition by charge.organization_id order by charge.id),
    charge.execution_id, charge.id, 'Held instead until the run ends'
from public.reservations r
join public.credit_entries charge
    on charge.execution_id = r.execution_id and charge.kind = 'CREDIT_ENTRY_KIND_CHARGE'
join public.credit_accounts a on a.organization_id = r.organization_id
where r.state = 'HELD'
order by charge.id;

update public.credit_accounts a set
    balance = e.granted - e.spent, granted = e.granted, spent = e.spent, reserved = r.reserved
from (
    select
        a.organization_id,
        coalesce(sum(e.amount) filter (where e.kind in ('CREDIT_ENTRY_KIND_GRANT', 'CREDIT_ENTRY_KIND_ADJUSTMENT')), 0)
            as granted,
        coalesce(-sum(e.amount) filter (where e.kind in ('CREDIT_ENTRY_KIND_CHARGE', 'CREDIT_ENTRY_KIND_REFUND')), 0)
            as spent
    from public.credit_accounts a left join public.credit_entries e on e.organization_id = a.organization_id
    group by a.organization_id
) e, lateral (
    select coalesce(sum(r.amount), 0) as reserved from public.reservations r
    where r.organization_id = e.organization_id and r.state = 'HELD'
) r
where a.organization_id = e.organization_id;
alter table public.credit_accounts
    drop constraint credit_accounts_balance_check,
    add constraint credit_accounts_balance_check
        check (balance = granted - spent and reserved >= 0 and reserved <= balance);
comment on table public.credit_accounts is
    'What each organization has. balance is the sum of its credit_entries, granted that of grants and adjustments, '
    'spent that of charges less refunds, reserved that of its reservations under way.';
comment on column public.credit_accounts.is_low is
    'The balance is below the organization''s low_balance_threshold, and credits.low has been sent.';

-- Reservations take the place of the index: a charge comes from one, and each is captured once.
drop index public.credit_entries_charge_idx;
alter table public.credit_entries
    drop constraint credit_entries_organization_id_execution_id_fkey,
    add constraint credit_entries_organization_id_execution_id_fkey
        foreign key (organization_id, execution_id) references public.reservations (organization_id, execution_id);
comment on column public.credit_entries.execution_id is 'The reservation that was captured or given back.';

-- The shapes that callers get -----------------------------------------------------------------------------------

create or replace function gateway.execution_json(p_row public.executions) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'id', p_row.id,
        'organization_id', p_row.organization_id,
        'workflow_id', p_row.workflow_id,
        'state', p_row.state,
        'metadata', p_row.metadata,
        'idempotency_key', p_row.idempotency_key,
        'credits_reserved', p_row.credits_reserved,
        'credits_used', p_row.credits_used,
        'execution_time_ms', coalesce(
            p_row.execution_time_ms,
            least(
                extract(epoch from coalesce(p_row.finished_at, clock_timestamp()) - p_row.started_at) * 1000, 2147483647
            )::integer
        ),
        'n8n_execution_id', p_row.n8n_execution_id,
        'result', p_row.result,
        'result_truncated', p_row.result_truncated,
        'error', p_row.error,
        'created_by', p_row.created_by,
        'api_key_id', case when starts_with(p_row.created_by, 'key:') then substr(p_row.created_by, 5) end,
        'last_sequence', p_row.last_sequence,
        'created_at', p_row.created_at,
        'started_at', p_row.started_at,
        'finished_at', p_row.finished_at
    );
end
$$;

create function gateway.credit_balance_json(p_row public.credit_accounts) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'organization_id', p_row.organization_id,
        'balance', p_row.balance,
        'reserved', p_row.reserved,
        'available', p_row.balance - p_row.reserved,
        'updated_at', p_row.updated_at
    );
end
$$;
comment on function gateway.credit_balance_json(public.credit_accounts) is 'ProtoJSON of n8ngateway.v1.CreditBalance.';

create or replace function gateway.credit_line(p_entry public.credit_entries) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_account public.credit_accounts;
begin
    select a.* into v_account from public.credit_accounts a where a.organization_id = p_entry.organization_id;
    return jsonb_build_object(
        'entry', gateway.credit_entry_json(p_entry), 'balance', gateway.credit_balance_json(v_account)
    );
end
$$;

create function gateway.run_error(p_code integer, p_reason text, p_message text, p_execution_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object('code', p_code, 'message', p_message, 'details', jsonb_build_array(jsonb_build_object(
        '@type', 'type.googleapis.com/google.rpc.ErrorInfo',
        'reason', p_reason,
        'domain', 'n8n-gateway',
        'metadata', jsonb_build_object('execution_id', p_execution_id)
    )));
end
$$;
comment on function gateway.run_error(integer, text, text, uuid) is
    'ProtoJSON of google.rpc.Status, for a run that ended here and not in a runner.';

-- Credits -------------------------------------------------------------------------------------------------------

create function gateway.note_low_balance(p_organization_id uuid) returns void
language plpgsql security definer set search_path = ''
as $$
declare
    v_account public.credit_accounts;
    v_threshold integer;
begin
    select o.low_balance_threshold into v_threshold from public.organizations o where o.id = p_organization_id;
    update public.credit_accounts a set is_low = a.balance < v_threshold
    where a.organization_id = p_organization_id and a.is_low <> (a.balance < v_threshold)
    returning a.* into v_account;
    if v_account.is_low then
        perform gateway.emit(p_organization_id, 'credits.low', jsonb_build_object(
            'balance', gateway.credit_balance_json(v_account), 'low_balance_threshold', v_threshold
        ));
    end if;
end
$$;
comment on function gateway.note_low_balance(uuid) is
    'Brings is_low up to date; emits credits.low when the balance has come below the threshold.';

create function gateway.reserve(
    p_organization_id uuid, p_execution_id uuid, p_workflow public.workflows, p_queued boolean, p_runner text,
    p_lease_seconds integer
) returns integer
language plpgsql security definer set search_path = ''
as $$
declare
    v_available integer;
begin
    with account as (
        update public.credit_accounts a set
            reserved = a.reserved + p_workflow.credits_per_execution, updated_at = now()
        where a.organization_id = p_organization_id and p_workflow.credits_per_execution > 0
            and a.balance - a.reserved >= p_workflow.credits_per_execution
        returning a.balance - a.reserved as available
    ), reservation as (
        insert into public.reservations (
            organization_id, execution_id, workflow_id, queued, amount, credits_per_unit, pricing_mode,
            unknown_outcome_policy, attempts, runner, lease_expires_at
        ) values (
            p_organization_id, p_execution_id, p_workflow.id, p_queued, p_workflow.credits_per_execution,
            p_workflow.credits_per_unit, p_workflow.pricing_mode::public.pricing_mode,
            p_workflow.unknown_outcome_policy::public.unknown_outcome_policy,
            case when p_queued then 0 else 1 end, case when not p_queued then p_runner end,
            -- A run without a runner is not renewed: it may take as long as a run can.
            now() + case
                when p_queued or p_runner is not null then make_interval(secs => p_lease_seconds)
                else interval '25 hours'
            end
        )
    )
    select account.available into v_available from account;
    if v_available is null then
        select a.balance - a.reserved into v_available from public.credit_accounts a
        where a.organization_id = p_organization_id;
        if p_workflow.credits_per_execution > 0 then
            perform gateway.insufficient_credits(v_available, p_workflow.credits_per_execution);
        end if;
    end if;
    return v_available;
end
$$;
comment on function gateway.reserve(uuid, uuid, public.workflows, boolean, text, integer) is
    'Holds the price of a workflow for an execution that has been inserted -> credits available after it. GW412 when '
    'there are not enough. Once for an execution: a second time violates the primary key.';

create function gateway.resolve(p_reservation public.reservations, p_credits integer) returns integer
language plpgsql security definer set search_path = ''
as $$
declare
    v_available integer;
    v_has_turned boolean;
begin
    with reservation as (
        update public.reservations r set
            state = case when p_credits is null then 'VOIDED' else 'CAPTURED' end::public.reservation_state,
            captured = least(greatest(coalesce(p_credits, 0), 0), r.amount),
            queued = false,
            resolved_at = now()
        where r.organization_id = p_reservation.organization_id and r.execution_id = p_reservation.execution_id
            and r.state = 'HELD'
        returning r.organization_id, r.execution_id, r.amount, r.captured
    ), account as (
        update public.credit_accounts a set
            balance = a.balance - r.captured,
            spent = a.spent + r.captured,
            reserved = a.reserved - r.amount,
            updated_at = now()
        from reservation r
        where a.organization_id = r.organization_id and r.amount > 0
        returning a.organization_id, a.balance, a.reserved, a.is_low
    ), entry as (
        insert into public.credit_entries (organization_id, kind, amount, balance_after, execution_id)
        select r.organization_id, 'CREDIT_ENTRY_KIND_CHARGE', -r.captured, account.balance, r.execution_id
        from reservation r, account where r.captured > 0
    )
    select account.balance - account.reserved, account.is_low <> (account.balance < o.low_balance_threshold)
    into v_available, v_has_turned
    from account join public.organizations o on o.id = account.organization_id;
    if v_has_turned then
        perform gateway.note_low_balance(p_reservation.organization_id);
    elsif v_available is null then
        select a.balance - a.reserved into v_available from public.credit_accounts a
        where a.organization_id = p_reservation.organization_id;
    end if;
    return v_available;
end
$$;
comment on function gateway.resolve(public.reservations, integer) is
    'Captures so many credits of a reservation, at most what it holds, and gives the rest back; with null it is '
    'voided. -> credits available then. One that has been resolved stays as it is.';

create function gateway.price(p_reservation public.reservations, p_duration_ms numeric, p_units integer)
    returns integer
language plpgsql stable set search_path = ''
as $$
begin
    return least(p_reservation.amount, case p_reservation.pricing_mode
        when 'PRICING_MODE_FIXED' then p_reservation.amount
        when 'PRICING_MODE_PER_SECOND'
            then greatest(1, ceil(p_duration_ms / 1000)) * p_reservation.credits_per_unit
        when 'PRICING_MODE_REPORTED_UNITS'
            then greatest(0, coalesce(p_units, 0))::numeric * p_reservation.credits_per_unit
    end);
end
$$;
comment on function gateway.price(public.reservations, numeric, integer) is
    'What a run that succeeded costs, at most what is held: for each begun second, or for each unit it reported.';

create or replace function public.add_credits(
    p_organization_id uuid, p_amount integer, p_reference text, p_description text default ''
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_account public.credit_accounts;
    v_entry public.credit_entries;
begin
    perform gateway.require_service();
    if coalesce(p_amount, 0) = 0 or coalesce(p_reference, '') = '' then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'Credits need an amount and a reference.',
            p_fields => case when coalesce(p_amount, 0) = 0 then '{"amount": "is needed"}'
                else '{"reference": "is needed"}' end::jsonb
        );
    end if;
    select a.* into v_account from public.credit_accounts a
    where a.organization_id = p_organization_id for no key update;
    if not found then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    select c.* into v_entry from public.credit_entries c
    where c.organization_id = p_organization_id and c.reference = p_reference;
    if found then
        if v_entry.amount <> p_amount then
            perform gateway.fail('GW410', 'IDEMPOTENCY_KEY_REUSED', 'The key was used for another amount of credits.');
        end if;
        return gateway.credit_line(v_entry);
    end if;
    if v_account.balance - v_account.reserved + p_amount::bigint < 0 then
        perform gateway.insufficient_credits(v_account.balance - v_account.reserved, -p_amount);
    elsif v_account.balance + p_amount::bigint > 2000000000 then
        -- What is reserved is part of the balance, so that giving it back cannot exceed this.
        perform gateway.fail('GW412', 'BALANCE_TOO_HIGH', 'A balance cannot be raised above 2000000000 credits.');
    end if;
    update public.credit_accounts a set
        balance = a.balance + p_amount, granted = a.granted + p_amount, updated_at = now()
    where a.organization_id = p_organization_id;
    insert into public.credit_entries
        (organization_id, kind, amount, balance_after, reference, description, created_by)
    values (
        p_organization_id,
        case when p_amount < 0 then 'CREDIT_ENTRY_KIND_ADJUSTMENT' else 'CREDIT_ENTRY_KIND_GRANT' end
            ::public.credit_entry_kind,
        p_amount, v_account.balance + p_amount, p_reference, coalesce(p_description, ''),
        coalesce(auth.jwt() ->> 'sub', 'platform')
    ) returning * into v_entry;
    perform gateway.note_low_balance(p_organization_id);
    return gateway.credit_line(v_entry);
end
$$;

drop function gateway.refund(uuid, uuid, integer);

-- Limits --------------------------------------------------------------------------------------------------------

create function gateway.has_room(p_reservation public.reservations) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_limits record;
    v_free integer;
begin
    select o.max_concurrent_executions as organization, w.concurrency_limit as workflow into v_limits
    from public.organizations o
    join public.workflows w on w.organization_id = o.id
    where o.id = p_reservation.organization_id and w.id = p_reservation.workflow_id;
    if v_limits.workflow > 0 and v_limits.workflow <= (
        select count(*) from (
            select from public.reservations r
            where r.organization_id = p_reservation.organization_id and r.state = 'HELD'
                and r.workflow_id = p_reservation.workflow_id
                and (not r.queued or r.execution_id < p_reservation.execution_id)
            limit v_limits.workflow
        ) running_or_ahead
    ) then
        return false;
    elsif v_limits.organization = 0 then
        return true;
    end if;
    select v_limits.organization - count(*) into v_free from (
        select from public.reservations r
        where r.organization_id = p_reservation.organization_id and r.state = 'HELD' and not r.queued
        limit v_limits.organization
    ) running;
    -- Those ahead that wait for a limit of their workflow take no place of the organization's.
    return v_free > 0 and v_free > (
        select count(*) from (
            select from (
                select r.workflow_id, row_number() over (partition by r.workflow_id order by r.execution_id) as place
                from public.reservations r
                where r.organization_id = p_reservation.organization_id and r.state = 'HELD' and r.queued
                    and r.execution_id < p_reservation.execution_id
            ) waiting
            join public.workflows w on w.id = waiting.workflow_id
            where w.concurrency_limit = 0 or waiting.place <= w.concurrency_limit - (
                select count(*) from public.reservations r
                where r.organization_id = p_reservation.organization_id and r.state = 'HELD' and not r.queued
                    and r.workflow_id = w.id
            )
            limit v_free
        ) ahead
    );
end
$$;
comment on function gateway.has_room(public.reservations) is
    'Whether a queued run may start: the limits of its organization and its workflow leave room for it after those '
    'that are ahead of it (by id) and could start, too. Certain only under a lock of the organization''s account.';

create function gateway.admit(p_reservation public.reservations, p_runner text, p_lease_seconds integer)
    returns boolean
language plpgsql security definer set search_path = ''
as $$
begin
    perform from public.credit_accounts a where a.organization_id = p_reservation.organization_id for no key update;
    if not gateway.has_room(p_reservation) then
        return false;
    end if;
    update public.reservations r set
        queued = false,
        attempts = r.attempts + 1,
        runner = p_runner,
        lease_expires_at = now() + make_interval(secs => p_lease_seconds)
    where r.organization_id = p_reservation.organization_id and r.execution_id = p_reservation.execution_id;
    update public.executions e set state = 'EXECUTION_STATE_RUNNING', started_at = now()
    where e.id = p_reservation.execution_id;
    return true;
end
$$;
comment on function gateway.admit(public.reservations, text, integer) is
    'Moves a queued run, whose reservation the caller has locked, to running if there is room for it.';

-- Begin ---------------------------------------------------------------------------------------------------------

drop function gateway.stored_outcome(public.executions, text);
create function gateway.stored_outcome(p_row public.executions, p_request_hash text, p_may_wait boolean)
    returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    v_is_ended boolean := p_row.finished_at is not null;
begin
    if p_row.request_hash is distinct from p_request_hash or p_row.workflow_id <> all (gateway.caller_workflows()) then
        perform gateway.fail(
            'GW410', 'IDEMPOTENCY_KEY_REUSED', 'The idempotency key was used for another request.',
            case when p_row.workflow_id <> all (gateway.caller_workflows()) then '{}'::jsonb
                else jsonb_build_object('execution_id', p_row.id) end
        );
    end if;
    if not (v_is_ended or p_may_wait) then
        perform gateway.fail(
            'GW410', 'IDEMPOTENCY_KEY_IN_USE', 'A call with this idempotency key is still under way.',
            jsonb_build_object('execution_id', p_row.id)
        );
    end if;
    return jsonb_build_object(
        'replayed', true,
        'in_progress', not v_is_ended,
        'execution_id', p_row.id,
        'organization_id', p_row.organization_id,
        'execution', gateway.execution_json(p_row),
        'credits_remaining', p_row.credits_remaining
    );
end
$$;
comment on function gateway.stored_outcome(public.executions, text, boolean) is
    'What a call with a used idempotency key is answered: what became of the first call. GW410 if that was another '
    'request, or has not ended and the caller cannot wait for it.';

drop function public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb);
create function public.begin_execution(
    p_execution_id uuid, p_organization_id uuid default null, p_workflow_id uuid default null,
    p_credits integer default null, p_idempotency_key text default null, p_request_hash text default null,
    p_metadata jsonb default '{}', p_runner text default null, p_lease_seconds integer default 60,
    p_queue boolean default false
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_MEMBER');
    v_workflow_id uuid := coalesce(p_workflow_id, v_organization.default_workflow_id);
    v_may_wait boolean := p_queue or p_runner is not null;
    v_found record;
    v_workflow public.workflows;
    v_known public.executions;
    v_reservation public.reservations;
    v_is_limited boolean;
    v_is_running boolean;
    v_available integer;
begin
    -- Memberships alone do not say where data goes: anybody can give anybody one.
    if p_organization_id is null and p_workflow_id is null and not starts_with(auth.jwt() ->> 'sub', 'key:')
        and gateway.clerk_organization(auth.jwt()) is null
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
    end if;
    if v_workflow_id <> all (gateway.caller_workflows()) then
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
            return gateway.stored_outcome(v_known, p_request_hash, v_may_wait);
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
    insert into public.executions (
        id, organization_id, workflow_id, state, metadata, idempotency_key, request_hash, credits_reserved,
        created_by, started_at
    ) values (
        p_execution_id, v_organization.id, v_workflow.id,
        case when v_is_running then 'EXECUTION_STATE_RUNNING' else 'EXECUTION_STATE_PENDING' end
            ::public.execution_state,
        coalesce(p_metadata, '{}'), p_idempotency_key, p_request_hash, v_workflow.credits_per_execution,
        auth.jwt() ->> 'sub', case when v_is_running then now() end
    ) on conflict do nothing;
    if not found then
        select e.* into v_known from public.executions e
        where e.organization_id = v_organization.id and e.idempotency_key = p_idempotency_key
            and not e.idempotency_key_expired;
        if found then
            return gateway.stored_outcome(v_known, p_request_hash, v_may_wait);
        end if;
        perform gateway.fail('GW409', 'ALREADY_EXISTS', 'There is an execution of this id already.');
    end if;
    v_available := gateway.reserve(
        v_organization.id, p_execution_id, v_workflow, not v_is_running, p_runner, p_lease_seconds
    );
    if v_is_limited and not p_queue then
        v_reservation.organization_id := v_organization.id;
        v_reservation.execution_id := p_execution_id;
        v_reservation.workflow_id := v_workflow.id;
        v_is_running := gateway.admit(v_reservation, p_runner, p_lease_seconds);
        if not (v_is_running or v_may_wait) then
            perform gateway.fail('GW412', 'CONCURRENCY_LIMIT', 'As many runs as are allowed are under way.');
        end if;
    end if;
    return jsonb_build_object(
        'replayed', false,
        'execution_id', p_execution_id,
        'organization_id', v_organization.id,
        'state', case when v_is_running then 'EXECUTION_STATE_RUNNING' else 'EXECUTION_STATE_PENDING' end,
        'workflow', gateway.workflow_json(v_workflow),
        'credits', v_workflow.credits_per_execution,
        'credits_remaining', v_available
    );
end
$$;
comment on function public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb, text, integer, boolean) is
    'Checks that the caller may run the workflow for at most p_credits (null: any price), holds the price and writes '
    'the execution, all or nothing: {"replayed": false, execution_id, organization_id, state, "workflow": Workflow, '
    'credits, credits_remaining}. It is RUNNING, leased to p_runner and counted as sent; or PENDING, for '
    'start_execution, with p_queue or when a limit of the organization or workflow is reached or others wait before it '
    '(GW412 for a caller without p_runner and p_queue, which cannot wait). With an idempotency key used within 24 '
    'hours for the same request: {"replayed": true, in_progress, execution_id, organization_id, "execution": Execution, '
    'credits_remaining}, and nothing else happens; GW410 for another request.';

-- End -----------------------------------------------------------------------------------------------------------

create function gateway.end_execution(
    p_reservation public.reservations, p_state public.execution_state, p_credits integer,
    p_duration_ms integer default null, p_result jsonb default null, p_error jsonb default null,
    p_n8n_execution_id text default null, p_result_truncated boolean default false, p_last_sequence integer default null
) returns public.executions
language plpgsql security definer set search_path = ''
as $$
declare
    v_available integer := gateway.resolve(p_reservation, p_credits);
    v_row public.executions;
begin
    update public.executions e set
        state = p_state,
        credits_used = coalesce(p_credits, 0),
        credits_reserved = 0,
        credits_remaining = v_available,
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
    'Ends a run whose reservation the caller has locked and found HELD: captures so many credits (null: none, voided).';

create function gateway.tell_end(p_row public.executions) returns void
language plpgsql security definer set search_path = ''
as $$
begin
    perform gateway.emit(
        p_row.organization_id, 'execution.finished',
        jsonb_build_object('execution', gateway.execution_json(p_row) - 'result')
    );
end
$$;
comment on function gateway.tell_end(public.executions) is 'Emits execution.finished, without the result.';

drop function public.settle_execution(uuid, text, integer, jsonb, jsonb, text, boolean);
create function public.settle_execution(
    p_execution_id uuid, p_state text, p_duration_ms integer default null, p_result jsonb default null,
    p_error jsonb default null, p_n8n_execution_id text default null, p_result_truncated boolean default false,
    p_runner text default null, p_units integer default null, p_last_sequence integer default null
) returns jsonb
language plpgsql security definer set search_path = ''
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
    where e.id = p_execution_id
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
    uuid, text, integer, jsonb, jsonb, text, boolean, text, integer, integer
) is
    'Ends an execution: COMPLETED captures its price, by p_duration_ms or p_units where the workflow''s pricing says '
    'so; UNKNOWN captures all that is held if the workflow''s policy is CAPTURE; else what is held is given back: '
    '{state, credits_used, credits_remaining}. One that has ended stays as it is and answers what it ended with. '
    'GW412 LEASE_LOST when p_runner is given and another one has it. For the gateway itself only.';

-- Who may do what -------------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;
grant execute on function gateway.credit_balance_json(public.credit_accounts) to authenticated, service_role;

revoke all on function
    public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb, text, integer, boolean),
    public.settle_execution(uuid, text, integer, jsonb, jsonb, text, boolean, text, integer, integer)
    from public, anon, authenticated, service_role;
grant execute on function
    public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb, text, integer, boolean)
    to authenticated, authenticator;
grant execute on function
    public.settle_execution(uuid, text, integer, jsonb, jsonb, text, boolean, text, integer, integer)
    to service_role, authenticator;
