-- The end of a run without a runner has the number that follows what was published of it. It is kept, so that readers
-- are told the same one when Redis does not have the events any more.

create function public.number_end(p_execution_id uuid, p_last_sequence integer) returns jsonb
language plpgsql security definer set search_path = '' set enable_seqscan = off
as $$
declare
    v_last_sequence integer;
begin
    perform gateway.require_service();
    if (p_last_sequence > 0) is not true then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'Events are numbered from 1.',
            p_fields => '{"last_sequence": "must be at least 1"}'
        );
    end if;
    update public.executions e set last_sequence = p_last_sequence
    where e.id = p_execution_id and e.last_sequence = 0 and e.finished_at is not null;
    select e.last_sequence into v_last_sequence from public.executions e where e.id = p_execution_id;
    if not found then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
    end if;
    return jsonb_build_object('last_sequence', v_last_sequence);
end
$$;
comment on function public.number_end(uuid, integer) is
    'Numbers the last event of a run that has ended, unless it is numbered: {last_sequence}, which is 0 for one that has '
    'not ended. For the gateway itself only.';

revoke all on function public.number_end(uuid, integer) from public, anon, authenticated, service_role;
grant execute on function public.number_end(uuid, integer) to service_role, authenticator;
