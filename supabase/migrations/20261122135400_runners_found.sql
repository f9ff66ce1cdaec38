-- Who has the events of a run that Redis could not take.

create function public.find_runner(p_execution_id uuid) returns jsonb
language plpgsql stable security definer set search_path = '' set enable_seqscan = off
as $$
begin
    perform gateway.require_service();
    return jsonb_build_object('runner', (
        select r.runner from public.executions e
        join public.reservations r on r.organization_id = e.organization_id and r.execution_id = e.id
        where e.id = p_execution_id
    ));
end
$$;
comment on function public.find_runner(uuid) is
    'Who has or had a run in hand: {runner}, null for one that nobody has. For the gateway itself only.';

revoke all on function public.find_runner(uuid) from public, anon, authenticated, service_role;
grant execute on function public.find_runner(uuid) to service_role, authenticator;
