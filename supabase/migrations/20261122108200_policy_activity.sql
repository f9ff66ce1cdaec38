-- Whether an organization is active is part of what its open streams depend on.

create or replace function gateway.policy_json(p_row public.organizations) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'organization_id', p_row.id,
        'auth_policy', p_row.auth_policy,
        'minimum_signature_version', p_row.minimum_signature_version,
        'fingerprint_policy', p_row.fingerprint_policy,
        'rate_limit', case when p_row.rate_limit_requests > 0 then jsonb_build_object(
            'requests', p_row.rate_limit_requests, 'period_seconds', p_row.rate_limit_period_seconds
        ) end,
        'max_open_streams', p_row.max_open_streams,
        'is_active', p_row.is_active
    );
end
$$;
comment on function gateway.policy_json(public.organizations) is
    'What the organization asks of its callers, and whether it is active; rate_limit is null for the gateway''s default.';
