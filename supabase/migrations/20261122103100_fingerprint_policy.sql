-- What follows when a session or key is used from elsewhere is for an organization's owners to say.

create or replace function public.update_organization(p_id uuid, p_changes jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_old public.organizations := gateway.authorize(
        p_id,
        case
            when p_changes ?| array[
                'slug', 'is_active', 'auth_policy', 'minimum_signature_version', 'fingerprint_policy'
            ] then 'MEMBER_ROLE_OWNER' else 'MEMBER_ROLE_ADMIN'
        end,
        p_inactive => (p_changes -> 'is_active' = 'true') is true
    );
    v_new public.organizations;
begin
    select o.* into v_old from public.organizations o where o.id = v_old.id for no key update;
    v_new := jsonb_populate_record(v_old, gateway.changed_fields(p_changes, jsonb_build_object(
        'name', '', 'slug', '', 'is_active', true, 'default_workflow_id', null,
        'auth_policy', 'AUTH_POLICY_JWT', 'minimum_signature_version', 0,
        'fingerprint_policy', 'FINGERPRINT_POLICY_LOG'
    )));
    if v_new is not distinct from v_old then
        return gateway.organization_json(v_old);
    end if;
    if v_new.default_workflow_id is distinct from v_old.default_workflow_id and not exists (
        select from public.workflows w
        where w.organization_id = v_old.id and w.id = v_new.default_workflow_id and w.archived_at is null
    ) and v_new.default_workflow_id is not null then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'The default workflow must be one of the organization''s own.',
            p_fields => '{"default_workflow_id": "is no workflow of the organization"}'
        );
    end if;
    update public.organizations o set
        name = v_new.name,
        slug = v_new.slug,
        is_active = v_new.is_active,
        default_workflow_id = v_new.default_workflow_id,
        auth_policy = v_new.auth_policy,
        minimum_signature_version = v_new.minimum_signature_version,
        fingerprint_policy = v_new.fingerprint_policy,
        updated_at = now()
    where o.id = v_old.id
    returning * into v_new;
    return gateway.organization_json(v_new);
exception when unique_violation then
    perform gateway.fail(
        'GW409', 'ALREADY_EXISTS', 'Another organization has this already.', p_fields => '{"slug": "is taken"}'
    );
end
$$;
comment on function public.update_organization(uuid, jsonb) is
    'Sets the fields that p_changes names (null: to the default) -> Organization, for admins; slug, is_active and '
    'policies for owners. GW412 when it is not active, unless that is what changes, and when the caller would lock '
    'itself out.';
