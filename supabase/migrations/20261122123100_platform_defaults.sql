-- A setting of the platform can go back to its default, and who may not create an organization is not told to.

create or replace function public.set_platform_setting(p_name text, p_value text) returns jsonb
language plpgsql security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    if p_value = 'default' and gateway.platform_setting(p_name) is not null then
        delete from public.platform_settings s where s.name = p_name;
        return public.list_platform_settings();
    end if;
    insert into public.platform_settings as s (name, value) values (p_name, p_value)
    on conflict (name) do update set value = excluded.value, updated_at = now();
    return public.list_platform_settings();
exception when check_violation or not_null_violation then
    perform gateway.fail(
        'GW400', 'INVALID_ARGUMENT',
        'Settings are workflow_management (organization, platform) and organization_creation (anyone, platform); '
        'each can be set to default.',
        p_fields => case when gateway.platform_setting(p_name) is null then '{"name": "is no setting"}'
            else '{"value": "is not one of the setting''s values"}' end::jsonb
    );
end
$$;
comment on function public.set_platform_setting(text, text) is
    'Sets one, or lets it have its default again as if nobody had decided -> all settings; GW400 for what is none. For '
    'the platform only.';

create or replace function gateway.organization_required(p_caller_organizations integer) returns void
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
        'GW400', 'ORGANIZATION_REQUIRED',
        'You belong to no organization: accept an invitation' || case gateway.platform_setting('organization_creation')
            when 'platform' then ', or ask who runs this platform for an organization.' else ' or create one.' end,
        p_fields => '{"organization_id": "is needed, and the caller belongs to none"}'
    );
end
$$;
