-- What the proof of the ledger did not see: an account, a run or an entry's part of it that is missing or was changed.

create or replace function public.check_credits(p_organization_id uuid default null) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_accounts bigint;
    v_found bigint;
    v_violations jsonb;
begin
    perform gateway.require_service();
    if p_organization_id is not null
        and not exists (select from public.organizations o where o.id = p_organization_id)
    then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
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
    ), step (organization_id, balance, is_end) as (
        -- Each entry leads from one balance to another, all of them from 0 to what the account has.
        select c.organization_id, c.balance_after, 1 from public.credit_entries c
        union all
        select c.organization_id, c.balance_after::bigint - c.amount, -1 from public.credit_entries c
        union all
        select a.organization_id, 0, 1 from account a
        union all
        select a.organization_id, a.balance, -1 from account a
    ), violation (rule, organization_id, execution_id) as (
        select 'each organization has an account', o.id, null::uuid
        from public.organizations o
        where (p_organization_id is null or o.id = p_organization_id)
            and not exists (select from public.credit_accounts a where a.organization_id = o.id)
        union all
        select 'the balance is the sum of the entries', a.organization_id, null
        from account a left join ledger l on l.organization_id = a.organization_id
        where a.balance <> coalesce(l.balance, 0)
        union all
        select 'granted and spent are the sums of their entries', a.organization_id, null
        from account a left join ledger l on l.organization_id = a.organization_id
        where (a.granted, a.spent) is distinct from (coalesce(l.granted, 0), coalesce(l.spent, 0))
        union all
        select 'each entry begins with the balance that another one ended with', s.organization_id, null
        from (
            select s.organization_id from step s
            where p_organization_id is null or s.organization_id = p_organization_id
            group by s.organization_id, s.balance having sum(s.is_end) <> 0
        ) s
        group by s.organization_id
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
        select 'each reservation is of an execution', r.organization_id, r.execution_id
        from public.reservations r
        where (p_organization_id is null or r.organization_id = p_organization_id)
            and not exists (
                select from public.executions e where e.organization_id = r.organization_id and e.id = r.execution_id
            )
        union all
        select 'each charge is of an execution', c.organization_id, c.execution_id
        from (
            select c.organization_id, c.execution_id from public.credit_entries c
            where c.kind = 'CREDIT_ENTRY_KIND_CHARGE'
            union all
            select u.organization_id, u.execution_id from public.unposted_charges u
        ) c
        where (p_organization_id is null or c.organization_id = p_organization_id)
            and not exists (
                select from public.executions e where e.organization_id = c.organization_id and e.id = c.execution_id
            )
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
