-- Money and what it was spent on. Only the functions here write these tables.

-- Postgres reads every CHECK anew for each statement that writes, so on these tables, which every run writes three
-- times, types say what they can: an enum and a length cost nothing.

create type public.execution_state as enum (
    'EXECUTION_STATE_PENDING', 'EXECUTION_STATE_RUNNING', 'EXECUTION_STATE_COMPLETED', 'EXECUTION_STATE_FAILED',
    'EXECUTION_STATE_CANCELLED', 'EXECUTION_STATE_TIMED_OUT', 'EXECUTION_STATE_UNKNOWN'
);
comment on type public.execution_state is 'n8ngateway.v1.ExecutionState.';

create type public.credit_entry_kind as enum (
    'CREDIT_ENTRY_KIND_GRANT', 'CREDIT_ENTRY_KIND_CHARGE', 'CREDIT_ENTRY_KIND_REFUND', 'CREDIT_ENTRY_KIND_ADJUSTMENT'
);
comment on type public.credit_entry_kind is 'n8ngateway.v1.CreditEntryKind.';

create table public.credit_accounts (
    organization_id uuid primary key references public.organizations (id),
    balance integer not null default 0 check (balance >= 0),
    updated_at timestamptz not null default now()
) with (fillfactor = 50);
comment on table public.credit_accounts is 'Balances: each the sum of its organization''s credit_entries.';

create table public.executions (
    id uuid primary key,
    organization_id uuid not null,
    workflow_id uuid not null,
    state public.execution_state not null,
    metadata jsonb not null,
    idempotency_key varchar(255),
    request_hash varchar(128),
    credits_reserved integer not null,
    credits_used integer not null default 0,
    credits_remaining integer,
    execution_time_ms integer,
    n8n_execution_id varchar(255),
    result jsonb,
    result_truncated boolean not null default false,
    error jsonb,
    created_by varchar(255) not null,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz,
    unique (organization_id, id),
    foreign key (organization_id, workflow_id) references public.workflows (organization_id, id)
);
create unique index executions_idempotency_key_idx on public.executions (organization_id, idempotency_key)
    where idempotency_key is not null;
comment on table public.executions is 'The usage log: every run that was begun, and how it ended.';
comment on column public.executions.credits_reserved is 'Taken from the balance while the run is under way; then 0.';
comment on column public.executions.credits_remaining is 'Balance right after the run was settled; null before.';
comment on column public.executions.request_hash is 'What a second call with the same idempotency key must equal.';
comment on column public.executions.error is 'google.rpc.Status as ProtoJSON; null unless the run failed.';

create table public.credit_entries (
    id uuid not null default gateway.uuid_v7(),
    organization_id uuid not null,
    kind public.credit_entry_kind not null,
    amount integer not null,
    balance_after integer not null,
    execution_id uuid,
    reverses uuid,
    reference varchar(255),
    description varchar(500) not null default '',
    created_by varchar(255) not null default '',
    created_at timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, execution_id) references public.executions (organization_id, id),
    foreign key (organization_id, reverses) references public.credit_entries (organization_id, id),
    constraint credit_entries_kind_check
        check (amount <> 0 and (kind = 'CREDIT_ENTRY_KIND_REFUND') = (reverses is not null))
);
create unique index credit_entries_charge_idx on public.credit_entries (execution_id)
    where kind = 'CREDIT_ENTRY_KIND_CHARGE';
create unique index credit_entries_reverses_idx on public.credit_entries (reverses) where reverses is not null;
create unique index credit_entries_reference_idx on public.credit_entries (organization_id, reference)
    where reference is not null;
comment on table public.credit_entries is 'The ledger: appended to, never changed. Corrections are new entries.';
comment on column public.credit_entries.reverses is 'The charge that a refund gives back; unique, so at most once.';
comment on column public.credit_entries.reference is 'Names an entry of the platform: a repeated call adds nothing.';

create function gateway.refuse_change() returns trigger
language plpgsql set search_path = ''
as $$
begin
    raise exception '% is append-only', tg_table_name using errcode = '0A000';
end
$$;
comment on function gateway.refuse_change() is 'Trigger of tables that are only ever appended to.';
create trigger credit_entries_append_only before update or delete or truncate on public.credit_entries
    for each statement execute function gateway.refuse_change();

-- The shapes that callers get ---------------------------------------------------------------------------------

create function gateway.execution_json(p_row public.executions) returns jsonb
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
        'created_at', p_row.created_at,
        'started_at', p_row.started_at,
        'finished_at', p_row.finished_at
    );
