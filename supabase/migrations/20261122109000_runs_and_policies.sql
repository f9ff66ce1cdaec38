-- Who runs where only keys may, and whose a run's id in n8n is.

create or replace function gateway.authorize(p_organization_id uuid, p_role text, p_inactive boolean default false)
    returns public.organizations
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_is_platform boolean := current_setting('role', true) is not distinct from 'service_role';
    v_claims jsonb := auth.jwt();
    v_subject text := case when not v_is_platform then gateway.caller_id() end;
    v_id uuid := coalesce(p_organization_id, case when not v_is_platform then gateway.own_organization() end);
    v_key uuid := gateway.key_organization(v_claims);
    v_found record;
begin
    select
        o as organization,
        case
            when v_is_platform then 'MEMBER_ROLE_OWNER'
            when v_key is not null then case when o.id = v_key then 'MEMBER_ROLE_MEMBER' end
            when m.role is not null then m.role
            when o.clerk_organization_id = gateway.clerk_organization(v_claims) then gateway.token_role(o.id, v_claims)
        end as role
    into v_found
    from public.organizations o
    left join public.organization_members m
        on m.organization_id = o.id and m.profile_id = v_subject and not m.is_external
    where o.id = v_id and o.id::text = coalesce(gateway.request_header('x-gateway-tenant'), o.id::text);
    if v_found.role is null then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    if not (v_is_platform or gateway.meets_policy(v_found.organization, v_found.role, v_claims))
        -- MEMBER is asked for by what begins and cancels runs: there only keys do, whoever administrates.
        or p_role = 'MEMBER_ROLE_MEMBER' and not v_is_platform and v_key is null
            and (v_found.organization).auth_policy = 'AUTH_POLICY_SIGNED_KEY'
    then
        perform gateway.fail(
            'GW403', 'AUTH_POLICY', 'The organization asks its callers for more than this call presents.',
            jsonb_build_object('auth_policy', (v_found.organization).auth_policy)
        );
    end if;
    if gateway.role_rank(v_found.role) < gateway.role_rank(p_role) then
        perform gateway.fail(
            'GW403', 'ROLE_INSUFFICIENT', 'The caller''s role in the organization does not allow this.',
            jsonb_build_object('role', v_found.role, 'required_role', p_role)
        );
    end if;
    if not (p_inactive or (v_found.organization).is_active) then
        perform gateway.fail('GW412', 'ORGANIZATION_INACTIVE', 'The organization is not active.');
    end if;
    return v_found.organization;
end
$$;
comment on function gateway.authorize(uuid, text, boolean) is
    'The organization (null: as own_organization finds it) if the caller has at least this role in it; an API key has '
    'MEMBER in its own, the platform OWNER in the one that it names. A row of organization_members decides before the '
    'token''s role. GW404 for who is no member, and for another one than the call''s tenant, GW403 for too low a role '
    'and for a call that does not meet the organization''s policy, GW412 when it is not active and p_inactive does not '
    'allow that.';

create or replace function public.match_error(
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
                        -- Nor may it have run on one that its organization had then: that tells any id it likes.
                        and not exists (
                            select from public.audit_events a
                            where a.organization_id = e.organization_id and a.action = 'n8n_instance.deleted'
                                and a.id > gateway.uuid_floor(e.created_at - interval '1 minute')
                        )
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
