-- What organizations and the platform read of credits and of what they were used for, and the proof that it is right.

create index credit_entries_execution_idx on public.credit_entries (organization_id, execution_id)
    where execution_id is not null;

-- Cut off, not rounded: a row of the second half of a millisecond belongs to that millisecond.
create or replace function gateway.uuid_floor(p_time timestamptz) returns uuid
language sql immutable set search_path = ''
as $$
    select (lpad(to_hex(floor(extract(epoch from p_time) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

create function public.get_credit_balance(p_organization_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER', p_inactive => true);
    v_account public.credit_accounts;
begin
    select a.* into v_account from public.credit_accounts a where a.organization_id = v_organization.id;
    return gateway.credit_balance_json(v_account);
end
$$;
comment on function public.get_credit_balance(uuid) is
    'CreditBalance, for viewers, also while the organization is not active.';

-- Ledger lines ----------------------------------------------------------------------------------------------------

create function public.list_credit_entries(
    p_organization_id uuid, p_filter jsonb default '{}', p_after uuid default null, p_limit integer default null
) returns jsonb
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER', p_inactive => true);
    v_limit integer := gateway.page_size(p_limit);
    v_start timestamptz := p_filter ->> 'start_time';
    v_end timestamptz := p_filter ->> 'end_time';
    v_kind public.credit_entry_kind := p_filter ->> 'kind';
    v_execution_id uuid := p_filter ->> 'execution_id';
    -- A line's id is made a moment after the time that it bears.
    v_before uuid := least(
        coalesce(p_after, 'ffffffff-ffff-ffff-ffff-ffffffffffff'), gateway.uuid_floor(v_end + interval '1 minute')
    );
    v_rows jsonb[];
begin
    select array_agg(gateway.credit_entry_json(page) order by page.id desc) into v_rows
    from (
        select c.* from public.credit_entries c
        where c.organization_id = v_organization.id
            and c.id < v_before
            and (v_start is null or c.created_at >= v_start and c.id >= gateway.uuid_floor(v_start))
            and (v_end is null or c.created_at < v_end)
            and (v_kind is null or c.kind = v_kind)
            and (v_execution_id is null or c.execution_id = v_execution_id)
        order by c.id desc limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'entries', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_credit_entries(uuid, jsonb, uuid, integer) is
    'Lines of the ledger, newest first, for viewers: {"entries": [CreditEntry], "next": last id, null at the end}. '
    'p_filter: {kind, start_time, end_time, execution_id}, each for all when absent.';

create function public.export_credit_entries(
    p_organization_id uuid, p_filter jsonb default '{}', p_after uuid default null
) returns jsonb
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER', p_inactive => true);
    v_limit constant integer := 1000;
    v_start timestamptz := p_filter ->> 'start_time';
    v_end timestamptz := p_filter ->> 'end_time';
    v_after uuid := greatest(
        coalesce(p_after, '00000000-0000-0000-0000-000000000000'), gateway.uuid_floor(v_start)
    );
    v_rows jsonb[];
begin
    select array_agg(gateway.credit_entry_json(page) order by page.id) into v_rows
    from (
        select c.* from public.credit_entries c
        where c.organization_id = v_organization.id
            and c.id > v_after
            and (v_start is null or c.created_at >= v_start)
            and (v_end is null or c.created_at < v_end and c.id < gateway.uuid_floor(v_end + interval '1 minute'))
        order by c.id limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'entries', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.export_credit_entries(uuid, jsonb, uuid) is
    'Those of a time span ({start_time, end_time}) oldest first and 1000 at a time, for a file of all of them.';

-- Usage -----------------------------------------------------------------------------------------------------------

create function public.get_usage(
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
            coalesce(sum(e.credits_used), 0) as credits_used,
            coalesce(ceil(sum(e.execution_time_ms) / 1000.0), 0) as seconds
        from public.executions e
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
comment on function public.get_usage(uuid, jsonb, jsonb, text, integer) is
    'Executions summed up by the dimensions of p_group_by (names of UsageDimension), in their order, for viewers; a '
    'confined API key sees those of its workflows: {"rows": [UsageRow], "next": key of the last row, null at the end}. '
    'p_filter: {start_time, end_time (of begin), workflow_id, api_key_id}, each for all when absent.';

create function public.export_usage(
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
            'state', replace(page.state::text, 'EXECUTION_STATE_', ''),
            'credits_used', page.credits_used,
            'execution_time_ms', page.execution_time_ms,
            'created_by', page.created_by,
            'api_key_id', case when starts_with(page.created_by, 'key:') then substr(page.created_by, 5) end,
            'n8n_execution_id', page.n8n_execution_id,
            'metadata', page.metadata
        ) order by page.created_at, page.id
    ) into v_rows
    from (
        select e.*, w.name as workflow
        from public.executions e
        join public.workflows w on w.id = e.workflow_id
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
comment on function public.export_usage(uuid, jsonb, uuid) is
    'What each execution was and cost, oldest first and 1000 at a time, for a file of all of them; for viewers. '
    'p_filter: {start_time, end_time (of begin), workflow_id}, each for all when absent.';

-- The proof -------------------------------------------------------------------------------------------------------

create function public.check_credits(p_organization_id uuid default null) returns jsonb
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
        select c.organization_id, c.execution_id, -sum(c.amount) as credits
        from public.credit_entries c
        where c.execution_id is not null and (p_organization_id is null or c.organization_id = p_organization_id)
        group by c.organization_id, c.execution_id
    ), held as (
        select r.organization_id, sum(r.amount) as reserved
        from public.reservations r
        where r.state = 'HELD' and (p_organization_id is null or r.organization_id = p_organization_id)
        group by r.organization_id
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
        select 'what is reserved is the sum of the reservations under way', a.organization_id, null
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
comment on function public.check_credits(uuid) is
    'Proves the ledger, of one organization or of all, as of one moment: {accounts, "found": how many violations, '
    '"violations": [{rule, organization_id, execution_id}], the first 100}. For the platform only.';

-- Who may do what -------------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;
revoke all on function
    public.get_credit_balance(uuid), public.list_credit_entries(uuid, jsonb, uuid, integer),
    public.export_credit_entries(uuid, jsonb, uuid), public.get_usage(uuid, jsonb, jsonb, text, integer),
    public.export_usage(uuid, jsonb, uuid), public.check_credits(uuid)
    from public, anon, authenticated, service_role;
grant execute on function
    public.get_credit_balance(uuid), public.list_credit_entries(uuid, jsonb, uuid, integer),
    public.export_credit_entries(uuid, jsonb, uuid), public.get_usage(uuid, jsonb, jsonb, text, integer),
    public.export_usage(uuid, jsonb, uuid)
    to authenticated, service_role, authenticator;
grant execute on function public.check_credits(uuid) to service_role, authenticator;
