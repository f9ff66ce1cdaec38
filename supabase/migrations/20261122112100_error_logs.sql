-- What n8n reported is read through the API too.

create function gateway.error_log_json(p_row public.error_logs) returns jsonb
language sql stable set search_path = ''
as $$
    select to_jsonb(p_row)
$$;
comment on function gateway.error_log_json(public.error_logs) is 'ProtoJSON of n8ngateway.v1.ErrorLog.';

create function public.list_error_logs(
    p_organization_id uuid, p_execution_id uuid default null, p_start_time timestamptz default null,
    p_end_time timestamptz default null, p_after uuid default null, p_limit integer default null
) returns jsonb
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'force_custom_plan'
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN', p_inactive => true);
    v_limit integer := gateway.page_size(p_limit);
    v_before uuid := least(
        coalesce(p_after, 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
        -- An id is made a moment after the time that its row bears.
        gateway.uuid_floor(p_end_time + interval '1 minute')
    );
    v_rows jsonb[];
begin
    select array_agg(gateway.error_log_json(page) order by page.id desc) into v_rows
    from (
        select l.* from public.error_logs l
        where l.organization_id = v_organization.id
            and l.id < v_before
            and (p_start_time is null or l.created_at >= p_start_time and l.id >= gateway.uuid_floor(p_start_time))
            and (p_end_time is null or l.created_at < p_end_time)
            and (p_execution_id is null or l.execution_id = p_execution_id)
        order by l.id desc limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'error_logs', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_error_logs(uuid, uuid, timestamptz, timestamptz, uuid, integer) is
    'An organization''s reported failures, newest first, for admins: {"error_logs": [ErrorLog], "next": id of the last '
    'one, null at the end}. Of one execution, and of a time span, where these are given.';

revoke all on all functions in schema gateway from public;
revoke all on function public.list_error_logs(uuid, uuid, timestamptz, timestamptz, uuid, integer)
    from public, anon, authenticated, service_role;
grant execute on function public.list_error_logs(uuid, uuid, timestamptz, timestamptz, uuid, integer)
    to authenticated, authenticator;
