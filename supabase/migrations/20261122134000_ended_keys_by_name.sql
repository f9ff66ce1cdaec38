-- Whoever calls with a key that has ended is told how it ended, by the database as by the gateway: a replica that has
-- looked at the key a moment ago lets its calls through to here.

create or replace function gateway.living_key_organization(p_claims jsonb) returns uuid
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization_id uuid;
    v_revoked_at timestamptz;
    v_expires_at timestamptz;
begin
    select k.organization_id, k.revoked_at, k.expires_at into v_organization_id, v_revoked_at, v_expires_at
    from public.api_keys k
    where k.id = (p_claims ->> 'key_id')::uuid
        and p_claims ->> 'sub' = 'key:' || (p_claims ->> 'key_id')
        and k.organization_id = (p_claims ->> 'organization_id')::uuid;
    if not found then
        perform gateway.fail('GW401', 'API_KEY_INVALID', 'The API key is not valid.');
    elsif v_revoked_at is not null then
        perform gateway.fail('GW401', 'API_KEY_REVOKED', 'The API key has been revoked.');
    elsif v_expires_at <= now() then
        perform gateway.fail('GW401', 'API_KEY_EXPIRED', 'The API key has expired.');
    end if;
    return v_organization_id;
end
$$;
comment on function gateway.living_key_organization(jsonb) is
    'Organization of the API key that the claims are those of; fails with GW401 and how the key ended when it has.';