end
$$;
comment on function gateway.execution_json(public.executions) is 'ProtoJSON of n8ngateway.v1.Execution.';

create function gateway.credit_entry_json(p_row public.credit_entries) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'id', p_row.id,
        'organization_id', p_row.organization_id,
        'kind', p_row.kind,
        'amount', p_row.amount,
        'balance_after', p_row.balance_after,
        'execution_id', p_row.execution_id,
        'description', p_row.description,
        'created_by', p_row.created_by,
        'created_at', p_row.created_at
    );
end
$$;
comment on function gateway.credit_entry_json(public.credit_entries) is 'ProtoJSON of n8ngateway.v1.CreditEntry.';

-- Executions --------------------------------------------------------------------------------------------------

create function gateway.stored_outcome(p_row public.executions, p_request_hash text) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    if p_row.request_hash is distinct from p_request_hash then
        perform gateway.fail(
            'GW410', 'IDEMPOTENCY_KEY_REUSED', 'The idempotency key was used for another request.',
            jsonb_build_object('execution_id', p_row.id)
        );
    end if;
    if p_row.state in ('EXECUTION_STATE_PENDING', 'EXECUTION_STATE_RUNNING') then
        perform gateway.fail(
            'GW410', 'IDEMPOTENCY_KEY_IN_USE', 'A call with this idempotency key is still under way.',
            jsonb_build_object('execution_id', p_row.id)
        );
    end if;
    return jsonb_build_object(
        'replayed', true,
        'execution_id', p_row.id,
        'organization_id', p_row.organization_id,
        'execution', gateway.execution_json(p_row),
        'credits_remaining', p_row.credits_remaining
    );
end
$$;
comment on function gateway.stored_outcome(public.executions, text) is
    'What a call with a used idempotency key is answered: the first call''s outcome, or GW410.';

create function gateway.insufficient_credits(p_balance integer, p_price integer) returns void
language plpgsql set search_path = ''
as $$
begin
    perform gateway.fail(
        'GW412', 'INSUFFICIENT_CREDITS', 'The organization has not enough credits.',
        jsonb_build_object('balance', p_balance::text, 'price', p_price::text)
    );
end
$$;
comment on function gateway.insufficient_credits(integer, integer) is 'The one answer to a price above the balance.';

create function gateway.refuse_run(p_workflow public.workflows, p_credits integer, p_balance integer) returns void
language plpgsql set search_path = ''
as $$
begin
    if p_workflow.id is null then
        perform gateway.no_such_workflow();
    elsif not p_workflow.is_active then
        perform gateway.fail('GW412', 'WORKFLOW_INACTIVE', 'The workflow is not active.');
    elsif p_workflow.credits_per_execution > p_credits then
        perform gateway.fail(
            'GW412', 'PRICE_ABOVE_LIMIT', 'The workflow costs more than the caller agreed to pay.',
            jsonb_build_object('price', p_workflow.credits_per_execution::text, 'limit', p_credits::text)
        );
    end if;
    perform gateway.insufficient_credits(p_balance, p_workflow.credits_per_execution);
end
$$;
comment on function gateway.refuse_run(public.workflows, integer, integer) is
    'Says why a workflow cannot be run for these credits from this balance.';

