-- What the platform gives back of a run that was charged: an entry of its own, as all corrections are.

create index credit_entries_refunds_idx on public.credit_entries (organization_id, execution_id)
    where kind = 'CREDIT_ENTRY_KIND_REFUND' and created_by <> '';

create function public.refund_execution(
    p_organization_id uuid, p_execution_id uuid, p_amount integer default null, p_description text default ''
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_account public.credit_accounts;
    v_reservation public.reservations;
    v_charge public.credit_entries;
    v_entry public.credit_entries;
    v_amount integer;
begin
    perform gateway.require_service();
    if p_amount < 1 then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A refund is of one credit at least.', p_fields => '{"amount": "must be at least 1"}'
        );
    end if;
    perform gateway.post_charges(p_organization_id);
    select a.* into v_account from public.credit_accounts a
    where a.organization_id = p_organization_id for no key update;
    if not found then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    select r.* into v_reservation from public.reservations r
    where r.organization_id = p_organization_id and r.execution_id = p_execution_id;
    if not found then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'The organization has no such execution.');
    end if;
    -- Entries order by time, and a run is charged after it was begun. One charge may have been taken back by a migration.
    select c.* into v_charge from public.credit_entries c
    where c.organization_id = p_organization_id and c.id >= gateway.uuid_floor(v_reservation.created_at)
        and c.execution_id = p_execution_id and c.kind = 'CREDIT_ENTRY_KIND_CHARGE'
        and not exists (select from public.credit_entries x where x.reverses = c.id and x.created_by = '')
    order by c.id limit 1;
    if not found then
        perform gateway.fail(
            'GW412', 'NOT_CHARGED', case when v_reservation.state = 'HELD'
                then 'The run is under way: nothing was charged for it yet.' else 'Nothing was charged for the run.' end
        );
    end if;
    v_amount := coalesce(p_amount, -v_charge.amount);
    select c.* into v_entry from public.credit_entries c where c.reverses = v_charge.id;
    if found then
        if v_entry.amount <> v_amount then
            perform gateway.fail(
                'GW410', 'ALREADY_REFUNDED', 'Another amount of this charge has been given back.',
                jsonb_build_object('amount', v_entry.amount::text)
            );
        end if;
        return gateway.credit_line(v_entry);
    elsif v_amount > -v_charge.amount then
        perform gateway.fail(
            'GW412', 'REFUND_ABOVE_CHARGE', 'A refund cannot exceed what the run was charged.',
            jsonb_build_object('charged', (-v_charge.amount)::text)
        );
    elsif v_account.balance + v_amount::bigint > 2000000000 then
        perform gateway.fail('GW412', 'BALANCE_TOO_HIGH', 'A balance cannot be raised above 2000000000 credits.');
    end if;
    update public.credit_accounts a set
        balance = a.balance + v_amount, spent = a.spent - v_amount, updated_at = now()
    where a.organization_id = p_organization_id;
    insert into public.credit_entries
        (organization_id, kind, amount, balance_after, execution_id, reverses, description, created_by)
    values (
        p_organization_id, 'CREDIT_ENTRY_KIND_REFUND', v_amount, v_account.balance + v_amount, p_execution_id,
        v_charge.id, coalesce(p_description, ''), coalesce(auth.jwt() ->> 'sub', 'platform')
    ) returning * into v_entry;
    perform gateway.note_low_balance(p_organization_id);
    return gateway.credit_line(v_entry);
end
$$;
comment on function public.refund_execution(uuid, uuid, integer, text) is
    'Gives back what a run was charged, or a part of it, once -> RefundExecutionResponse; repeated, it answers the entry '
    'that there is. For the platform only.';

create function gateway.audit_refund() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    perform gateway.audit(
        new.organization_id, 'credits.refunded', 'credits', new.id::text,
        jsonb_build_object(
            'amount', new.amount, 'balance_after', new.balance_after, 'execution_id', new.execution_id,
            'description', new.description
        )
    );
    return null;
