-- n8n instances of organizations' own, and the errors that n8n reports.

alter table public.tenant_secrets
    drop constraint tenant_secrets_name_check,
    add constraint tenant_secrets_name_check check (name ~ (
        '^(credential/[A-Za-z][A-Za-z0-9_.-]{0,127}|api_key/[0-9a-f]{64}|n8n/(internal_secret|api_key)'
        || '|webhook/[0-9a-f-]{36})$'
    ));
comment on column public.tenant_secrets.name is
    'credential/<name> for what runs are given, api_key/<hash of the key''s secret> for a client secret, '
    'n8n/internal_secret and n8n/api_key for an n8n of the organization''s own, webhook/<id> for what signs its events.';

create table public.n8n_instances (
    organization_id uuid primary key references public.organizations (id),
    base_url text not null check (
        char_length(base_url) <= 2048 and base_url ~ '^https?://[^/?#@[:space:]]+(/[^?#[:space:]]*)?$'
    ),
    secret_digest text check (secret_digest ~ '^[0-9a-f]{64}$'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index n8n_instances_secret_idx on public.n8n_instances (secret_digest);
comment on table public.n8n_instances is
    'Organizations that have an n8n of their own; all others use the gateway''s default one.';
comment on column public.n8n_instances.secret_digest is
    'HMAC of its internal secret, by a key of the gateway''s: what a call from it is known by. Null without a secret.';

create function gateway.n8n_instance_json(p_row public.n8n_instances) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_names text[] := array(
        select s.name from public.tenant_secrets s
        where s.organization_id = p_row.organization_id and starts_with(s.name, 'n8n/')
    );
begin
    return jsonb_build_object(
        'organization_id', p_row.organization_id,
        'base_url', p_row.base_url,
        'has_internal_secret', 'n8n/internal_secret' = any (v_names),
        'has_api_key', 'n8n/api_key' = any (v_names),
        'created_at', p_row.created_at,
        'updated_at', p_row.updated_at
    );
end
$$;
comment on function gateway.n8n_instance_json(public.n8n_instances) is
    'ProtoJSON of n8ngateway.v1.N8nInstance, without its secrets.';

create function public.get_n8n_instance(p_organization_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN', p_inactive => true);
    v_row public.n8n_instances;
begin
    select i.* into v_row from public.n8n_instances i where i.organization_id = v_organization.id;
    if not found then
        perform gateway.fail('GW404', 'N8N_INSTANCE_NOT_FOUND', 'The organization uses the gateway''s default n8n.');
    end if;
    return gateway.n8n_instance_json(v_row);
end
$$;
comment on function public.get_n8n_instance(uuid) is 'N8nInstance, for admins; GW404 for who uses the default one.';

create function public.set_n8n_instance(
    p_organization_id uuid, p_base_url text, p_secrets jsonb default '{}', p_secret_digest text default null
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN');
    v_old public.n8n_instances;
    v_row public.n8n_instances;
    v_secret record;
begin
    perform from public.organizations o where o.id = v_organization.id for no key update;
    select i.* into v_old from public.n8n_instances i where i.organization_id = v_organization.id;
    -- Else who may set the address could have the secrets sent to one of its own.
    if substring(v_old.base_url from '^[^/]+//[^/]+') <> substring(p_base_url from '^[^/]+//[^/]+') and exists (
        select from public.tenant_secrets s
        where s.organization_id = v_organization.id and starts_with(s.name, 'n8n/') and not p_secrets ? s.name
    ) then
        perform gateway.fail(
            'GW412', 'N8N_SECRETS_NEEDED', 'Another host is not sent the secrets of the one before: give them anew.',
            p_fields => '{"n8n_instance.base_url": "is on another host, so internal_secret and api_key are needed"}'
        );
    end if;
    for v_secret in select s.key, s.value from jsonb_each(p_secrets) s loop
        perform gateway.keep_secret(v_organization.id, v_secret.key, v_secret.value);
    end loop;
    insert into public.n8n_instances as i (organization_id, base_url, secret_digest)
    values (v_organization.id, p_base_url, p_secret_digest)
    on conflict (organization_id) do update set
        base_url = excluded.base_url,
        secret_digest = coalesce(excluded.secret_digest, i.secret_digest),
        updated_at = clock_timestamp()
    returning * into v_row;
    perform gateway.audit(
        v_row.organization_id, 'n8n_instance.set', 'n8n_instance', v_row.organization_id::text,
        jsonb_build_object('base_url', v_row.base_url)
            || case when p_secrets = '{}' then '{}' else jsonb_build_object('secrets', (
                select jsonb_agg(substr(k, 5) order by k) from jsonb_object_keys(p_secrets) k
            )) end
    );
    return gateway.n8n_instance_json(v_row);
end
$$;
comment on function public.set_n8n_instance(uuid, text, jsonb, text) is
    'Base URL, {name: envelope} of n8n/internal_secret and n8n/api_key, and the digest of the first -> N8nInstance, for '
    'admins. What is not given stays as it was; GW412 if that is a secret and the host changes.';

create function public.delete_n8n_instance(p_organization_id uuid) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN', p_inactive => true);
begin
    perform from public.organizations o where o.id = v_organization.id for no key update;
    perform gateway.drop_secrets(v_organization.id, '{n8n/internal_secret,n8n/api_key}');
    delete from public.n8n_instances i where i.organization_id = v_organization.id;
    if found then
        perform gateway.audit(v_organization.id, 'n8n_instance.deleted', 'n8n_instance', v_organization.id::text);
    end if;
    return '{}';
end
$$;
comment on function public.delete_n8n_instance(uuid) is
    'Returns to the default n8n and forgets the secrets of the own one, if there was one -> {}, for admins.';

create function public.find_n8n_instance(p_organization_id uuid) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    return coalesce((
        select jsonb_build_object(
            'base_url', i.base_url,
            'version', i.updated_at,
            'secrets', public.reveal_secrets(i.organization_id, p_prefix => 'n8n/')
        )
        from public.n8n_instances i where i.organization_id = p_organization_id
    ), '{}');
end
$$;
comment on function public.find_n8n_instance(uuid) is
    'An organization''s own n8n: {base_url, version, "secrets": {name: envelope}}; {} for the default one. For the '
    'gateway itself only.';

create function public.find_n8n_organizations(p_secret_digest text) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    return jsonb_build_object('organization_ids', coalesce((
        select jsonb_agg(i.organization_id) from public.n8n_instances i where i.secret_digest = p_secret_digest
    ), '[]'));
end
$$;
comment on function public.find_n8n_organizations(text) is
    'Whose n8n has the internal secret of this digest: {"organization_ids": […]}. For the gateway itself only.';

-- Errors that n8n reports -------------------------------------------------------------------------------------

create function gateway.administered_organizations() returns uuid[]
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
            m.role, gateway.clerk_role(v_claims)
        )) >= gateway.role_rank('MEMBER_ROLE_ADMIN')
    );
end
$$;
comment on function gateway.administered_organizations() is
    'Organizations in which the caller is an admin or owner; what policies compare with, once a statement.';

create table public.error_logs (
    id uuid primary key default gateway.uuid_v7(),
    organization_id uuid references public.organizations (id),
    execution_id uuid,
    n8n_execution_id text check (char_length(n8n_execution_id) <= 255),
    workflow_id text not null default '' check (char_length(workflow_id) <= 255),
    workflow_name text not null default '' check (char_length(workflow_name) <= 255),
    node_name text not null default '' check (char_length(node_name) <= 255),
    error_message text not null default '' check (char_length(error_message) <= 4096),
    metadata jsonb not null default '{}'
        check (jsonb_typeof(metadata) = 'object' and octet_length(metadata::text) <= 262144),
    created_at timestamptz not null default now(),
    foreign key (organization_id, execution_id) references public.executions (organization_id, id)
);
create index error_logs_organization_idx on public.error_logs (organization_id, id);
create index error_logs_execution_idx on public.error_logs (organization_id, execution_id);
comment on table public.error_logs is
    'Failures that n8n''s error workflows report, kept for 30 days. Admins read their organization''s; those that could '
    'be matched to none are for the platform.';
comment on column public.error_logs.execution_id is 'The execution, where a token or n8n''s own id told it.';
comment on column public.error_logs.metadata is 'What else was reported, secrets taken out.';

create function public.log_error(
    p_error jsonb, p_execution_id uuid default null, p_organization_id uuid default null,
    p_organization_ids jsonb default null
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_claimed uuid := (p_error ->> 'organization_id')::uuid;
    v_execution public.executions;
    v_matches uuid[];
    v_organization_id uuid := p_organization_id;
    v_row public.error_logs;
begin
    perform gateway.require_service();
    if p_execution_id is null and p_error ->> 'n8n_execution_id' <> '' then
        -- n8n counts its executions from 1 on each instance: only those of the calling one can be meant, and lately.
        v_matches := array(
            select e.id from public.executions e
            where e.n8n_execution_id = p_error ->> 'n8n_execution_id'
                and e.created_at > now() - interval '2 days'
                and case when p_organization_ids is null
                    then not exists (select from public.n8n_instances i where i.organization_id = e.organization_id)
                    else p_organization_ids ? e.organization_id::text
                end
            limit 2
        );
        if cardinality(v_matches) = 1 then
            p_execution_id := v_matches[1];
        end if;
    end if;
    select e.* into v_execution from public.executions e
    where e.id = p_execution_id and (p_organization_id is null or e.organization_id = p_organization_id);
    if found then
        v_organization_id := v_execution.organization_id;
    elsif p_execution_id is not null then
        perform gateway.fail('GW404', 'EXECUTION_NOT_FOUND', 'There is no such execution.');
    elsif v_organization_id is null and p_organization_ids ? v_claimed::text then
        v_organization_id := v_claimed;
    elsif v_organization_id is null and jsonb_array_length(p_organization_ids) = 1 then
        v_organization_id := p_organization_ids ->> 0;
    end if;
    if v_claimed <> v_organization_id
        or p_organization_ids is not null and not p_organization_ids ? coalesce(v_organization_id, v_claimed)::text
    then
        perform gateway.fail(
            'GW403', 'TENANT_MISMATCH', 'The error is reported for another organization than the run''s.',
            p_fields => '{"org_id": "is another organization than that of the run or of the n8n that reports"}'
        );
    end if;
    delete from public.error_logs l where l.id in (
        select old.id from public.error_logs old where old.id < gateway.uuid_floor(now() - interval '30 days')
        order by old.id limit 100 for update skip locked
    );
    insert into public.error_logs (
        organization_id, execution_id, n8n_execution_id, workflow_id, workflow_name, node_name, error_message, metadata
    ) values (
        v_organization_id, v_execution.id, nullif(p_error ->> 'n8n_execution_id', ''),
        coalesce(p_error ->> 'workflow_id', ''), coalesce(p_error ->> 'workflow_name', ''),
        coalesce(p_error ->> 'node_name', ''), coalesce(p_error ->> 'error_message', ''),
        coalesce(p_error -> 'metadata', '{}')
            || case when v_organization_id is null and v_claimed is not null
                then jsonb_build_object('claimed_organization_id', v_claimed) else '{}' end
    ) returning * into v_row;
    return jsonb_build_object('id', v_row.id, 'execution_id', coalesce(v_row.execution_id::text, ''));
end
$$;
comment on function public.log_error(jsonb, uuid, uuid, jsonb) is
    '{organization_id, n8n_execution_id, workflow_id, workflow_name, node_name, error_message, metadata} of a run (that '
    'its token proves) or of none -> {id, execution_id: "" when none}. p_organization_ids are those of the n8n that '
    'reports, null for the default one. What the error says of its organization is refused (GW403) when it is wrong, '
    'and never makes it that organization''s. For the gateway itself only.';

-- Who may do what ---------------------------------------------------------------------------------------------

create index executions_n8n_idx on public.executions (n8n_execution_id) where n8n_execution_id is not null;

alter table public.n8n_instances enable row level security;
alter table public.error_logs enable row level security;
revoke all on table public.n8n_instances, public.error_logs from public, anon, authenticated, service_role;
grant select on table public.error_logs to authenticated, service_role;
create policy error_logs_read on public.error_logs for select to authenticated
    using (organization_id = any ((select gateway.administered_organizations())::uuid[]));

revoke all on all functions in schema gateway from public;
grant execute on function gateway.administered_organizations() to authenticated, service_role;

revoke all on function
    public.get_n8n_instance(uuid), public.set_n8n_instance(uuid, text, jsonb, text),
    public.delete_n8n_instance(uuid), public.find_n8n_instance(uuid), public.find_n8n_organizations(text),
    public.log_error(jsonb, uuid, uuid, jsonb)
    from public, anon, authenticated, service_role;
grant execute on function
    public.get_n8n_instance(uuid), public.set_n8n_instance(uuid, text, jsonb, text),
    public.delete_n8n_instance(uuid)
    to authenticated, authenticator;
grant execute on function
    public.find_n8n_instance(uuid), public.find_n8n_organizations(text), public.log_error(jsonb, uuid, uuid, jsonb)
    to service_role, authenticator;
