-- Workflows that change and end.

create function gateway.changed_fields(p_changes jsonb, p_defaults jsonb) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    v_wrong text;
begin
    select c.key into v_wrong from jsonb_each(p_changes) c where not p_defaults ? c.key limit 1;
    if found then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A field cannot be changed.',
            p_fields => jsonb_build_object('update_mask', v_wrong || ' cannot be changed')
        );
    end if;
    return coalesce((
        select jsonb_object_agg(c.key, case
            when c.value = 'null' then p_defaults -> c.key
            -- An enum's default begins with the enum's own name.
            when starts_with(p_defaults ->> c.key, upper(c.key) || '_')
                and c.value = to_jsonb(upper(c.key) || '_UNSPECIFIED') then p_defaults -> c.key
            else c.value
        end)
        from jsonb_each(p_changes) c
    ), '{}');
end
$$;
comment on function gateway.changed_fields(jsonb, jsonb) is
    'What an update asks for, {field: value}, with the default in place of null and of an unspecified enum. '
    'GW400 for a field that has no default in p_defaults: it cannot be changed.';

create function gateway.own_workflow(p_id uuid) returns public.workflows
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_row public.workflows;
begin
    select w.* into v_row from public.workflows w
    where w.id = p_id and w.organization_id = any (gateway.caller_organizations())
    for no key update;
    if not found then
        perform gateway.no_such_workflow();
    end if;
    perform gateway.authorize(v_row.organization_id, 'MEMBER_ROLE_ADMIN');
    return v_row;
end
$$;
comment on function gateway.own_workflow(uuid) is
    'The workflow, locked, if the caller may change it. GW404 for who is no member of its organization.';

create function public.update_workflow(p_id uuid, p_changes jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_old public.workflows := gateway.own_workflow(p_id);
    v_new public.workflows;
begin
    if v_old.archived_at is not null then
        perform gateway.fail('GW412', 'WORKFLOW_ARCHIVED', 'The workflow has been deleted.');
    end if;
    v_new := jsonb_populate_record(v_old, gateway.changed_fields(p_changes, jsonb_build_object(
        'name', '', 'description', '', 'n8n_workflow_id', '', 'webhook_path', '', 'credits_per_execution', 0,
        'pricing_mode', 'PRICING_MODE_FIXED', 'credits_per_unit', 0, 'response_mode', 'RESPONSE_MODE_AUTO',
        'credential_mode', 'CREDENTIAL_MODE_NONE', 'concurrency_limit', 0, 'is_idempotent', false,
        'unknown_outcome_policy', 'UNKNOWN_OUTCOME_POLICY_VOID', 'timeout_seconds', 0, 'idle_timeout_seconds', 0
    )));
    if v_new is distinct from v_old then
        update public.workflows w set
            name = v_new.name,
            description = v_new.description,
            n8n_workflow_id = v_new.n8n_workflow_id,
            webhook_path = v_new.webhook_path,
            credits_per_execution = v_new.credits_per_execution,
            pricing_mode = v_new.pricing_mode,
            credits_per_unit = v_new.credits_per_unit,
            response_mode = v_new.response_mode,
            credential_mode = v_new.credential_mode,
            concurrency_limit = v_new.concurrency_limit,
            is_idempotent = v_new.is_idempotent,
            unknown_outcome_policy = v_new.unknown_outcome_policy,
            timeout_seconds = v_new.timeout_seconds,
            idle_timeout_seconds = v_new.idle_timeout_seconds,
            updated_at = now()
        where w.id = p_id
        returning * into v_new;
    end if;
    return gateway.workflow_json(v_new);
exception when unique_violation then
    perform gateway.fail(
        'GW409', 'ALREADY_EXISTS', 'The organization has a workflow of this name already.',
        p_fields => '{"name": "is taken"}'
    );
end
$$;
comment on function public.update_workflow(uuid, jsonb) is
    'Sets the fields that p_changes names (null: to the default) -> Workflow, for owners and admins. GW412 when it is '
    'archived. What equals the stored value changes nothing.';

create function public.delete_workflow(p_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.workflows := gateway.own_workflow(p_id);
begin
    if v_row.archived_at is null then
        update public.workflows w set archived_at = now(), is_active = false, updated_at = now() where w.id = p_id;
        update public.organizations o set default_workflow_id = null, updated_at = now()
        where o.id = v_row.organization_id and o.default_workflow_id = p_id;
    end if;
    return '{}';
end
$$;
comment on function public.delete_workflow(uuid) is
    'Archives a workflow -> {}, for owners and admins; it is then no organization''s default. One that is archived '
    'stays as it is.';

revoke all on all functions in schema gateway from public;
revoke all on function public.update_workflow(uuid, jsonb), public.delete_workflow(uuid)
    from public, anon, authenticated, service_role;
grant execute on function public.update_workflow(uuid, jsonb), public.delete_workflow(uuid)
    to authenticated, authenticator;
