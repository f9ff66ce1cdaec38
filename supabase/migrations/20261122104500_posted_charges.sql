-- The row of an account is what all runs of an organization wait for, each until the one before is on disk. So a run
-- takes it once, when it begins: what is then captured stays reserved, as a charge to be posted, and is moved to the
-- ledger together with others. What is available is exact at any time; who reads the ledger posts first.

create table public.unposted_charges (
    organization_id uuid not null,
    execution_id uuid not null,
    credits integer not null,
    created_at timestamptz not null default now(),
    primary key (organization_id, execution_id)
);
comment on table public.unposted_charges is
    'What runs were charged and the ledger does not show yet: still in the balance, and reserved. Moved on by '
    'gateway.post_charges, at the latest by the next sweep.';

create function gateway.post_charges(p_organization_id uuid, p_may_wait boolean default true) returns void
language plpgsql security definer set search_path = ''
as $$
declare
    v_account public.credit_accounts;
    v_credits integer;
begin
    if not exists (select from public.unposted_charges u where u.organization_id = p_organization_id) then
        return;
    elsif p_may_wait then
        select a.* into v_account from public.credit_accounts a
        where a.organization_id = p_organization_id for no key update;
    else
        select a.* into v_account from public.credit_accounts a
        where a.organization_id = p_organization_id for no key update skip locked;
    end if;
    if not found then
        return;
    end if;
    with charge as (
        delete from public.unposted_charges u where u.organization_id = p_organization_id
        returning u.execution_id, u.credits, u.created_at
    ), entry as (
        insert into public.credit_entries (organization_id, kind, amount, balance_after, execution_id)
        select p_organization_id, 'CREDIT_ENTRY_KIND_CHARGE', -c.credits,
            v_account.balance - sum(c.credits) over (order by c.created_at, c.execution_id), c.execution_id
        from charge c
        order by c.created_at, c.execution_id
    )
    select sum(c.credits) into v_credits from charge c;
    if v_credits > 0 then
        update public.credit_accounts a set
            balance = a.balance - v_credits,
            spent = a.spent + v_credits,
            reserved = a.reserved - v_credits,
            updated_at = now()
        where a.organization_id = p_organization_id;
        perform gateway.note_low_balance(p_organization_id);
    end if;
end
$$;
comment on function gateway.post_charges(uuid, boolean) is
    'Moves an organization''s charges to its ledger: an entry for each, in the order in which they were made. Without '
    'p_may_wait it leaves them to whoever has the account in hand.';

create or replace function gateway.resolve(p_reservation public.reservations, p_credits integer) returns integer
language plpgsql security definer set search_path = ''
as $$
declare
    v_amount integer;
    v_captured integer;
    v_available integer;
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
    if v_captured > 0 then
        insert into public.unposted_charges (organization_id, execution_id, credits)
        values (p_reservation.organization_id, p_reservation.execution_id, v_captured);
    end if;
    if v_amount > v_captured then
        update public.credit_accounts a set reserved = a.reserved - (v_amount - v_captured), updated_at = now()
        where a.organization_id = p_reservation.organization_id
        returning a.balance - a.reserved into v_available;
    else
        select a.balance - a.reserved into v_available from public.credit_accounts a
        where a.organization_id = p_reservation.organization_id;
    end if;
    return v_available;
end
$$;

-- Those that post first ---------------------------------------------------------------------------------------------

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
    perform gateway.post_charges(p_organization_id);
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

create or replace function public.sweep_executions(
    p_limit integer default 100, p_lease_seconds integer default 60, p_longest_wait_seconds integer default 86400
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_reservation public.reservations;
    v_action text;
    v_actions jsonb := '[]';
    v_organization_id uuid;
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
    for v_organization_id in select distinct u.organization_id from public.unposted_charges u limit p_limit loop
        perform gateway.post_charges(v_organization_id, p_may_wait => false);
    end loop;
    return v_actions;
end
$$;

create or replace function public.get_credit_balance(p_organization_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER', p_inactive => true);
    v_account public.credit_accounts;
begin
    perform gateway.post_charges(v_organization.id);
    select a.* into v_account from public.credit_accounts a where a.organization_id = v_organization.id;
    return gateway.credit_balance_json(v_account);
end
$$;

create or replace function public.list_credit_entries(
    p_organization_id uuid, p_filter jsonb default '{}', p_after uuid default null, p_limit integer default null
) returns jsonb
language plpgsql volatile security definer set search_path = '' set plan_cache_mode = 'force_custom_plan'
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
    perform gateway.post_charges(v_organization.id);
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

create or replace function public.export_credit_entries(
    p_organization_id uuid, p_filter jsonb default '{}', p_after uuid default null
) returns jsonb
language plpgsql volatile security definer set search_path = '' set plan_cache_mode = 'force_custom_plan'
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
    perform gateway.post_charges(v_organization.id);
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
            from public.credit_entries e where e.execution_id is not null
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

-- Who may do what -------------------------------------------------------------------------------------------------

alter table public.unposted_charges enable row level security;
revoke all on table public.unposted_charges from public, anon, authenticated, service_role;
revoke all on all functions in schema gateway from public;
