-- A metered price that is whole, and errors that say which case they are.

-- Metered prices -----------------------------------------------------------------------------------------------------

create function gateway.guard_price() returns trigger
language plpgsql set search_path = ''
as $$
declare
    v_wrong jsonb := '{}';
begin
    if new.credits_per_unit = 0 then
        v_wrong := v_wrong || jsonb_build_object('credits_per_unit', 'must be above 0 with ' || new.pricing_mode);
    end if;
    if new.credits_per_execution = 0 then
        v_wrong := v_wrong || jsonb_build_object('credits_per_execution', 'must be above 0 with ' || new.pricing_mode);
    end if;
    if v_wrong <> '{}' then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT',
            'A metered price needs both credits_per_unit and credits_per_execution above 0.',
            p_fields => v_wrong
        );
    end if;
    return new;
end
$$;
comment on function gateway.guard_price() is
    'Trigger: refuses a metered price that would be 0 whatever a run does, for want of a unit''s price or of the most '
    'that a run may cost. A workflow that had one before stays as it is until its price is changed.';

-- Triggers fire in the order of their names: after workflows_guard, which says whether the caller may set a price.
create trigger workflows_price_insert before insert on public.workflows
    for each row when (new.pricing_mode <> 'PRICING_MODE_FIXED') execute function gateway.guard_price();
create trigger workflows_price_update before update on public.workflows
    for each row when (
        new.pricing_mode <> 'PRICING_MODE_FIXED'
        and (new.pricing_mode, new.credits_per_unit, new.credits_per_execution)
            is distinct from (old.pricing_mode, old.credits_per_unit, old.credits_per_execution)
    ) execute function gateway.guard_price();

-- Which organization is meant ----------------------------------------------------------------------------------------

create function gateway.organization_required(p_caller_organizations integer) returns void
language plpgsql stable security definer set search_path = ''
as $$
begin
    if p_caller_organizations > 1 then
        perform gateway.fail(
            'GW400', 'ORGANIZATION_REQUIRED', 'You belong to several organizations: say which by X-Tenant-ID.',
            p_fields => '{"organization_id": "is needed, because the caller belongs to several"}'
        );
    elsif cardinality(gateway.caller_memberships()) > 0 then
        perform gateway.fail(
            'GW400', 'ORGANIZATION_REQUIRED',
            'Your organization has rules of its own for its callers: say that it is meant by X-Tenant-ID.',
            p_fields => '{"organization_id": "is needed, because the organization has rules of its own"}'
        );
    end if;
    perform gateway.fail(
        'GW400', 'ORGANIZATION_REQUIRED', 'You belong to no organization: accept an invitation or create one.',
        p_fields => '{"organization_id": "is needed, and the caller belongs to none"}'
    );
end
$$;
comment on function gateway.organization_required(integer) is
    'GW400 for a call that names no organization, by how many the caller could mean: several, none because what it '
    'belongs to asks for more, or none at all.';

create or replace function gateway.own_organization(p_tenant text, p_clerk_organization text) returns uuid
language plpgsql stable security definer set search_path = '' set plan_cache_mode = 'auto'
as $$
declare
    v_id uuid;
    v_ids uuid[];
begin
    if p_tenant is not null then
        return p_tenant::uuid;
    end if;
    if p_clerk_organization is not null then
        select o.id into v_id from public.organizations o where o.clerk_organization_id = p_clerk_organization;
        if found then
            return v_id;
        end if;
    end if;
    v_ids := gateway.caller_organizations();
    if cardinality(v_ids) <> 1 then
        perform gateway.organization_required(cardinality(v_ids));
    end if;
    return v_ids[1];
end
$$;

-- Credits that were added before -------------------------------------------------------------------------------------

create or replace function public.add_credits(
    p_organization_id uuid, p_amount integer, p_reference text, p_description text default ''
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_account public.credit_accounts;
    v_entry public.credit_entries;
begin
    perform gateway.require_service();
    if coalesce(p_amount, 0) = 0 or coalesce(p_reference, '') = '' then
        perform gateway.fail(
            'GW400', 'INVALID_ARGUMENT', 'Credits need an amount and a reference.',
            p_fields => case when coalesce(p_amount, 0) = 0 then '{"amount": "is needed"}'
                else '{"reference": "is needed"}' end::jsonb
        );
    end if;
    perform gateway.post_charges(p_organization_id);
    select a.* into v_account from public.credit_accounts a
    where a.organization_id = p_organization_id for no key update;
    if not found then
        perform gateway.fail('GW404', 'ORGANIZATION_NOT_FOUND', 'There is no such organization.');
    end if;
    select c.* into v_entry from public.credit_entries c
    where c.organization_id = p_organization_id and c.reference = p_reference;
    if found then
        if v_entry.amount <> p_amount then
            perform gateway.fail('GW410', 'IDEMPOTENCY_KEY_REUSED', 'The key was used for another amount of credits.');
        end if;
        return gateway.credit_line(v_entry) || '{"added_before": true}';
    end if;
    if v_account.balance - v_account.reserved + p_amount::bigint < 0 then
        perform gateway.insufficient_credits(v_account.balance - v_account.reserved, -p_amount);
    elsif v_account.balance + p_amount::bigint > 2000000000 then
        -- What is reserved is part of the balance, so that giving it back cannot exceed this.
        perform gateway.fail('GW412', 'BALANCE_TOO_HIGH', 'A balance cannot be raised above 2000000000 credits.');
    end if;
    update public.credit_accounts a set
        balance = a.balance + p_amount, granted = a.granted + p_amount, updated_at = now()
    where a.organization_id = p_organization_id;
    insert into public.credit_entries
        (organization_id, kind, amount, balance_after, reference, description, created_by)
    values (
        p_organization_id,
        case when p_amount < 0 then 'CREDIT_ENTRY_KIND_ADJUSTMENT' else 'CREDIT_ENTRY_KIND_GRANT' end
            ::public.credit_entry_kind,
        p_amount, v_account.balance + p_amount, p_reference, coalesce(p_description, ''),
        coalesce(auth.jwt() ->> 'sub', 'platform')
    ) returning * into v_entry;
    perform gateway.note_low_balance(p_organization_id);
    return gateway.credit_line(v_entry) || '{"added_before": false}';
end
$$;

comment on function public.add_credits(uuid, integer, text, text) is
    'Adds credits (takes them when negative) -> {"entry": CreditEntry, "balance": CreditBalance, "added_before": '
    'whether this reference had been used}. Once for a reference: a second call answers the first one''s entry, or '
    'GW410 if the amount differs. For the platform only.';

-- Who may do what ----------------------------------------------------------------------------------------------------

revoke all on all functions in schema gateway from public;
