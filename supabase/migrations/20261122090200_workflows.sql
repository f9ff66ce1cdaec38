-- What an organization can run.

create table public.workflows (
    id uuid primary key default gateway.uuid_v7(),
    organization_id uuid not null references public.organizations (id),
    name text not null check (char_length(name) between 1 and 100 and name !~ '[[:cntrl:]]'),
    description text not null default '' check (char_length(description) <= 2000),
    n8n_workflow_id text not null default '' check (n8n_workflow_id ~ '^[A-Za-z0-9_-]{0,255}$'),
    webhook_path text not null check (
        char_length(webhook_path) <= 255
        and webhook_path ~ '^[A-Za-z0-9_~-]+([.][A-Za-z0-9_~-]+)*(/[A-Za-z0-9_~-]+([.][A-Za-z0-9_~-]+)*)*$'
    ),
    credits_per_execution integer not null default 0 check (credits_per_execution between 0 and 1000000),
    pricing_mode text not null default 'PRICING_MODE_FIXED'
        check (pricing_mode in ('PRICING_MODE_FIXED', 'PRICING_MODE_PER_SECOND', 'PRICING_MODE_REPORTED_UNITS')),
    credits_per_unit integer not null default 0 check (credits_per_unit between 0 and 1000000),
    response_mode text not null default 'RESPONSE_MODE_AUTO'
        check (response_mode in ('RESPONSE_MODE_AUTO', 'RESPONSE_MODE_DOCUMENT', 'RESPONSE_MODE_STREAMING')),
    credential_mode text not null default 'CREDENTIAL_MODE_NONE'
        check (credential_mode in ('CREDENTIAL_MODE_NONE', 'CREDENTIAL_MODE_INLINE', 'CREDENTIAL_MODE_HANDLE')),
    concurrency_limit integer not null default 0 check (concurrency_limit between 0 and 100000),
    is_idempotent boolean not null default false,
    unknown_outcome_policy text not null default 'UNKNOWN_OUTCOME_POLICY_VOID' check (
        unknown_outcome_policy in (
            'UNKNOWN_OUTCOME_POLICY_VOID', 'UNKNOWN_OUTCOME_POLICY_CAPTURE', 'UNKNOWN_OUTCOME_POLICY_RETRY'
        )
    ),
    timeout_seconds integer not null default 0 check (timeout_seconds between 0 and 86400),
    idle_timeout_seconds integer not null default 0 check (idle_timeout_seconds between 0 and 86400),
    is_active boolean not null default true,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    archived_at timestamptz,
    unique (organization_id, id),
    constraint workflows_is_idempotent_check
        check (is_idempotent or unknown_outcome_policy <> 'UNKNOWN_OUTCOME_POLICY_RETRY')
);
create unique index workflows_name_idx on public.workflows (organization_id, name) where archived_at is null;
comment on table public.workflows is 'n8n webhooks that members of one organization may run for credits.';
comment on column public.workflows.webhook_path is 'What follows /webhook/ in n8n; can lead nowhere else.';
comment on column public.workflows.credits_per_execution is 'The most that a run costs; the price itself when fixed.';
comment on column public.workflows.timeout_seconds is '0 for the gateway''s default; idle_timeout_seconds likewise.';
comment on column public.workflows.archived_at is 'When it was deleted; executions still name it.';

alter table public.organizations add constraint organizations_default_workflow_id_fkey
    foreign key (id, default_workflow_id) references public.workflows (organization_id, id);

create function gateway.workflow_json(p_row public.workflows) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'id', p_row.id,
        'organization_id', p_row.organization_id,
        'name', p_row.name,
        'description', p_row.description,
        'n8n_workflow_id', p_row.n8n_workflow_id,
        'webhook_path', p_row.webhook_path,
        'credits_per_execution', p_row.credits_per_execution,
        'pricing_mode', p_row.pricing_mode,
        'credits_per_unit', p_row.credits_per_unit,
        'response_mode', p_row.response_mode,
        'credential_mode', p_row.credential_mode,
        'concurrency_limit', p_row.concurrency_limit,
        'is_idempotent', p_row.is_idempotent,
        'unknown_outcome_policy', p_row.unknown_outcome_policy,
        'timeout_seconds', p_row.timeout_seconds,
        'idle_timeout_seconds', p_row.idle_timeout_seconds,
        'is_active', p_row.is_active,
        'created_at', p_row.created_at,
        'updated_at', p_row.updated_at,
        'archived_at', p_row.archived_at
    );
end
$$;
comment on function gateway.workflow_json(public.workflows) is 'ProtoJSON of n8ngateway.v1.Workflow.';

create function gateway.no_such_workflow() returns void
language plpgsql set search_path = ''
as $$
begin
    perform gateway.fail('GW404', 'WORKFLOW_NOT_FOUND', 'There is no such workflow.');
end
$$;
comment on function gateway.no_such_workflow() is 'The one answer for a workflow that is unknown or another tenant''s.';

