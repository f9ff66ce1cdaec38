-- What the platform has decided and what it has not, and limits of which only those change that are given.

create or replace function public.list_platform_settings() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    return jsonb_build_object(
        'workflow_management', gateway.platform_setting('workflow_management'),
        'organization_creation', gateway.platform_setting('organization_creation'),
        'undecided', array(
            select n from unnest(array['workflow_management', 'organization_creation']) n
            where not exists (select from public.platform_settings s where s.name = n)
        )
    );
end
$$;
comment on function public.list_platform_settings() is
    'All settings, {name: value}, and "undecided": the names of those that nobody has set, which have their default. For '
    'the platform only.';

drop function public.set_limits(uuid, integer, integer, integer, integer);
create function public.set_limits(p_organization_id uuid, p_changes jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.organizations;
begin
    perform gateway.require_service();
    update public.organizations o set
        rate_limit_requests = case when p_changes ? 'rate_limit'
            then (p_changes -> 'rate_limit' ->> 'requests')::integer else o.rate_limit_requests end,
        rate_limit_period_seconds = case when p_changes ? 'rate_limit'
            then (p_changes -> 'rate_limit' ->> 'period_seconds')::integer else o.rate_limit_period_seconds end,
        max_open_streams = case when p_changes ? 'max_open_streams'
            then coalesce((p_changes ->> 'max_open_streams')::integer, 0) else o.max_open_streams end,
        max_concurrent_executions = case when p_changes ? 'max_concurrent_executions'
            then coalesce((p_changes ->> 'max_concurrent_executions')::integer, 0)
            else o.max_concurrent_executions end,
        updated_at = case when p_changes = '{}' then o.updated_at else now() end
    where o.id = p_organization_id
    returning * into v_row;
    if not found then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    return gateway.organization_json(v_row);
end
$$;
comment on function public.set_limits(uuid, jsonb) is
    'Changes what is given of "rate_limit" ({requests, period_seconds}: calls in any period), max_open_streams and '
    'max_concurrent_executions (runs under way at a time) of an organization -> Organization. null and 0 stand for the '
    'gateway''s defaults, which for runs is no limit. For the platform only.';

revoke all on function public.set_limits(uuid, jsonb) from public, anon, authenticated, service_role;
grant execute on function public.set_limits(uuid, jsonb) to service_role, authenticator;
