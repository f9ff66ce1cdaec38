-- What a caller over PostgREST must know and PostgREST does not say: which parameters of a function are jsonb. In a
-- JSON body the text '{"a": 1}' is a string for a jsonb parameter, where in SQL it is an object.

create function public.function_parameters() returns jsonb
language sql stable set search_path = ''
as $$
    select jsonb_object_agg(f.name, f.parameters)
    from (
        select p.proname as name, (
            select coalesce(jsonb_object_agg(a.name, format_type(a.type, null)), '{}')
            from unnest(p.proargnames, p.proargtypes::oid[]) as a (name, type)
            where a.name <> '' and a.type is not null
        ) as parameters
        from pg_catalog.pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.prokind = 'f'
    ) f
$$;
comment on function public.function_parameters() is
    'For the gateway: each function of this schema with its parameters and their types '
    '-> {function: {parameter: type}}.';

revoke all on function public.function_parameters() from public, anon, authenticated, service_role;
grant execute on function public.function_parameters() to service_role, authenticator;
