-- What a caller over PostgREST must know and PostgREST does not say: which parameters of a function are jsonb (in a
-- JSON body the text '{"a": 1}' is a string for a jsonb parameter, where in SQL it is an object), and whether it was
-- the function that was denied to a role, or something that the function needs.

create function public.describe_functions() returns jsonb
language sql stable set search_path = ''
as $$
    select jsonb_object_agg(f.name, jsonb_build_object('parameters', f.parameters, 'roles', f.roles))
    from (
        select
            p.proname as name,
            (
                select coalesce(jsonb_object_agg(a.name, format_type(a.type, null)), '{}')
                from unnest(p.proargnames, p.proargtypes::oid[]) as a (name, type)
                where a.name <> '' and a.type is not null
            ) as parameters,
            (
                select coalesce(jsonb_agg(r.name order by r.name), '[]')
                from unnest(array['authenticated', 'service_role']) as r (name)
                where has_function_privilege(r.name, p.oid, 'execute')
            ) as roles
        from pg_catalog.pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.prokind = 'f'
    ) f
$$;
comment on function public.describe_functions() is
    'For the gateway: each function of this schema, with the types of its parameters and the roles that may call it '
    '-> {function: {"parameters": {name: type}, "roles": [role]}}.';

revoke all on function public.describe_functions() from public, anon, authenticated, service_role;
grant execute on function public.describe_functions() to service_role, authenticator;
