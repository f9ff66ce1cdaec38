-- What an organization's auth_policy asks of those who act for it, as the database's own rule.
--
--   AUTH_POLICY_JWT             session tokens and API keys
--   AUTH_POLICY_SIGNED_KEY      API keys, and session tokens of owners and admins, who administrate
--   AUTH_POLICY_JWT_AND_SIGNED  session tokens on calls that one of the organization's keys has signed
--
-- Signatures are verified by the gateway, before anything is decoded. It refuses an unsigned call of a key, and
-- tells of a user's signed call by the claim gateway_signed, which no session token may bring along:
--   {"organization_id": that of the signing key, "version": of the signature}
-- That the rule stands here, too, leaves no way around it by naming an organization in a request's body alone.

create function gateway.meets_policy(p_organization public.organizations, p_role text, p_claims jsonb) returns boolean
language plpgsql immutable set search_path = ''
as $$
declare
    v_signed jsonb := p_claims -> 'gateway_signed';
begin
    if p_organization.auth_policy = 'AUTH_POLICY_JWT' then
        return true;
    elsif starts_with(p_claims ->> 'sub', 'key:') then
        return p_organization.auth_policy = 'AUTH_POLICY_SIGNED_KEY';
    elsif p_organization.auth_policy = 'AUTH_POLICY_SIGNED_KEY' then
        return gateway.role_rank(p_role) >= gateway.role_rank('MEMBER_ROLE_ADMIN');
    end if;
    return coalesce(
        v_signed ->> 'organization_id' = p_organization.id::text
        and (v_signed ->> 'version')::integer >= p_organization.minimum_signature_version,
        false
    );
end
$$;
comment on function gateway.meets_policy(public.organizations, text, jsonb) is
    'Whether a member of this role, with these claims, presents what the organization asks for.';

create or replace function gateway.caller_organizations() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_tenant text := gateway.request_header('x-gateway-tenant');
    v_ids uuid[] := gateway.caller_memberships();
begin
    return array(
        select o.id from public.organizations o
        where o.id = any (v_ids) and o.id::text = coalesce(v_tenant, o.id::text)
            and (
                o.auth_policy = 'AUTH_POLICY_JWT'
                or gateway.meets_policy(o, gateway.caller_role(o.id), auth.jwt())
            )
    );
end
$$;
comment on function gateway.caller_organizations() is
    'Organizations that the caller belongs to, in any role, and acts for: whose policy it meets, and only the one that '
    'the call names, if it names one. What policies compare with, once a statement.';

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
    if not (v_is_platform or gateway.meets_policy(v_found.organization, v_found.role, v_claims)) then
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

-- Nobody locks itself out ---------------------------------------------------------------------------------------

create function gateway.keep_policy_met() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    -- Who asks for signed calls has to be able to make them. (Without a subject it is the gateway, or its operator.)
    if new.auth_policy = 'AUTH_POLICY_JWT_AND_SIGNED' and auth.jwt() ->> 'sub' is not null
        and not gateway.meets_policy(new, null, auth.jwt())
    then
        perform gateway.fail(
            'GW412', 'WOULD_LOCK_OUT',
            'The caller would be locked out: this change has to be made by a call that meets it, with a session token '
            'and a signature by one of the organization''s API keys.',
            jsonb_build_object('minimum_signature_version', new.minimum_signature_version::text)
        );
    end if;
    return new;
end
$$;
comment on function gateway.keep_policy_met() is
    'Refuses an auth_policy that the call which sets it does not meet (GW412).';
create trigger organizations_policy before insert or update of auth_policy, minimum_signature_version
    on public.organizations for each row execute function gateway.keep_policy_met();

create function gateway.keep_signing_key() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    if auth.jwt() ->> 'sub' is not null and exists (
        select from public.organizations o
        where o.id = new.organization_id and o.auth_policy = 'AUTH_POLICY_JWT_AND_SIGNED'
    ) and not exists (
        select from public.api_keys k
        where k.organization_id = new.organization_id and k.id <> new.id
            and k.revoked_at is null and coalesce(k.expires_at > now(), true)
    ) then
        perform gateway.fail(
            'GW412', 'WOULD_LOCK_OUT',
            'The organization asks for signed calls, and no other key would be left to sign with.'
        );
    end if;
    return new;
end
$$;
comment on function gateway.keep_signing_key() is
    'Refuses to revoke the last key of an organization that asks for signed calls (GW412).';
create trigger api_keys_signing before update of revoked_at on public.api_keys
    for each row when (old.revoked_at is null and new.revoked_at is not null)
    execute function gateway.keep_signing_key();

create or replace function public.update_organization(p_id uuid, p_changes jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_old public.organizations := gateway.authorize(
        p_id,
        case
            when p_changes ?| array['slug', 'is_active', 'auth_policy', 'minimum_signature_version']
            then 'MEMBER_ROLE_OWNER' else 'MEMBER_ROLE_ADMIN'
        end,
        p_inactive => (p_changes -> 'is_active' = 'true') is true
    );
    v_new public.organizations;
begin
    select o.* into v_old from public.organizations o where o.id = v_old.id for no key update;
    v_new := jsonb_populate_record(v_old, gateway.changed_fields(p_changes, jsonb_build_object(
        'name', '', 'slug', '', 'is_active', true, 'default_workflow_id', null,
        'auth_policy', 'AUTH_POLICY_JWT', 'minimum_signature_version', 0
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

-- Who may do what ---------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;
