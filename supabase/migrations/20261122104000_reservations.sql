-- What charging in two phases needs, in tables: nothing here changes what the functions do, the next file does.

create type public.reservation_state as enum ('HELD', 'CAPTURED', 'VOIDED');
comment on type public.reservation_state is 'Held, then either captured (the run is paid) or voided (given back).';

create type public.pricing_mode as enum (
    'PRICING_MODE_FIXED', 'PRICING_MODE_PER_SECOND', 'PRICING_MODE_REPORTED_UNITS'
);
comment on type public.pricing_mode is 'n8ngateway.v1.PricingMode.';

create type public.unknown_outcome_policy as enum (
    'UNKNOWN_OUTCOME_POLICY_VOID', 'UNKNOWN_OUTCOME_POLICY_CAPTURE', 'UNKNOWN_OUTCOME_POLICY_RETRY'
);
comment on type public.unknown_outcome_policy is 'n8ngateway.v1.UnknownOutcomePolicy.';

alter table public.organizations add column has_webhooks boolean not null default false;
comment on column public.organizations.has_webhooks is
    'Whether any endpoint takes events: without one none are written. Kept by the functions that change endpoints.';

create table public.reservations (
    organization_id uuid not null,
    execution_id uuid not null,
    workflow_id uuid not null,
    state public.reservation_state not null default 'HELD',
    queued boolean not null,
    amount integer not null,
    captured integer not null default 0,
    credits_per_unit integer not null,
    pricing_mode public.pricing_mode not null,
    unknown_outcome_policy public.unknown_outcome_policy not null,
    attempts integer not null default 0,
    runner varchar(255),
    lease_expires_at timestamptz not null,
    cancel_requested_at timestamptz,
    created_at timestamptz not null default now(),
    resolved_at timestamptz,
    primary key (organization_id, execution_id),
    foreign key (organization_id, execution_id) references public.executions (organization_id, id)
);
create index reservations_held_idx on public.reservations (organization_id, queued, execution_id)
    where state = 'HELD';
create index reservations_lease_idx on public.reservations (lease_expires_at) where state = 'HELD';
comment on table public.reservations is
    'What each execution holds of its organization''s credits and, while it is held, who has the run in hand. Written '
    'by the functions alone and read by nobody else.';
comment on column public.reservations.queued is 'Not sent to n8n yet: the execution is PENDING.';
comment on column public.reservations.amount is 'The most that the run can cost.';
comment on column public.reservations.captured is 'What it did cost.';
comment on column public.reservations.pricing_mode is
    'The workflow''s when the run was begun, as are credits_per_unit and unknown_outcome_policy.';
comment on column public.reservations.attempts is 'How often the run was sent to n8n.';
comment on column public.reservations.runner is 'Who runs it; null while it is queued, and for a run without a lease.';
comment on column public.reservations.lease_expires_at is 'When sweep_executions takes the run up.';

create trigger reservations_resolved_once before update on public.reservations
    for each row when (old.state <> 'HELD') execute function gateway.refuse_change();
create trigger reservations_kept before delete or truncate on public.reservations
    for each statement execute function gateway.refuse_change();

create table public.outbox_events (
    id uuid primary key default gateway.uuid_v7(),
    organization_id uuid not null references public.organizations (id),
    type varchar(64) not null,
    payload jsonb not null,
    created_at timestamptz not null default now()
);
create index outbox_events_organization_idx on public.outbox_events (organization_id);
comment on table public.outbox_events is
    'Events on their way to webhooks: written by gateway.emit in the transaction that made them happen, taken out (FOR '
    'UPDATE SKIP LOCKED, by id) and deleted in the one that plans their deliveries.';

create function gateway.emit(p_organization_id uuid, p_type text, p_payload jsonb) returns void
language plpgsql security definer set search_path = ''
as $$
begin
    insert into public.outbox_events (organization_id, type, payload)
    select o.id, p_type, p_payload from public.organizations o where o.id = p_organization_id and o.has_webhooks;
end
$$;
comment on function gateway.emit(uuid, text, jsonb) is
    'Writes an event (execution.finished, credits.low, api_key.revoked, caller.suspicious) for the webhooks of an '
    'organization, together with what the caller''s transaction does; nothing if it has none.';

-- Columns and indexes of tables that there are ------------------------------------------------------------------

alter table public.executions
    add column last_sequence integer not null default 0,
    add column idempotency_key_expired boolean not null default false;
comment on column public.executions.last_sequence is 'Of its newest event; 0 until it has ended.';
comment on column public.executions.idempotency_key_expired is 'Its key has been used again, after 24 hours.';
drop index public.executions_idempotency_key_idx;
create unique index executions_idempotency_key_idx on public.executions (organization_id, idempotency_key)
    where idempotency_key is not null and not idempotency_key_expired;

-- Lists go by the time of begin. Those of a rare state or label do not read all that came after it.
create index executions_begun_idx on public.executions (organization_id, created_at, id);
create index executions_workflow_idx on public.executions (organization_id, workflow_id, created_at, id);
create index executions_uncompleted_idx on public.executions (organization_id, created_at, id)
    where state <> 'EXECUTION_STATE_COMPLETED';
create index executions_metadata_idx on public.executions using gin (metadata jsonb_path_ops) where metadata <> '{}';

alter table public.credit_accounts
    add column reserved integer not null default 0,
    add column granted bigint not null default 0,
    add column spent bigint not null default 0,
    add column is_low boolean not null default false;

-- Who may do what -------------------------------------------------------------------------------------------------

alter table public.reservations enable row level security;
alter table public.outbox_events enable row level security;
revoke all on table public.reservations, public.outbox_events from public, anon, authenticated, service_role;

revoke all on all functions in schema gateway from public;
