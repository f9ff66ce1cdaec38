-- Files and events say what the API says: states by their names there.

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
comment on column public.webhook_deliveries.payload is
    'The event as the database tells it, of which each attempt is the same body in the form of the API.';
