-- All of an organization's credentials are looked for in what its runs answer, in a dozen forms each, and are kept in
-- memory for that as long as a run lasts. So it is not only their number that has a bound, but what they take together.

create or replace function public.store_credentials(p_organization_id uuid, p_credentials jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN');
    v_given record;
    v_held record;
    v_in_vault bigint;
begin
    for v_given in select c.key, c.value from jsonb_each(p_credentials) c loop
        perform gateway.keep_secret(v_organization.id, 'credential/' || v_given.key, v_given.value);
    end loop;
    select
        count(*) as number,
        array_agg(s.vault_id) filter (where s.vault_id is not null) as in_vault,
        -- In base64, with a nonce of 12 bytes and a tag of 16.
        coalesce(sum(greatest(octet_length(s.sealed) * 3 / 4 - 28, 0)), 0) as sealed
    into v_held
    from public.tenant_secrets s
    where s.organization_id = v_organization.id and starts_with(s.name, 'credential/');
    if v_held.number > 256 then
        perform gateway.fail('GW412', 'CREDENTIALS_FULL', 'An organization has at most 256 credentials.');
    end if;
    if v_held.in_vault is not null then
        select sum(octet_length(d.decrypted_secret)) into v_in_vault
        from vault.decrypted_secrets d where d.id = any (v_held.in_vault);
    end if;
    if v_held.sealed + coalesce(v_in_vault, 0) > 524288 then
        perform gateway.fail(
            'GW412', 'CREDENTIALS_FULL', 'The credentials of an organization have at most 512 KiB together.'
        );
    end if;
    return jsonb_build_object('credentials', (
        select jsonb_agg(gateway.credential_json(s) order by s.name) from public.tenant_secrets s
        where s.organization_id = v_organization.id and starts_with(s.name, 'credential/')
            and p_credentials ? substr(s.name, 12)
    ));
end
$$;
comment on function public.store_credentials(uuid, jsonb) is
    '{name: envelope} -> {"credentials": [Credential]}, all or none, for admins. GW412 above 256 of them, and above 512 '
    'KiB of them together.';
