-- Credits that the platform gives and takes are among what is noted; charges are in the ledger alone.

create function gateway.audit_credits() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    perform gateway.audit(
        new.organization_id, 'credits.added', 'credits', new.id::text,
        jsonb_build_object(
            'amount', new.amount, 'balance_after', new.balance_after, 'reference', new.reference,
            'description', new.description
        )
    );
    return null;
end
$$;
comment on function gateway.audit_credits() is 'Trigger: notes credits that were granted or adjusted.';
create trigger credit_entries_audit after insert on public.credit_entries
    for each row when (new.kind in ('CREDIT_ENTRY_KIND_GRANT', 'CREDIT_ENTRY_KIND_ADJUSTMENT'))
    execute function gateway.audit_credits();

revoke all on all functions in schema gateway from public;
