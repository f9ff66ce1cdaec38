-- Some secrets of each key that has sealed any, so that a gateway can tell whether it has the keys.

create index tenant_secrets_key_id_idx on public.tenant_secrets (key_id);

create function public.sample_secrets() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    return (
        -- From one id to the next by the index, however many secrets each has sealed.
        with recursive known as (
            select min(s.key_id) as key_id from public.tenant_secrets s
            union all
            select (select min(s.key_id) from public.tenant_secrets s where s.key_id > k.key_id)
            from known k where k.key_id is not null
        )
        select coalesce(jsonb_object_agg(k.key_id, (
            select jsonb_agg(to_jsonb(sample)) from (
                select s.organization_id, s.name, s.sealed from public.tenant_secrets s
                where s.key_id = k.key_id limit 3
            ) as sample
        )), '{}')
        from known k where k.key_id is not null
    );
end
$$;
comment on function public.sample_secrets() is
    'At most three secrets of each key that has sealed any -> {key_id: [{"organization_id", "name", "sealed"}]}. For '
    'the gateway itself only.';

revoke all on function public.sample_secrets() from public, anon, authenticated, service_role;
grant execute on function public.sample_secrets() to service_role, authenticator;
