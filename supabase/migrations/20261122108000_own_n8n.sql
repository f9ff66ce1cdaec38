-- What an n8n of an organization's own has to do with who sets prices and who is an admin.

create function gateway.leave_own_n8n() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if current_setting('role', true) = 'authenticated'
        and gateway.platform_setting('workflow_management') = 'platform' then
        update public.workflows w set is_active = false, updated_at = now()
        where w.organization_id = old.organization_id and w.is_active and not w.is_platform_managed;
    end if;
    return null;
end
$$;
comment on function gateway.leave_own_n8n() is
    'Trigger: workflows that an organization registered for its own n8n do not go on, at its own price, on the shared '
    'one, where the platform sets prices.';
create trigger n8n_instances_left after delete on public.n8n_instances
    for each row execute function gateway.leave_own_n8n();

create or replace function gateway.administered_organizations() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_claims jsonb := auth.jwt();
begin
    if gateway.key_organization(v_claims) is not null then
        return '{}';
    end if;
    return array(
        select o.id from public.organizations o
        left join public.organization_members m
            on m.organization_id = o.id and m.profile_id = v_claims ->> 'sub' and not m.is_external
        where o.id = any (gateway.caller_organizations()) and gateway.role_rank(coalesce(
            m.role, gateway.token_role(o.id, v_claims)
        )) >= gateway.role_rank('MEMBER_ROLE_ADMIN')
    );
end
$$;

revoke all on all functions in schema gateway from public;
