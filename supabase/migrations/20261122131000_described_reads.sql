-- Which functions only read is told too: a read whose connection broke can be made again, whoever may have answered it.

create or replace function public.describe_functions() returns jsonb
language sql stable set search_path = ''
as $$
    select jsonb_object_agg(
        f.name, jsonb_build_object('parameters', f.parameters, 'roles', f.roles, 'reads', f.reads)
    )
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
            ) as roles,
            p.provolatile <> 'v' as reads
        from pg_catalog.pg_proc p
        where p.pronamespace = 'public'::regnamespace and p.prokind = 'f'
    ) f
$$;
comment on function public.describe_functions() is
    'For the gateway: each function of this schema, with the types of its parameters, the roles that may call it, and '
    'whether it only reads (stable or immutable) -> {function: {"parameters": {name: type}, "roles": [role], '
    '"reads": bool}}.';
