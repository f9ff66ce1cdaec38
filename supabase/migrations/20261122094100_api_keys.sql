-- Machines' ways in: API keys, and what a key may do.

create table public.api_keys (
    id uuid primary key default gateway.uuid_v7(),
    organization_id uuid not null references public.organizations (id),
    name text not null check (char_length(name) between 1 and 100 and name !~ '[[:cntrl:]]'),
    public_id text not null unique check (public_id ~ '^gw_(live|test)_[a-z2-7]{16}$'),
    environment text not null check (environment in ('API_KEY_ENVIRONMENT_LIVE', 'API_KEY_ENVIRONMENT_TEST')),
    secret_hash text not null check (secret_hash ~ '^[0-9a-f]{64}$'),
    previous_hash text check (previous_hash ~ '^[0-9a-f]{64}$'),
    previous_expires_at timestamptz,
    scopes jsonb not null check (jsonb_typeof(scopes) = 'array'),
    workflow_ids uuid[] not null default '{}' check (cardinality(workflow_ids) <= 100),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,
    created_by text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    unique (organization_id, id),
    constraint api_keys_previous_check check ((previous_hash is null) = (previous_expires_at is null))
);
comment on table public.api_keys is
    'API keys. No role reads the table: it has hashes in it, and the functions show the rest.';
comment on column public.api_keys.secret_hash is
    'SHA-256 of the secret part, as hex. The secret has 256 random bits, so no salt and no slow hash are needed. The '
    'client secret is in tenant_secrets under api_key/<this hash>.';
comment on column public.api_keys.previous_hash is 'That from before the last rotation, accepted until '
    'previous_expires_at.';
comment on column public.api_keys.workflow_ids is 'Workflows that the key may see and run; empty for all.';

create function gateway.api_key_json(p_row public.api_keys) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'id', p_row.id,
        'organization_id', p_row.organization_id,
        'name', p_row.name,
        'public_id', p_row.public_id,
        'environment', p_row.environment,
        'scopes', p_row.scopes,
        'workflow_ids', to_jsonb(p_row.workflow_ids),
        'state', case
            when p_row.revoked_at is not null then 'API_KEY_STATE_REVOKED'
            when p_row.expires_at <= now() then 'API_KEY_STATE_EXPIRED'
            else 'API_KEY_STATE_ACTIVE'
        end,
        'expires_at', p_row.expires_at,
        'last_used_at', p_row.last_used_at,
        'previous_expires_at', case when p_row.previous_expires_at > now() then p_row.previous_expires_at end,
        'revoked_at', p_row.revoked_at,
        'created_by', p_row.created_by,
        'created_at', p_row.created_at,
        'updated_at', p_row.updated_at
    );
end
$$;
comment on function gateway.api_key_json(public.api_keys) is
    'ProtoJSON of n8ngateway.v1.ApiKey, without rate_limit, which no key has yet.';

create function gateway.own_api_key(p_organization_id uuid, p_id uuid) returns public.api_keys
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN', p_inactive => true);
    v_row public.api_keys;
begin
    select k.* into v_row from public.api_keys k where k.organization_id = v_organization.id and k.id = p_id
    for no key update;
    if not found then
        perform gateway.fail('GW404', 'API_KEY_NOT_FOUND', 'There is no such API key.');
    end if;
    return v_row;
end
$$;
comment on function gateway.own_api_key(uuid, uuid) is
    'The key, locked, if the caller may change it. GW404 for one of another organization.';

