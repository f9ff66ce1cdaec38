-- A run that has not been sent has no time: least() passes over a null, and told the greatest integer.

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
                extract(epoch from coalesce(p_row.finished_at, clock_timestamp()) - p_row.started_at) * 1000,
                case when p_row.started_at is not null then 2147483647 end
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
