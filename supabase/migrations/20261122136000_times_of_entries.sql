-- Times that bound a list or a statement, and the times that entries of the ledger bear.

-- The first id of a time. There is none before 1970, so that an earlier time bounds nothing.
create or replace function gateway.uuid_floor(p_time timestamptz) returns uuid
language sql immutable set search_path = ''
as $$
    select case
        when p_time < to_timestamp(0) then '00000000-0000-0000-0000-000000000000'::uuid
        else (lpad(to_hex(floor(extract(epoch from p_time) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
    end
$$;

-- An entry is made while its account is locked, and now() is when its transaction began: before it waited for others.
-- A statement would have had an entry whose balance_after tells of entries that are of the month after.
alter table public.credit_entries alter column created_at set default clock_timestamp();
comment on column public.credit_entries.created_at is
    'When it was made, under the lock of its account: entries have one order, by id, by time and by balance_after.';

create or replace function public.list_credit_entries(
    p_organization_id uuid, p_filter jsonb default '{}', p_after uuid default null, p_limit integer default null
) returns jsonb
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER', p_inactive => true);
    v_limit integer := gateway.page_size(p_limit);
    v_start timestamptz := p_filter ->> 'start_time';
    v_end timestamptz := p_filter ->> 'end_time';
    v_kind public.credit_entry_kind := p_filter ->> 'kind';
    v_execution_id uuid := p_filter ->> 'execution_id';
    -- An entry's id is made a moment before or after the time that it bears.
    v_from uuid := gateway.uuid_floor(v_start - interval '1 minute');
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
            and (v_start is null or c.created_at >= v_start and c.id >= v_from)
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
language plpgsql security definer set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER', p_inactive => true);
    v_limit constant integer := 1000;
    v_start timestamptz := p_filter ->> 'start_time';
    v_end timestamptz := p_filter ->> 'end_time';
    -- An entry's id is made a moment before or after the time that it bears.
    v_after uuid := greatest(
        coalesce(p_after, '00000000-0000-0000-0000-000000000000'), gateway.uuid_floor(v_start - interval '1 minute')
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