create function public.create_api_key(
    p_organization_id uuid, p_api_key jsonb, p_public_id text, p_secret_hash text, p_client_secret jsonb
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN');
    v_workflow_ids uuid[] := array(select jsonb_array_elements_text(coalesce(p_api_key -> 'workflow_ids', '[]'))::uuid);
    v_row public.api_keys;
begin
    if exists (
        select from unnest(v_workflow_ids) i
        where not exists (
            select from public.workflows w
            where w.organization_id = v_organization.id and w.id = i and w.archived_at is null
        )
    ) then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A key can only be for workflows of its organization.',
            p_fields => '{"api_key.workflow_ids": "names what is no workflow of the organization"}'
        );
    elsif (p_api_key ->> 'expires_at')::timestamptz <= now() then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'A key must expire in the future.',
            p_fields => '{"api_key.expires_at": "is not in the future"}'
        );
    end if;
    insert into public.api_keys (
        organization_id, name, public_id, environment, secret_hash, scopes, workflow_ids, expires_at, created_by
    ) values (
        v_organization.id,
        coalesce(p_api_key ->> 'name', ''),
        p_public_id,
        case
            when starts_with(p_public_id, 'gw_test_') then 'API_KEY_ENVIRONMENT_TEST'
            else 'API_KEY_ENVIRONMENT_LIVE'
        end,
        p_secret_hash,
        p_api_key -> 'scopes',
        v_workflow_ids,
        (p_api_key ->> 'expires_at')::timestamptz,
        gateway.caller_id()
    ) returning * into v_row;
    perform gateway.keep_secret(v_organization.id, 'api_key/' || p_secret_hash, p_client_secret);
    return gateway.api_key_json(v_row);
end
$$;
comment on function public.create_api_key(uuid, jsonb, text, text, jsonb) is
    'ApiKey, its public id, the hash of its secret and its client secret in an envelope -> ApiKey, for admins.';