end
$$;
comment on function gateway.audit_refund() is 'Trigger: notes what the platform gave back of a charge.';
create trigger credit_entries_audit_refund after insert on public.credit_entries
    for each row when (new.kind = 'CREDIT_ENTRY_KIND_REFUND' and new.created_by <> '')
    execute function gateway.audit_refund();

-- Usage is told less what was given back ----------------------------------------------------------------------------

create or replace function public.get_usage(
    p_organization_id uuid, p_group_by jsonb default '[]', p_filter jsonb default '{}', p_after text default null,
    p_limit integer default null
) returns jsonb
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER', p_inactive => true);
    v_limit integer := gateway.page_size(p_limit);
    v_start timestamptz := coalesce((p_filter ->> 'start_time')::timestamptz, '-infinity');
    v_end timestamptz := coalesce((p_filter ->> 'end_time')::timestamptz, 'infinity');
    v_workflow_id uuid := p_filter ->> 'workflow_id';
    v_created_by text := 'key:' || (p_filter ->> 'api_key_id');
    v_workflows uuid[] := gateway.caller_workflows();
    v_by_day boolean := p_group_by ? 'USAGE_DIMENSION_DAY';
    v_by_workflow boolean := p_group_by ? 'USAGE_DIMENSION_WORKFLOW';
    v_by_key boolean := p_group_by ? 'USAGE_DIMENSION_API_KEY';
    v_by_state boolean := p_group_by ? 'USAGE_DIMENSION_STATE';
    v_dimensions text[] := array(select jsonb_array_elements_text(p_group_by));
    v_rows jsonb[];
