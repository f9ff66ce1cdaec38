-- A run that was begun while its organization had an n8n of its own does not go to the shared one, with the
-- organization's credentials, because that has been deleted meanwhile.

alter table public.organizations add column left_n8n_at timestamptz;
comment on column public.organizations.left_n8n_at is
    'When the organization last gave up an n8n of its own. Kept by a trigger of n8n_instances.';

create function gateway.note_left_n8n() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    update public.organizations o set left_n8n_at = clock_timestamp() where o.id = old.organization_id;
    return null;
end
$$;
comment on function gateway.note_left_n8n() is 'Trigger: keeps left_n8n_at.';
create trigger n8n_instances_noted after delete on public.n8n_instances
    for each row execute function gateway.note_left_n8n();

drop function public.find_n8n_instance(uuid);
create function public.find_n8n_instance(p_organization_id uuid, p_execution_id uuid default null) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_row public.n8n_instances;
    v_left_at timestamptz;
begin
    perform gateway.require_service();
    select i.* into v_row from public.n8n_instances i where i.organization_id = p_organization_id;
    if found then
        return jsonb_build_object(
            'base_url', v_row.base_url,
            'version', v_row.updated_at,
            'secrets', public.reveal_secrets(v_row.organization_id, p_prefix => 'n8n/')
        );
    end if;
    select o.left_n8n_at into v_left_at from public.organizations o where o.id = p_organization_id;
    if exists (select from public.executions e where e.id = p_execution_id and e.created_at <= v_left_at) then
        perform gateway.fail(
            'GW412', 'N8N_CHANGED', 'The organization has given up the n8n of its own that it had when the run was begun.'
        );
    end if;
    -- No run waits for longer than a day.
    return case when v_left_at > now() - interval '2 days' then '{"has_left": true}' else '{}' end::jsonb;
end
$$;
comment on function public.find_n8n_instance(uuid, uuid) is
    'An organization''s own n8n: {base_url, version, "secrets": {name: envelope}}; for the default one {}, with '
    '"has_left": true if lately it had its own, and GW412 for a run that was begun before it gave that up. For the '
    'gateway itself only.';

revoke all on all functions in schema gateway from public;
revoke all on function public.find_n8n_instance(uuid, uuid) from public, anon, authenticated, service_role;
grant execute on function public.find_n8n_instance(uuid, uuid) to service_role, authenticator;