create function public.list_api_keys(
    p_organization_id uuid, p_state text default null, p_after uuid default null, p_limit integer default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN');
    v_limit integer := gateway.page_size(p_limit);
    v_rows jsonb[];
begin
    select array_agg(gateway.api_key_json(page) order by page.id desc) into v_rows
    from (
        select k.* from public.api_keys k
        where k.organization_id = v_organization.id
            and k.id < coalesce(p_after, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            and (p_state is null or p_state = gateway.api_key_json(k) ->> 'state')
        order by k.id desc limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'api_keys', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_api_keys(uuid, text, uuid, integer) is
    'Keys, newest first, for admins: {"api_keys": [ApiKey], "next": last id, null at the end}; of one state if given.';

create function public.get_api_key(p_organization_id uuid, p_id uuid) returns jsonb
language plpgsql volatile security definer set search_path = ''
as $$
begin
    return gateway.api_key_json(gateway.own_api_key(p_organization_id, p_id));
end
$$;
comment on function public.get_api_key(uuid, uuid) is 'ApiKey, for admins; GW404.';

create function public.rotate_api_key(
    p_organization_id uuid, p_id uuid, p_secret_hash text, p_client_secret jsonb, p_overlap_seconds integer
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_old public.api_keys := gateway.own_api_key(p_organization_id, p_id);
    v_new public.api_keys;
begin
    if v_old.revoked_at is not null or v_old.expires_at <= now() then
        perform gateway.fail('GW412', 'API_KEY_ENDED', 'The key has been revoked or has expired.');
    end if;
    update public.api_keys k set
        secret_hash = p_secret_hash,
        previous_hash = case when p_overlap_seconds > 0 then v_old.secret_hash end,
        previous_expires_at = case when p_overlap_seconds > 0 then now() + make_interval(secs => p_overlap_seconds) end,
        updated_at = now()
    where k.id = p_id
    returning * into v_new;
    perform gateway.drop_secrets(v_old.organization_id, array(
        select 'api_key/' || h from unnest(array[v_old.secret_hash, v_old.previous_hash]) h
        where h is not null and h is distinct from v_new.previous_hash
    ));
    perform gateway.keep_secret(v_old.organization_id, 'api_key/' || p_secret_hash, p_client_secret);
    return gateway.api_key_json(v_new);
end
$$;
comment on function public.rotate_api_key(uuid, uuid, text, jsonb, integer) is
    'Gives a key another secret and client secret -> ApiKey, for admins. The old pair is accepted for the overlap, one '
    'from an earlier rotation no more. GW412 for a key that has ended.';

create function public.revoke_api_key(p_organization_id uuid, p_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_row public.api_keys := gateway.own_api_key(p_organization_id, p_id);
begin
    if v_row.revoked_at is null then
        perform gateway.drop_secrets(v_row.organization_id, array(
            select 'api_key/' || h from unnest(array[v_row.secret_hash, v_row.previous_hash]) h where h is not null
        ));
        update public.api_keys k set
            revoked_at = now(), previous_hash = null, previous_expires_at = null, updated_at = now()
        where k.id = p_id
        returning * into v_row;
    end if;
    return gateway.api_key_json(v_row);
end
$$;
comment on function public.revoke_api_key(uuid, uuid) is
    'Ends a key and forgets its client secrets -> ApiKey, for admins. A revoked one stays as it is.';

-- What authentication asks --------------------------------------------------------------------------------------

create function public.find_api_key(p_public_id text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    return coalesce((
        select jsonb_build_object(
            'id', k.id,
            'organization_id', k.organization_id,
            'secret_hash', k.secret_hash,
            'previous_hash', k.previous_hash,
            'previous_expires_at', extract(epoch from k.previous_expires_at),
            'expires_at', extract(epoch from k.expires_at),
            'last_used_at', extract(epoch from k.last_used_at),
            'is_revoked', k.revoked_at is not null or not o.is_active,
            'scopes', k.scopes,
            'workflow_ids', to_jsonb(k.workflow_ids)
        )
        from public.api_keys k
        join public.organizations o on o.id = k.organization_id
        where k.public_id = p_public_id
    ), '{}');
end
$$;
comment on function public.find_api_key(text) is
    'What authentication needs of a key, times in seconds since 1970; {} for none. For the gateway itself only.';

create function public.touch_api_key(p_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    update public.api_keys k set last_used_at = now()
    where k.id = p_id and (k.last_used_at is null or k.last_used_at < now() - interval '1 minute');
    return '{}';
end
$$;
comment on function public.touch_api_key(uuid) is
    'Notes that a key was used, at most once a minute. For the gateway itself only.';

-- Keys that are for some workflows only ---------------------------------------------------------------------------

create function gateway.caller_workflows() returns uuid[]
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_claims jsonb := auth.jwt();
begin
    if gateway.key_organization(v_claims) is null or jsonb_typeof(v_claims -> 'workflow_ids') is distinct from 'array'
    then
        return null;
    end if;
    return array(select w::uuid from jsonb_array_elements_text(v_claims -> 'workflow_ids') w);
end
$$;
comment on function gateway.caller_workflows() is
    'The workflows that the caller is confined to, by its API key; null for a caller that is not.';

create policy workflows_key on public.workflows as restrictive for select to authenticated
    using (coalesce(id = any ((select gateway.caller_workflows())::uuid[]), true));
create policy executions_key on public.executions as restrictive for select to authenticated
    using (coalesce(workflow_id = any ((select gateway.caller_workflows())::uuid[]), true));

create or replace function public.begin_execution(
    p_execution_id uuid, p_organization_id uuid default null, p_workflow_id uuid default null,
    p_credits integer default null, p_idempotency_key text default null, p_request_hash text default null,
    p_metadata jsonb default '{}'
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_MEMBER');
    v_workflow_id uuid := coalesce(p_workflow_id, v_organization.default_workflow_id);
    v_found record;
    v_workflow public.workflows;
    v_known public.executions;
begin
    -- Memberships alone do not say where data goes: anybody can give anybody one.
    if p_organization_id is null and p_workflow_id is null and not starts_with(auth.jwt() ->> 'sub', 'key:')
        and gateway.clerk_organization(auth.jwt()) is null
    then
        perform gateway.fail(
            'GW400', 'ORGANIZATION_REQUIRED', 'The call says neither which workflow to run nor for which organization.',
            p_fields => '{"workflow_id": "is needed, because neither the call nor its token names an organization"}'
        );
    end if;
    if jsonb_typeof(p_metadata) <> 'object' then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'The metadata is not an object.', p_fields => '{"metadata": "is no object"}'
        );
    end if;
    if v_workflow_id <> all (gateway.caller_workflows()) then
        perform gateway.no_such_workflow();
    end if;
    if p_idempotency_key is not null then
        select e.* into v_known from public.executions e
        where e.organization_id = v_organization.id and e.idempotency_key = p_idempotency_key;
        if found then
            return gateway.stored_outcome(v_known, p_request_hash);
        end if;
    end if;
    if v_workflow_id is null then
        perform gateway.fail(
            'GW412', 'WORKFLOW_REQUIRED', 'The call names no workflow and the organization has no default one.',
            p_fields => '{"workflow_id": "is needed, because the organization has no default workflow"}'
        );
    end if;
    select w as workflow, a.balance into v_found
    from public.credit_accounts a
    left join public.workflows w
        on w.organization_id = a.organization_id and w.id = v_workflow_id and w.archived_at is null
    where a.organization_id = v_organization.id;
    v_workflow := v_found.workflow;
    if (v_workflow.is_active and v_workflow.credits_per_execution <= least(v_found.balance, p_credits)) is not true then
        perform gateway.refuse_run(v_workflow, p_credits, v_found.balance);
    end if;
    with execution as (
        insert into public.executions (
            id, organization_id, workflow_id, state, metadata, idempotency_key, request_hash,
            credits_reserved, created_by, started_at
        ) values (
            p_execution_id, v_organization.id, v_workflow.id, 'EXECUTION_STATE_RUNNING', coalesce(p_metadata, '{}'),
            p_idempotency_key, p_request_hash, v_workflow.credits_per_execution, auth.jwt() ->> 'sub', now()
        ) on conflict do nothing
        returning id, organization_id, credits_reserved
    ), account as (
        update public.credit_accounts a set balance = a.balance - execution.credits_reserved, updated_at = now()
        from execution
        where a.organization_id = execution.organization_id and a.balance >= execution.credits_reserved
        returning a.balance
    ), entry as (
        insert into public.credit_entries (organization_id, kind, amount, balance_after, execution_id)
        select execution.organization_id, 'CREDIT_ENTRY_KIND_CHARGE', -execution.credits_reserved, account.balance,
            execution.id
        from execution, account where execution.credits_reserved > 0
    )
    select execution.id, account.balance into v_found from execution left join account on true;
    if v_found.id is null then
        select e.* into v_known from public.executions e
        where e.organization_id = v_organization.id and e.idempotency_key = p_idempotency_key;
        if found then
            return gateway.stored_outcome(v_known, p_request_hash);
        end if;
        perform gateway.fail('GW409', 'ALREADY_EXISTS', 'There is an execution of this id already.');
    end if;
    if v_found.balance is null then
        select a.balance into v_found from public.credit_accounts a where a.organization_id = v_organization.id;
        perform gateway.insufficient_credits(v_found.balance, v_workflow.credits_per_execution);
    end if;
    return jsonb_build_object(
        'replayed', false,
        'execution_id', p_execution_id,
        'organization_id', v_organization.id,
        'workflow', gateway.workflow_json(v_workflow),
        'credits', v_workflow.credits_per_execution,
        'credits_remaining', v_found.balance
    );
end
$$;

-- Who may do what ---------------------------------------------------------------------------------------------

alter table public.api_keys enable row level security;
revoke all on table public.api_keys from public, anon, authenticated, service_role;

revoke all on all functions in schema gateway from public;
grant execute on function gateway.caller_workflows() to authenticated, service_role;

revoke all on function
    public.create_api_key(uuid, jsonb, text, text, jsonb), public.list_api_keys(uuid, text, uuid, integer),
    public.get_api_key(uuid, uuid), public.rotate_api_key(uuid, uuid, text, jsonb, integer),
    public.revoke_api_key(uuid, uuid), public.find_api_key(text), public.touch_api_key(uuid)
    from public, anon, authenticated, service_role;
grant execute on function
    public.create_api_key(uuid, jsonb, text, text, jsonb), public.list_api_keys(uuid, text, uuid, integer),
    public.get_api_key(uuid, uuid), public.rotate_api_key(uuid, uuid, text, jsonb, integer),
    public.revoke_api_key(uuid, uuid)
    to authenticated, authenticator;
grant execute on function public.find_api_key(text), public.touch_api_key(uuid) to service_role, authenticator;