begin
    with counted as (
        select
            case when v_by_day then (e.created_at at time zone 'UTC')::date end as day,
            case when v_by_workflow then e.workflow_id end as workflow_id,
            case when v_by_key and starts_with(e.created_by, 'key:') then substr(e.created_by, 5) end as api_key_id,
            case when v_by_state then e.state end as state,
            count(*) as executions,
            coalesce(sum(e.credits_used - coalesce(refund.amount, 0)), 0) as credits_used,
            coalesce(ceil(sum(e.execution_time_ms) / 1000.0), 0) as seconds
        from public.executions e
        left join public.credit_entries refund
            on refund.organization_id = e.organization_id and refund.execution_id = e.id
            and refund.kind = 'CREDIT_ENTRY_KIND_REFUND' and refund.created_by <> ''
        where e.organization_id = v_organization.id
            and e.created_at >= v_start and e.created_at < v_end
            and (v_workflow_id is null or e.workflow_id = v_workflow_id)
            and (v_workflows is null or e.workflow_id = any (v_workflows))
            and (v_created_by is null or e.created_by = v_created_by)
        group by 1, 2, 3, 4
    ), keyed as (
        select c.*, array_to_string(array(
            select case d
                when 'USAGE_DIMENSION_DAY' then c.day::text
                when 'USAGE_DIMENSION_WORKFLOW' then c.workflow_id::text
                when 'USAGE_DIMENSION_API_KEY' then coalesce(c.api_key_id, '')
                when 'USAGE_DIMENSION_STATE' then c.state::text
            end
            from unnest(v_dimensions) with ordinality as dimension (d, position) order by position
        ), ',') || ',' collate "C" as key
        from counted c
    )
    select array_agg(
        jsonb_build_object(
            'day', page.day,
            'workflow_id', page.workflow_id,
            'api_key_id', page.api_key_id,
            'state', page.state,
            'executions', least(page.executions, 2147483647),
            'credits_used', least(page.credits_used, 2147483647),
            'execution_time_seconds', least(page.seconds, 2147483647),
            'key', page.key
        ) order by page.key
    ) into v_rows
    from (
        select * from keyed where p_after is null or key > p_after collate "C" order by key limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'rows', coalesce((select jsonb_agg(row - 'key') from unnest(v_rows[1:v_limit]) as row), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'key' end
    );
end
$$;

create or replace function public.export_usage(
    p_organization_id uuid, p_filter jsonb default '{}', p_after uuid default null
) returns jsonb
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER', p_inactive => true);
    v_limit constant integer := 1000;
    v_start timestamptz := coalesce((p_filter ->> 'start_time')::timestamptz, '-infinity');
    v_end timestamptz := coalesce((p_filter ->> 'end_time')::timestamptz, 'infinity');
    v_workflow_id uuid := p_filter ->> 'workflow_id';
    v_workflows uuid[] := gateway.caller_workflows();
    v_last timestamptz := '-infinity';
    v_rows jsonb[];
begin
    if p_after is not null then
        select e.created_at into v_last from public.executions e
        where e.organization_id = v_organization.id and e.id = p_after;
    end if;
    select array_agg(
        jsonb_build_object(
            'id', page.id,
            'created_at', page.created_at,
            'finished_at', page.finished_at,
            'workflow_id', page.workflow_id,
            'workflow', page.workflow,
            'state', page.state,
            'credits_used', page.credits_used,
            'execution_time_ms', page.execution_time_ms,
            'created_by', page.created_by,
            'api_key_id', case when starts_with(page.created_by, 'key:') then substr(page.created_by, 5) end,
            'n8n_execution_id', page.n8n_execution_id,
            'metadata', page.metadata,
            'credits_refunded', page.credits_refunded
        ) order by page.created_at, page.id
    ) into v_rows
    from (
        select e.*, w.name as workflow, coalesce(refund.amount, 0) as credits_refunded
        from public.executions e
        join public.workflows w on w.id = e.workflow_id
        left join public.credit_entries refund
            on refund.organization_id = e.organization_id and refund.execution_id = e.id
            and refund.kind = 'CREDIT_ENTRY_KIND_REFUND' and refund.created_by <> ''
        where e.organization_id = v_organization.id
            and (e.created_at, e.id) > (v_last, coalesce(p_after, '00000000-0000-0000-0000-000000000000'))
            and e.created_at >= v_start and e.created_at < v_end
            and (v_workflow_id is null or e.workflow_id = v_workflow_id)
            and (v_workflows is null or e.workflow_id = any (v_workflows))
        order by e.created_at, e.id limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'executions', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;

-- The proof ---------------------------------------------------------------------------------------------------------

create or replace function public.check_credits(p_organization_id uuid default null) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_accounts bigint;
    v_found bigint;
    v_violations jsonb;
begin
    perform gateway.require_service();
    with account as (
        select a.* from public.credit_accounts a
        where p_organization_id is null or a.organization_id = p_organization_id
    ), ledger as (
        select
            c.organization_id,
            sum(c.amount) as balance,
            coalesce(sum(c.amount) filter (
                where c.kind in ('CREDIT_ENTRY_KIND_GRANT', 'CREDIT_ENTRY_KIND_ADJUSTMENT')
            ), 0) as granted,
            coalesce(-sum(c.amount) filter (
                where c.kind in ('CREDIT_ENTRY_KIND_CHARGE', 'CREDIT_ENTRY_KIND_REFUND')
            ), 0) as spent
        from public.credit_entries c
        where p_organization_id is null or c.organization_id = p_organization_id
        group by c.organization_id
    ), charged as (
        select c.organization_id, c.execution_id, sum(c.credits) as credits
        from (
            select e.organization_id, e.execution_id, -e.amount as credits
            from public.credit_entries e
            where e.execution_id is not null
                -- What the platform gave back later does not change what the run was charged.
                and not (e.kind = 'CREDIT_ENTRY_KIND_REFUND' and e.created_by <> '')
            union all
            select u.organization_id, u.execution_id, u.credits from public.unposted_charges u
        ) c
        where p_organization_id is null or c.organization_id = p_organization_id
        group by c.organization_id, c.execution_id
    ), held as (
        select h.organization_id, sum(h.credits) as reserved
        from (
            select r.organization_id, r.amount as credits from public.reservations r where r.state = 'HELD'
            union all
            select u.organization_id, u.credits from public.unposted_charges u
        ) h
        where p_organization_id is null or h.organization_id = p_organization_id
        group by h.organization_id
    ), run as (
        select e.organization_id, e.id, e.finished_at, e.credits_used, r as reservation, c.credits as charged
        from public.executions e
        left join public.reservations r on r.organization_id = e.organization_id and r.execution_id = e.id
        left join charged c on c.organization_id = e.organization_id and c.execution_id = e.id
        where p_organization_id is null or e.organization_id = p_organization_id
    ), violation (rule, organization_id, execution_id) as (
        select 'the balance is the sum of the entries', a.organization_id, null::uuid
        from account a left join ledger l on l.organization_id = a.organization_id
        where a.balance <> coalesce(l.balance, 0)
        union all
        select 'granted and spent are the sums of their entries', a.organization_id, null
        from account a left join ledger l on l.organization_id = a.organization_id
        where (a.granted, a.spent) is distinct from (coalesce(l.granted, 0), coalesce(l.spent, 0))
        union all
        select 'the four columns of an account balance', a.organization_id, null
        from account a where a.balance <> a.granted - a.spent
        union all
        select 'no balance is negative, nor what is available of it', a.organization_id, null
        from account a where a.balance < 0 or a.reserved < 0 or a.reserved > a.balance
        union all
        select 'what is reserved is the sum of the reservations under way and of charges to be posted', a.organization_id, null
        from account a left join held h on h.organization_id = a.organization_id
        where a.reserved <> coalesce(h.reserved, 0)
        union all
        select 'each execution has a reservation', run.organization_id, run.id
        from run where (run.reservation).execution_id is null
        union all
        select 'a reservation is resolved when its execution has ended, and only then', run.organization_id, run.id
        from run
        where ((run.reservation).state = 'HELD') is distinct from (run.finished_at is null)
            or ((run.reservation).state = 'HELD') is distinct from ((run.reservation).resolved_at is null)
        union all
        select 'a run is charged what was captured of its reservation, once', run.organization_id, run.id
        from run
        where (run.reservation).captured <> coalesce(run.charged, 0)
            or (run.reservation).captured <> run.credits_used
            or (run.reservation).captured not between 0 and (run.reservation).amount
            or ((run.reservation).captured > 0 and (run.reservation).state <> 'CAPTURED')
        union all
        select 'a refund gives back a charge, at most what it was', c.organization_id, c.execution_id
        from public.credit_entries c
        left join public.credit_entries charge
            on charge.organization_id = c.organization_id and charge.id = c.reverses
            and charge.execution_id = c.execution_id and charge.kind = 'CREDIT_ENTRY_KIND_CHARGE'
        where c.kind = 'CREDIT_ENTRY_KIND_REFUND' and (charge.id is null or c.amount not between 1 and -charge.amount)
            and (p_organization_id is null or c.organization_id = p_organization_id)
        union all
        -- The sweeper's turn has come and gone.
        select 'a reservation is not left behind', run.organization_id, run.id
        from run
        where (run.reservation).state = 'HELD' and (run.reservation).lease_expires_at < now() - interval '10 minutes'
    )
    select
        (select count(*) from account),
        (select count(*) from violation),
        (select jsonb_agg(to_jsonb(v)) from (select * from violation limit 100) v)
    into v_accounts, v_found, v_violations;
    return jsonb_build_object(
        'accounts', v_accounts, 'found', v_found, 'violations', coalesce(v_violations, '[]')
    );
end
$$;

-- Who may do what ---------------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;
revoke all on function public.refund_execution(uuid, uuid, integer, text)
    from public, anon, authenticated, service_role;
grant execute on function public.refund_execution(uuid, uuid, integer, text) to service_role, authenticator;
