-- A run that completes is written over in place. An index by its state had each of them put into four indexes anew,
-- for the sake of lists of those that did not complete: a column that says so, and stays as it is for all others,
-- serves these, and those that are pending or running are known by what they hold.

alter table public.executions add column has_failed boolean not null default false;
comment on column public.executions.has_failed is 'It has ended, and did not complete. Kept by end_execution.';
update public.executions e set has_failed = true
where e.state not in ('EXECUTION_STATE_PENDING', 'EXECUTION_STATE_RUNNING', 'EXECUTION_STATE_COMPLETED');
drop index public.executions_uncompleted_idx;
create index executions_failed_idx on public.executions (organization_id, created_at, id) where has_failed;
-- Room on each page for what its runs become.
alter table public.executions set (fillfactor = 70);

create or replace function gateway.end_execution(
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
        has_failed = p_state <> 'EXECUTION_STATE_COMPLETED',
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

create function gateway.held_executions(p_organization_id uuid) returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER');
    return array(
        select r.execution_id from public.reservations r
        where r.organization_id = p_organization_id and r.state = 'HELD'
    );
end
$$;
comment on function gateway.held_executions(uuid) is
    'Executions of an organization that are pending or running, for those who may see it: fails as authorize does.';

create or replace function public.list_executions(
    p_organization_id uuid default null, p_filter jsonb default '{}', p_after uuid default null,
    p_limit integer default null
) returns jsonb
-- The labels, the states and the times that are asked for decide on the index.
language plpgsql stable set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER');
    v_limit integer := gateway.page_size(p_limit);
    v_workflow_id uuid := p_filter ->> 'workflow_id';
    v_states public.execution_state[];
    v_have_failed boolean;
    v_held uuid[];
    v_metadata jsonb := p_filter -> 'metadata';
    v_start timestamptz := coalesce((p_filter ->> 'start_time')::timestamptz, '-infinity');
    v_end timestamptz := coalesce((p_filter ->> 'end_time')::timestamptz, 'infinity');
    v_last timestamptz := 'infinity';
begin
    if jsonb_array_length(p_filter -> 'states') > 0 then
        v_states := array(
            select s::public.execution_state from jsonb_array_elements_text(p_filter -> 'states') s
        );
        v_have_failed := not v_states && array[
            'EXECUTION_STATE_PENDING', 'EXECUTION_STATE_RUNNING', 'EXECUTION_STATE_COMPLETED'
        ]::public.execution_state[];
        if v_states <@ array['EXECUTION_STATE_PENDING', 'EXECUTION_STATE_RUNNING']::public.execution_state[] then
            v_held := gateway.held_executions(v_organization.id);
        end if;
    end if;
    if p_after is not null then
        select e.created_at into v_last from public.executions e where e.id = p_after;
    end if;
    return gateway.page('executions', array(
        select gateway.execution_json(e) - 'result' from public.executions e
        where e.organization_id = v_organization.id
            and (e.created_at, e.id) < (v_last, coalesce(p_after, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
            and e.created_at >= v_start and e.created_at < v_end
            and (v_workflow_id is null or e.workflow_id = v_workflow_id)
            and (v_states is null or e.state = any (v_states))
            and (v_have_failed is not true or e.has_failed)
            and (v_held is null or e.id = any (v_held))
            and (v_metadata is null or v_metadata = '{}' or (e.metadata @> v_metadata and e.metadata <> '{}'))
        order by e.created_at desc, e.id desc limit v_limit + 1
    ), v_limit);
end
$$;

revoke all on all functions in schema gateway from public;
grant execute on function gateway.held_executions(uuid) to authenticated, service_role;
