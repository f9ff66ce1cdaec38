-- What cannot be delivered ends: with a secret that signs nothing, taken by replicas that break over it, or waiting for an
-- endpoint that nobody enables again.

create or replace function gateway.keep_secret(p_organization_id uuid, p_name text, p_envelope jsonb) returns void
language plpgsql security definer set search_path = ''
as $$
declare
    v_vault_id uuid;
begin
    -- One writer at a time for each organization: a name is unique in the vault, too.
    perform from public.organizations o where o.id = p_organization_id for no key update;
    select s.vault_id into v_vault_id from public.tenant_secrets s
    where s.organization_id = p_organization_id and s.name = p_name;
    if p_envelope ? 'plain' then
        if octet_length(p_envelope ->> 'plain') not between 1 and 65536 then
            perform gateway.fail('GW400', 'INVALID_ARGUMENT', 'A secret has between 1 and 65536 bytes.');
        elsif starts_with(p_name, 'webhook/') and p_envelope ->> 'plain'
            !~ '^whsec_([A-Za-z0-9+/]{4}){8,21}([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$'
        then
            perform gateway.fail(
                'GW400', 'INVALID_ARGUMENT', 'A webhook''s secret is whsec_ and 24 to 64 bytes in base64.',
                p_fields => '{"secret": "must be whsec_ and 24 to 64 bytes in base64"}'
            );
        elsif to_regnamespace('vault') is null then
            perform gateway.fail(
                'GW412', 'VAULT_MISSING', 'The database has no vault, and the gateway no key of its own (VAULT_KEY).'
            );
        elsif v_vault_id is null then
            v_vault_id := vault.create_secret(
                p_envelope ->> 'plain', p_organization_id || '/' || p_name, 'n8n-gateway'
            );
        else
            perform vault.update_secret(v_vault_id, p_envelope ->> 'plain');
        end if;
    elsif v_vault_id is not null then
        delete from vault.secrets v where v.id = v_vault_id;
        v_vault_id := null;
    end if;
    insert into public.tenant_secrets as s (organization_id, name, vault_id, sealed, key_id)
    values (p_organization_id, p_name, v_vault_id, p_envelope ->> 'sealed', p_envelope ->> 'key_id')
    on conflict (organization_id, name) do update set
        vault_id = excluded.vault_id, sealed = excluded.sealed, key_id = excluded.key_id, updated_at = now();
end
$$;

create or replace function public.take_webhook_deliveries(
    p_limit integer, p_failing_limit integer, p_each integer, p_lease_seconds integer
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_planned integer;
    v_taken jsonb;
begin
    perform gateway.require_service();
    v_planned := gateway.plan_deliveries();
    -- Of any state: those of an endpoint that stays disabled wait no longer than the others are kept.
    delete from public.webhook_deliveries d where d.id in (
        select old.id from public.webhook_deliveries old
        where old.id < gateway.uuid_floor(now() - interval '30 days')
            and (old.leased_until is null or old.leased_until <= now())
        order by old.id limit 100 for update skip locked
    );
    -- Leases of last attempts that nobody has ended: what breaks each replica that takes it must not go on for ever.
    update public.webhook_deliveries d set
        state = 'WEBHOOK_DELIVERY_STATE_FAILED',
        error_message = 'The last attempt was never ended.',
        leased_until = null
    where d.id in (
        select l.id from public.webhook_deliveries l
        where l.leased_until <= now() and l.attempts_left = 0 and l.state = 'WEBHOOK_DELIVERY_STATE_PENDING'
        limit 100 for no key update skip locked
    );
    -- One step from endpoint to endpoint along the index, so that a long queue of one does not hide the others.
    with recursive waiting (webhook_id) as (
        (
            select d.webhook_id from public.webhook_deliveries d
            where d.state = 'WEBHOOK_DELIVERY_STATE_PENDING' order by d.webhook_id limit 1
        )
        union all
        select (
            select d.webhook_id from public.webhook_deliveries d
            where d.state = 'WEBHOOK_DELIVERY_STATE_PENDING' and d.webhook_id > w.webhook_id
            order by d.webhook_id limit 1
        )
        from waiting w where w.webhook_id is not null
    ), endpoint as (
        select e.id, e.organization_id, e.failing_since is not null as is_failing, under_way.leased,
            sum(under_way.leased) over (partition by e.organization_id) as leased_of_organization
        from waiting w
        join public.webhook_endpoints e on e.id = w.webhook_id and e.is_enabled
        cross join lateral (
            select count(*)::integer as leased from public.webhook_deliveries l
            where l.webhook_id = e.id and l.leased_until > now()
        ) under_way
    ), due as (
        select d.id, e.is_failing, e.leased_of_organization
            + row_number() over (partition by e.organization_id order by e.is_failing, random()) as turn
        from endpoint e
        cross join lateral (
            select d.id from public.webhook_deliveries d
            where d.webhook_id = e.id and d.state = 'WEBHOOK_DELIVERY_STATE_PENDING'
                and d.next_attempt_at <= now() and (d.leased_until is null or d.leased_until <= now())
            order by d.next_attempt_at
            limit greatest(case when e.is_failing then 1 else p_each end - e.leased, 0)
            for no key update skip locked
        ) d
    ), chosen as (
        -- Of each organization the first before the second of any.
        select r.id from (
            select due.id, due.is_failing,
                row_number() over (partition by due.is_failing order by due.turn, random()) as place
            from due where due.turn <= 2 * p_each
        ) r
        where r.place <= case when r.is_failing then p_failing_limit else p_limit end
        order by r.is_failing, r.place limit p_limit
    ), leased as (
        update public.webhook_deliveries d set
            attempts = d.attempts + 1,
            attempts_left = greatest(d.attempts_left - 1, 0),
            leased_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
        from chosen where d.id = chosen.id
        returning d.*
    )
    select jsonb_agg(jsonb_build_object(
        'id', l.id,
        'organization_id', l.organization_id,
        'webhook_id', l.webhook_id,
        'url', e.url,
        'payload', l.payload,
        'attempt', l.attempts,
        'attempts_since_queued', 11 - l.attempts_left,
        'is_failing', e.failing_since is not null,
        'secrets', public.reveal_secrets(l.organization_id, jsonb_build_array(
            'webhook/' || e.secret_id,
            'webhook/' || case when e.previous_secret_expires_at > now() then e.previous_secret_id end
        ))
    )) into v_taken
    from leased l join public.webhook_endpoints e on e.id = l.webhook_id;
    return jsonb_build_object('planned', v_planned, 'deliveries', coalesce(v_taken, '[]'));
end
$$;
comment on function public.take_webhook_deliveries(integer, integer, integer, integer) is
    'Plans deliveries of new events and leases due ones: at most p_limit, of them p_failing_limit to endpoints that '
    'failed last, and so that no endpoint has more than p_each under way, a failing one no more than 1, and no '
    'organization more than twice p_each; organizations take turns -> {"planned", '
    '"deliveries": [{id, organization_id, webhook_id, url, payload, attempt, attempts_since_queued, is_failing, '
    '"secrets": {name: envelope}}]}. For the gateway itself only.';

revoke all on all functions in schema gateway from public;
