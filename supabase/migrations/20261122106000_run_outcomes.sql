-- What a run left of the credits, for those who read its end from what is stored of it.

create or replace function public.get_execution(p_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    v_row public.executions;
begin
    select e.* into v_row from public.executions e where e.id = p_id;
    if not found then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
    end if;
    return gateway.execution_json(v_row) || jsonb_build_object('credits_remaining', v_row.credits_remaining);
end
$$;
comment on function public.get_execution(uuid) is
    'Execution with its result, and "credits_remaining" right after it was settled; GW404.';
