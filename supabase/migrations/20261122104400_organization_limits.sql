-- Below which balance an organization is told, which its admins set, and how many runs it has at one time, which the
-- platform does.

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
        'fingerprint_policy', 'FINGERPRINT_POLICY_LOG', 'low_balance_threshold', 0
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
        low_balance_threshold = v_new.low_balance_threshold,
        updated_at = now()
    where o.id = v_old.id
    returning * into v_new;
    if v_new.low_balance_threshold <> v_old.low_balance_threshold then
        perform gateway.note_low_balance(v_new.id);
    end if;
    return gateway.organization_json(v_new);
exception when unique_violation then
    perform gateway.fail(
        'GW409', 'ALREADY_EXISTS', 'Another organization has this already.', p_fields => '{"slug": "is taken"}'
    );
end
$$;

drop function public.set_limits(uuid, integer, integer, integer);
create function public.set_limits(
    p_organization_id uuid, p_requests integer, p_period_seconds integer, p_max_open_streams integer,
    p_max_concurrent_executions integer default 0
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.organizations;
begin
    perform gateway.require_service();
    update public.organizations o set
        rate_limit_requests = p_requests,
        rate_limit_period_seconds = p_period_seconds,
        max_open_streams = p_max_open_streams,
        max_concurrent_executions = p_max_concurrent_executions,
        updated_at = now()
    where o.id = p_organization_id
    returning * into v_row;
    if not found then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    return gateway.organization_json(v_row);
end
$$;
comment on function public.set_limits(uuid, integer, integer, integer, integer) is
    'Calls in any period, streams open and runs under way at a time of an organization -> Organization; null and 0 for '
    'the gateway''s defaults, which for runs is no limit. For the platform only.';

revoke all on all functions in schema gateway from public;
revoke all on function public.set_limits(uuid, integer, integer, integer, integer)
    from public, anon, authenticated, service_role;
grant execute on function public.set_limits(uuid, integer, integer, integer, integer) to service_role, authenticator;
