-- Which migrations a database has, for a gateway to compare with its own: its login sees the functions, and not
-- whether their bodies are of its version.

create function public.applied_migrations() returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_versions jsonb;
begin
    perform gateway.require_service();
    begin
        execute 'select coalesce(jsonb_agg(m.version), ''[]'') from supabase_migrations.schema_migrations m' into v_versions;
    exception when undefined_table or insufficient_privilege then
        return 'null';
    end;
    return v_versions;
end
$$;
comment on function public.applied_migrations() is
    'The versions in the table that Supabase CLI keeps -> ["20261122090000"]; null where there is none that the schema''s '
    'owner may read. For the gateway itself only.';

revoke all on function public.applied_migrations() from public, anon, authenticated, service_role;
grant execute on function public.applied_migrations() to service_role, authenticator;
