-- Which run a reported error is about is asked first: secrets of that run's organization are not written down.

drop function public.log_error(jsonb, uuid, uuid, jsonb);

create function public.match_error(
    p_execution_id uuid default null, p_organization_id uuid default null, p_n8n_execution_id text default null,
    p_claimed_organization_id uuid default null, p_organization_ids jsonb default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization_id uuid := p_organization_id;
    v_execution_id uuid := p_execution_id;
    v_matches public.executions[];
begin
    perform gateway.require_service();
    if v_execution_id is not null then
        if not exists (
            select from public.executions e where e.organization_id = p_organization_id and e.id = p_execution_id
        ) then
            perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
        end if;
    elsif p_n8n_execution_id <> '' then
        -- n8n counts its executions from 1 on each instance: only those of the calling one can be meant, and lately.
        v_matches := array(
            select e from public.executions e
            where e.n8n_execution_id = p_n8n_execution_id
                and e.created_at > now() - interval '2 days'
                and case when p_organization_ids is null
                    then not exists (select from public.n8n_instances i where i.organization_id = e.organization_id)
                    else p_organization_ids ? e.organization_id::text
                end
            limit 2
        );
        if cardinality(v_matches) = 1 then
            v_execution_id := v_matches[1].id;
            v_organization_id := v_matches[1].organization_id;
        end if;
    end if;
    if v_organization_id is null and p_organization_ids ? p_claimed_organization_id::text then
        v_organization_id := p_claimed_organization_id;
    elsif v_organization_id is null and jsonb_array_length(p_organization_ids) = 1 then
        v_organization_id := p_organization_ids ->> 0;
    end if;
    if p_claimed_organization_id <> v_organization_id
        or p_organization_ids is not null
            and not p_organization_ids ? coalesce(v_organization_id, p_claimed_organization_id)::text
    then
        perform gateway.fail(
            'GW403', 'TENANT_MISMATCH', 'The error is reported for another organization than the run''s.',
            p_fields => '{"org_id": "is another organization than that of the run or of the n8n that reports"}'
        );
    end if;
    return jsonb_build_object('organization_id', v_organization_id, 'execution_id', v_execution_id);
end
$$;
comment on function public.match_error(uuid, uuid, text, uuid, jsonb) is
    'Whose a reported error is -> {organization_id, execution_id}, null where that is not known. A run and its '
    'organization are proven by a token; n8n''s own id is looked for among the runs of the last 2 days on that n8n. '
    'p_organization_ids are those of the n8n that reports, null for the default one. What it claims is refused (GW403) '
    'when it is wrong, and counts only for an n8n of that organization''s own. For the gateway itself only.';

create function public.log_error(
    p_error jsonb, p_organization_id uuid default null, p_execution_id uuid default null
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_id uuid;
begin
    perform gateway.require_service();
    delete from public.error_logs l where l.id in (
        select old.id from public.error_logs old where old.id < gateway.uuid_floor(now() - interval '30 days')
        order by old.id limit 100 for update skip locked
    );
    insert into public.error_logs (
        organization_id, execution_id, n8n_execution_id, workflow_id, workflow_name, node_name, error_message, metadata
    ) values (
        p_organization_id, p_execution_id, nullif(p_error ->> 'n8n_execution_id', ''),
        coalesce(p_error ->> 'workflow_id', ''), coalesce(p_error ->> 'workflow_name', ''),
        coalesce(p_error ->> 'node_name', ''), coalesce(p_error ->> 'error_message', ''),
        coalesce(p_error -> 'metadata', '{}')
    ) returning id into v_id;
    return jsonb_build_object('id', v_id);
end
$$;
comment on function public.log_error(jsonb, uuid, uuid) is
    '{n8n_execution_id, workflow_id, workflow_name, node_name, error_message, metadata} of what match_error found -> '
    '{id}. For the gateway itself only.';

revoke all on function
    public.match_error(uuid, uuid, text, uuid, jsonb), public.log_error(jsonb, uuid, uuid)
    from public, anon, authenticated, service_role;
grant execute on function
    public.match_error(uuid, uuid, text, uuid, jsonb), public.log_error(jsonb, uuid, uuid)
    to service_role, authenticator;
