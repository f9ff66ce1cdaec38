-- Who holds a key that has ended is told how it ended, also when it had been rotated before: the hash of its last
-- secret stays, and what it would sign with goes.

create or replace function public.rotate_api_key(
    p_organization_id uuid, p_id uuid, p_secret_hash text, p_client_secret jsonb, p_overlap_seconds integer
) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_old public.api_keys := gateway.own_api_key(p_organization_id, p_id);
    v_overlaps boolean := coalesce(p_overlap_seconds, 0) > 0;
    v_new public.api_keys;
begin
    if v_old.revoked_at is not null or v_old.expires_at <= now() then
        perform gateway.fail('GW412', 'API_KEY_ENDED', 'The key has been revoked or has expired.');
    end if;
    update public.api_keys k set
        secret_hash = p_secret_hash,
        previous_hash = v_old.secret_hash,
        -- Without an overlap long ago, so that no clock that is slow accepts the old secret.
        previous_expires_at = case when v_overlaps then now() + make_interval(secs => p_overlap_seconds)
            else to_timestamp(0) end,
        updated_at = now()
    where k.id = p_id
    returning * into v_new;
    perform gateway.drop_secrets(v_old.organization_id, array(
        select 'api_key/' || h from unnest(array[v_old.secret_hash, v_old.previous_hash]) h
        where h is not null and not (v_overlaps and h = v_old.secret_hash)
    ));
    perform gateway.keep_secret(v_old.organization_id, 'api_key/' || p_secret_hash, p_client_secret);
    return gateway.api_key_json(v_new);
end
$$;

create or replace function public.revoke_api_key(p_organization_id uuid, p_id uuid) returns jsonb
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
            revoked_at = now(),
            previous_expires_at = case when k.previous_expires_at > now() then now() else k.previous_expires_at end,
            updated_at = now()
        where k.id = p_id
        returning * into v_row;
    end if;
    return gateway.api_key_json(v_row);
end
$$;
