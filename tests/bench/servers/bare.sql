-- What credits and runs need at the least: a reservation and its capture, and what is known of the run.

create schema bare;
grant usage on schema bare to authenticator, authenticated;

create table bare.accounts (
    clerk_organization_id text primary key,
    organization_id uuid not null,
    webhook_path text not null,
    balance bigint not null check (balance >= reserved),
    reserved bigint not null default 0
);
create table bare.runs (
    id uuid primary key,
    clerk_organization_id text not null,
    state text not null,
    reserved bigint not null,
    result jsonb
);
insert into bare.accounts (clerk_organization_id, organization_id, webhook_path, balance)
select o.clerk_organization_id, o.id, w.webhook_path, 1000000000
from public.organizations o join public.workflows w on w.id = o.default_workflow_id;

create function bare.begin(p_id uuid, p_organization text) returns text
language sql security definer set search_path = '' as $$
    with account as (
        update bare.accounts set reserved = reserved + 1
        where clerk_organization_id = p_organization and balance > reserved
        returning clerk_organization_id, webhook_path
    ), run as (
        insert into bare.runs (id, clerk_organization_id, state, reserved)
        select p_id, a.clerk_organization_id, 'RUNNING', 1 from account a
    )
    select a.webhook_path from account a
$$;

create function bare.settle(p_id uuid, p_result jsonb) returns bigint
language sql security definer set search_path = '' as $$
    with run as (
        update bare.runs set state = 'COMPLETED', result = p_result
        where id = p_id and state = 'RUNNING'
        returning clerk_organization_id, reserved
    )
    update bare.accounts a set balance = a.balance - r.reserved, reserved = a.reserved - r.reserved
    from run r where a.clerk_organization_id = r.clerk_organization_id
    returning a.balance - a.reserved
$$;

create function bare.list_workflows(p_claims text) returns text
language plpgsql set search_path = '' as $$
begin
    perform set_config('request.jwt.claims', p_claims, true), set_config('role', 'authenticated', true);
    return (
        select json_agg(w)::text from (
            select
                w.id, w.organization_id, w.name, w.description, w.webhook_path, w.credits_per_execution, w.is_active,
                w.created_at, w.updated_at
            from public.workflows w order by w.id limit 50
        ) w
    );
end
$$;
grant execute on all functions in schema bare to authenticator;