create function public.begin_execution(
    p_execution_id uuid, p_organization_id uuid default null, p_workflow_id uuid default null,
    p_credits integer default null, p_idempotency_key text default null, p_request_hash text default null,
    p_metadata jsonb default '{}'
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_MEMBER');
    v_workflow_id uuid := coalesce(p_workflow_id, v_organization.default_workflow_id);
    v_found record;
    v_workflow public.workflows;
    v_known public.executions;
begin
    if jsonb_typeof(p_metadata) <> 'object' then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'The metadata is not an object.', p_fields => '{"metadata": "is no object"}'
        );
    end if;
    if p_idempotency_key is not null then
        select e.* into v_known from public.executions e
        where e.organization_id = v_organization.id and e.idempotency_key = p_idempotency_key;
        if found then
            return gateway.stored_outcome(v_known, p_request_hash);
        end if;
    end if;
    if v_workflow_id is null then
        perform gateway.fail(
            'GW412', 'WORKFLOW_REQUIRED', 'The call names no workflow and the organization has no default one.',
            p_fields => '{"workflow_id": "is needed, because the organization has no default workflow"}'
        );
    end if;
    select w as workflow, a.balance into v_found
    from public.credit_accounts a
    left join public.workflows w
        on w.organization_id = a.organization_id and w.id = v_workflow_id and w.archived_at is null
    where a.organization_id = v_organization.id;
    v_workflow := v_found.workflow;
    if (v_workflow.is_active and v_workflow.credits_per_execution <= least(v_found.balance, p_credits)) is not true then
        perform gateway.refuse_run(v_workflow, p_credits, v_found.balance);
    end if;
    with execution as (
        insert into public.executions (
            id, organization_id, workflow_id, state, metadata, idempotency_key, request_hash,
            credits_reserved, created_by, started_at
        ) values (
            p_execution_id, v_organization.id, v_workflow.id, 'EXECUTION_STATE_RUNNING', coalesce(p_metadata, '{}'),
            p_idempotency_key, p_request_hash, v_workflow.credits_per_execution, auth.jwt() ->> 'sub', now()
        ) on conflict do nothing
        returning id, organization_id, credits_reserved
    ), account as (
        update public.credit_accounts a set balance = a.balance - execution.credits_reserved, updated_at = now()
        from execution
        where a.organization_id = execution.organization_id and a.balance >= execution.credits_reserved
        returning a.balance
    ), entry as (
        insert into public.credit_entries (organization_id, kind, amount, balance_after, execution_id)
        select execution.organization_id, 'CREDIT_ENTRY_KIND_CHARGE', -execution.credits_reserved, account.balance,
            execution.id
        from execution, account where execution.credits_reserved > 0
    )
    select execution.id, account.balance into v_found from execution left join account on true;
    if v_found.id is null then
        select e.* into v_known from public.executions e
        where e.organization_id = v_organization.id and e.idempotency_key = p_idempotency_key;
        if found then
            return gateway.stored_outcome(v_known, p_request_hash);
        end if;
        perform gateway.fail('GW409', 'ALREADY_EXISTS', 'There is an execution of this id already.');
    end if;
    if v_found.balance is null then
        select a.balance into v_found from public.credit_accounts a where a.organization_id = v_organization.id;
        perform gateway.insufficient_credits(v_found.balance, v_workflow.credits_per_execution);
    end if;
    return jsonb_build_object(
        'replayed', false,
        'execution_id', p_execution_id,
        'organization_id', v_organization.id,
        'workflow', gateway.workflow_json(v_workflow),
        'credits', v_workflow.credits_per_execution,
        'credits_remaining', v_found.balance
    );
end
$$;
comment on function public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb) is
    'Checks that the caller may run the workflow for at most p_credits (null: any price), charges the price and writes '
    'the execution as running, all or nothing: {"replayed": false, execution_id, organization_id, '
    '"workflow": Workflow, credits, credits_remaining}. With an idempotency key that was used for the same request: '
    '{"replayed": true, execution_id, organization_id, "execution": Execution, credits_remaining}, and no charge.';

create function gateway.refund(p_organization_id uuid, p_execution_id uuid, p_amount integer) returns void
language plpgsql security definer set search_path = ''
as $$
declare
    v_balance integer;
begin
    update public.credit_accounts a set balance = a.balance + p_amount, updated_at = now()
    where a.organization_id = p_organization_id
    returning a.balance into v_balance;
    insert into public.credit_entries (organization_id, kind, amount, balance_after, execution_id, reverses)
    select p_organization_id, 'CREDIT_ENTRY_KIND_REFUND', p_amount, v_balance, p_execution_id, charge.id
    from public.credit_entries charge
    where charge.execution_id = p_execution_id and charge.kind = 'CREDIT_ENTRY_KIND_CHARGE';
end
$$;
comment on function gateway.refund(uuid, uuid, integer) is
    'Gives the charge of an execution back. A second refund of one charge violates a unique key.';

create function public.settle_execution(
    p_execution_id uuid, p_state text, p_duration_ms integer default null, p_result jsonb default null,
    p_error jsonb default null, p_n8n_execution_id text default null, p_result_truncated boolean default false
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.executions;
begin
    perform gateway.require_service();
    if p_state not in (
        'EXECUTION_STATE_COMPLETED', 'EXECUTION_STATE_FAILED', 'EXECUTION_STATE_CANCELLED', 'EXECUTION_STATE_TIMED_OUT'
    ) then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'An execution cannot be settled so.', p_fields => '{"state": "is not final"}'
        );
    end if;
    select e.* into v_row from public.executions e where e.id = p_execution_id for no key update;
    if not found then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
    end if;
    if v_row.state in ('EXECUTION_STATE_PENDING', 'EXECUTION_STATE_RUNNING') then
        if p_state <> 'EXECUTION_STATE_COMPLETED' and v_row.credits_reserved > 0 then
            perform gateway.refund(v_row.organization_id, v_row.id, v_row.credits_reserved);
        end if;
        update public.executions e set
            state = p_state::public.execution_state,
            credits_used = case when p_state = 'EXECUTION_STATE_COMPLETED' then v_row.credits_reserved else 0 end,
            credits_reserved = 0,
            credits_remaining = (
                select a.balance from public.credit_accounts a where a.organization_id = v_row.organization_id
            ),
            execution_time_ms = p_duration_ms,
            n8n_execution_id = p_n8n_execution_id,
            result = p_result,
            result_truncated = p_result_truncated,
            error = p_error,
            finished_at = now()
        where e.id = p_execution_id
        returning e.* into v_row;
    end if;
    return jsonb_build_object(
        'state', v_row.state,
        'credits_used', v_row.credits_used,
        'credits_remaining', v_row.credits_remaining
    );