create function public.register_workflow(p_workflow jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(nullif(p_workflow ->> 'organization_id', '')::uuid, 'MEMBER_ROLE_ADMIN');
    v_row public.workflows;
begin
    insert into public.workflows (
        organization_id, name, description, n8n_workflow_id, webhook_path,
        credits_per_execution, pricing_mode, credits_per_unit, response_mode, credential_mode,
        concurrency_limit, is_idempotent, unknown_outcome_policy, timeout_seconds, idle_timeout_seconds, is_active
    ) values (
        v_organization.id,
        coalesce(p_workflow ->> 'name', ''),
        coalesce(p_workflow ->> 'description', ''),
        coalesce(p_workflow ->> 'n8n_workflow_id', ''),
        coalesce(p_workflow ->> 'webhook_path', ''),
        coalesce((p_workflow ->> 'credits_per_execution')::integer, 0),
        coalesce(nullif(p_workflow ->> 'pricing_mode', 'PRICING_MODE_UNSPECIFIED'), 'PRICING_MODE_FIXED'),
        coalesce((p_workflow ->> 'credits_per_unit')::integer, 0),
        coalesce(nullif(p_workflow ->> 'response_mode', 'RESPONSE_MODE_UNSPECIFIED'), 'RESPONSE_MODE_AUTO'),
        coalesce(nullif(p_workflow ->> 'credential_mode', 'CREDENTIAL_MODE_UNSPECIFIED'), 'CREDENTIAL_MODE_NONE'),
        coalesce((p_workflow ->> 'concurrency_limit')::integer, 0),
        coalesce((p_workflow ->> 'is_idempotent')::boolean, false),
        coalesce(
            nullif(p_workflow ->> 'unknown_outcome_policy', 'UNKNOWN_OUTCOME_POLICY_UNSPECIFIED'),
            'UNKNOWN_OUTCOME_POLICY_VOID'
        ),
        coalesce((p_workflow ->> 'timeout_seconds')::integer, 0),
        coalesce((p_workflow ->> 'idle_timeout_seconds')::integer, 0),
        coalesce((p_workflow ->> 'is_active')::boolean, true)
    ) returning * into v_row;
    return gateway.workflow_json(v_row);
exception when unique_violation then
    perform gateway.fail(
        'GW409', 'ALREADY_EXISTS', 'The organization has a workflow of this name already.',
        p_fields => '{"name": "is taken"}'
    );
end
$$;
comment on function public.register_workflow(jsonb) is
    'Workflow -> Workflow (ProtoJSON, proto field names), for owners and admins of its organization.';

create function public.list_workflows(
    p_organization_id uuid default null, p_after uuid default null, p_limit integer default null,
    p_active boolean default null, p_archived boolean default false
) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_VIEWER');
    v_limit integer := gateway.page_size(p_limit);
    v_rows jsonb[];
begin
    select array_agg(gateway.workflow_json(page) order by page.id desc) into v_rows
    from (
        select w.* from public.workflows w
        where w.organization_id = v_organization.id
            and w.id < coalesce(p_after, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            and (p_archived or w.archived_at is null)
            and (p_active is null or w.is_active = p_active)
        order by w.id desc limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'workflows', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'id' end
    );
end
$$;
comment on function public.list_workflows(uuid, uuid, integer, boolean, boolean) is
    'One organization''s workflows, newest first: {"workflows": [Workflow], "next": last id, null at the end}. '
    'Only (in)active ones when p_active is given; archived ones too with p_archived.';

create function public.get_workflow(p_id uuid) returns jsonb
language plpgsql stable set search_path = ''
as $$
declare
    v_row public.workflows;
begin
    select w.* into v_row from public.workflows w where w.id = p_id;
    if not found then
        perform gateway.no_such_workflow();
    end if;
    return gateway.workflow_json(v_row);
end
$$;
comment on function public.get_workflow(uuid) is 'Workflow, also when it is archived; GW404.';

create function public.set_workflow_active(p_id uuid, p_active boolean) returns jsonb
language plpgsql security definer set search_path = ''
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
    if v_row.archived_at is not null then
        perform gateway.fail('GW412', 'WORKFLOW_ARCHIVED', 'The workflow has been deleted.');
    end if;
    if v_row.is_active <> p_active then
        update public.workflows w set is_active = p_active, updated_at = now() where w.id = p_id
        returning * into v_row;
    end if;
    return gateway.workflow_json(v_row);
end
$$;
comment on function public.set_workflow_active(uuid, boolean) is
    'Moves a workflow to active or inactive -> Workflow, for owners and admins; one that is there already stays so. '
    'GW412 when it is archived.';

alter table public.workflows enable row level security;
revoke all on table public.workflows from public, anon, authenticated, service_role;
grant select on table public.workflows to authenticated, service_role;
create policy workflows_read on public.workflows for select to authenticated
    using (organization_id = any ((select gateway.caller_organizations())::uuid[]));

revoke all on all functions in schema gateway from public;
grant execute on function gateway.workflow_json(public.workflows), gateway.no_such_workflow()
    to authenticated, service_role;

revoke all on function
    public.register_workflow(jsonb), public.list_workflows(uuid, uuid, integer, boolean, boolean),
    public.get_workflow(uuid), public.set_workflow_active(uuid, boolean)
    from public, anon, authenticated, service_role;
grant execute on function
    public.register_workflow(jsonb), public.list_workflows(uuid, uuid, integer, boolean, boolean),
    public.set_workflow_active(uuid, boolean)
    to authenticated, authenticator;
grant execute on function public.get_workflow(uuid) to authenticated, service_role, authenticator;