end
$$;
comment on function public.settle_execution(uuid, text, integer, jsonb, jsonb, text, boolean) is
    'Ends a running execution; unless it completed, its charge is given back: '
    '{state, credits_used, credits_remaining}. An execution that has ended stays as it is and answers what it ended '
    'with. For the gateway itself only.';

create function public.get_execution(p_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    v_row public.executions;
begin
    select e.* into v_row from public.executions e where e.id = p_id;
    if not found then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
    end if;
    return gateway.execution_json(v_row);
end
$$;
comment on function public.get_execution(uuid) is 'Execution with its result; GW404.';

-- Credits -----------------------------------------------------------------------------------------------------

create function gateway.credit_line(p_entry public.credit_entries) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_account public.credit_accounts;
begin
    select a.* into v_account from public.credit_accounts a where a.organization_id = p_entry.organization_id;
    return jsonb_build_object(
        'entry', gateway.credit_entry_json(p_entry),
        'balance', jsonb_build_object(
            'organization_id', v_account.organization_id,
            'balance', v_account.balance,
            'reserved', 0,
            'available', v_account.balance,
            'updated_at', v_account.updated_at
        )
    );
end
$$;
comment on function gateway.credit_line(public.credit_entries) is 'ProtoJSON of n8ngateway.v1.AddCreditsResponse.';

create function public.add_credits(
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
    if v_account.balance + p_amount::bigint not between 0 and 2000000000 then
        if p_amount < 0 then
            perform gateway.insufficient_credits(v_account.balance, -p_amount);
        end if;
        -- Below the largest integer, so that every charge under way can still be given back.
        perform gateway.fail('GW412', 'BALANCE_TOO_HIGH', 'A balance cannot be raised above 2000000000 credits.');
    end if;
    update public.credit_accounts a set balance = a.balance + p_amount, updated_at = now()
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
    return gateway.credit_line(v_entry);
end
$$;
comment on function public.add_credits(uuid, integer, text, text) is
    'Adds credits (takes them when negative) -> {"entry": CreditEntry, "balance": CreditBalance}. Once for a '
    'reference: a second call answers the first one''s entry, or GW410 if the amount differs. For the platform only.';

-- Who may do what ---------------------------------------------------------------------------------------------

alter table public.credit_accounts enable row level security;
alter table public.credit_entries enable row level security;
alter table public.executions enable row level security;
revoke all on table public.credit_accounts, public.credit_entries, public.executions
    from public, anon, authenticated, service_role;
grant select on table public.credit_accounts, public.credit_entries, public.executions
    to authenticated, service_role;
create policy credit_accounts_read on public.credit_accounts for select to authenticated
    using (organization_id = any ((select gateway.caller_organizations())::uuid[]));
create policy credit_entries_read on public.credit_entries for select to authenticated
    using (organization_id = any ((select gateway.caller_organizations())::uuid[]));
create policy executions_read on public.executions for select to authenticated
    using (organization_id = any ((select gateway.caller_organizations())::uuid[]));

revoke all on all functions in schema gateway from public;
grant execute on function gateway.execution_json(public.executions) to authenticated, service_role;

revoke all on function
    public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb),
    public.settle_execution(uuid, text, integer, jsonb, jsonb, text, boolean),
    public.get_execution(uuid),
    public.add_credits(uuid, integer, text, text)
    from public, anon, authenticated, service_role;
grant execute on function public.begin_execution(uuid, uuid, uuid, integer, text, text, jsonb)
    to authenticated, authenticator;
grant execute on function
    public.settle_execution(uuid, text, integer, jsonb, jsonb, text, boolean),
    public.add_credits(uuid, integer, text, text)
    to service_role, authenticator;
grant execute on function public.get_execution(uuid) to authenticated, service_role, authenticator;
