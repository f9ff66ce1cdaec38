-- Secrets of tenants: the credentials of their workflows and what belongs to their API keys.
--
-- The gateway hands each secret over in an envelope, and gets it back in one:
--   {"plain": text}                     to be kept in Supabase Vault, which encrypts it;
--   {"sealed": base64, "key_id": text}  encrypted by the gateway with a key that the database never sees.
-- No role reads the table. Values leave it through reveal_secrets alone, which only the gateway itself may call.

create table public.tenant_secrets (
    organization_id uuid not null references public.organizations (id),
    name text collate "C" not null check (name ~ '^(credential/[A-Za-z][A-Za-z0-9_.-]{0,127}|api_key/[0-9a-f]{64})$'),
    vault_id uuid,
    sealed text check (octet_length(sealed) <= 100000),
    key_id text check (key_id ~ '^[A-Za-z0-9_-]{1,32}$'),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (organization_id, name),
    constraint tenant_secrets_envelope_check
        check ((vault_id is null) <> (sealed is null) and (sealed is null) = (key_id is null))
);
comment on table public.tenant_secrets is 'Secrets by name, each in the vault or sealed by the gateway.';
comment on column public.tenant_secrets.name is
    'credential/<name> for what runs are given, api_key/<hash of the key''s secret> for a client secret.';
comment on column public.tenant_secrets.vault_id is 'The secret''s id in vault.secrets.';
comment on column public.tenant_secrets.key_id is 'Which of the gateway''s keys sealed it.';

create function gateway.drop_secrets(p_organization_id uuid, p_names text[]) returns text[]
language plpgsql security definer set search_path = ''
as $$
declare
    v_row record;
    v_names text[] := '{}';
begin
    for v_row in
        delete from public.tenant_secrets s
        where s.organization_id = p_organization_id and s.name = any (p_names)
        returning s.name, s.vault_id
    loop
        v_names := v_names || v_row.name;
        if v_row.vault_id is not null then
            delete from vault.secrets v where v.id = v_row.vault_id;
        end if;
    end loop;
    return v_names;
end
$$;
comment on function gateway.drop_secrets(uuid, text[]) is 'Forgets secrets -> the names of those that there were.';

create function gateway.keep_secret(p_organization_id uuid, p_name text, p_envelope jsonb) returns void
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
comment on function gateway.keep_secret(uuid, text, jsonb) is
    'Keeps a secret under its name, in place of one that was there. GW412 when it is plain and there is no vault.';

create function public.reveal_secrets(
    p_organization_id uuid, p_names jsonb default null, p_prefix text default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_row record;
    v_plain text;
    v_found jsonb := '{}';
begin
    perform gateway.require_service();
    for v_row in
        select s.* from public.tenant_secrets s
        where s.organization_id = p_organization_id and (p_names ? s.name or starts_with(s.name, p_prefix))
    loop
        if v_row.vault_id is null then
            v_found := v_found || jsonb_build_object(
                v_row.name, jsonb_build_object('sealed', v_row.sealed, 'key_id', v_row.key_id)
            );
        else
            select d.decrypted_secret into v_plain from vault.decrypted_secrets d where d.id = v_row.vault_id;
            v_found := v_found || jsonb_build_object(v_row.name, jsonb_build_object('plain', v_plain));
        end if;
    end loop;
    return v_found;
end
$$;
comment on function public.reveal_secrets(uuid, jsonb, text) is
    'One organization''s secrets, those of an array of names and those whose name begins so -> {name: envelope}. For '
    'the gateway itself only.';

-- Credentials -------------------------------------------------------------------------------------------------

create function gateway.credential_json(p_row public.tenant_secrets) returns jsonb
language plpgsql stable set search_path = ''
as $$
begin
    return jsonb_build_object(
        'name', substr(p_row.name, 12), 'created_at', p_row.created_at, 'updated_at', p_row.updated_at
    );
end
$$;
comment on function gateway.credential_json(public.tenant_secrets) is 'ProtoJSON of n8ngateway.v1.Credential.';

create function public.store_credentials(p_organization_id uuid, p_credentials jsonb) returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN');
    v_given record;
begin
    for v_given in select c.key, c.value from jsonb_each(p_credentials) c loop
        perform gateway.keep_secret(v_organization.id, 'credential/' || v_given.key, v_given.value);
    end loop;
    if (
        select count(*) from public.tenant_secrets s
        where s.organization_id = v_organization.id and starts_with(s.name, 'credential/')
    ) > 256 then
        perform gateway.fail('GW412', 'CREDENTIALS_FULL', 'An organization has at most 256 credentials.');
    end if;
    return jsonb_build_object('credentials', (
        select jsonb_agg(gateway.credential_json(s) order by s.name) from public.tenant_secrets s
        where s.organization_id = v_organization.id and starts_with(s.name, 'credential/')
            and p_credentials ? substr(s.name, 12)
    ));
end
$$;
comment on function public.store_credentials(uuid, jsonb) is
    '{name: envelope} -> {"credentials": [Credential]}, all or none, for admins. GW412 above 256 of them.';

create function public.list_credentials(
    p_organization_id uuid, p_after text default null, p_limit integer default null
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_organization public.organizations := gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN');
    v_limit integer := gateway.page_size(p_limit);
    v_rows jsonb[];
begin
    select array_agg(gateway.credential_json(page) order by page.name) into v_rows
    from (
        select s.* from public.tenant_secrets s
        where s.organization_id = v_organization.id and starts_with(s.name, 'credential/')
            and s.name > 'credential/' || coalesce(p_after, '')
        order by s.name limit v_limit + 1
    ) as page;
    return jsonb_build_object(
        'credentials', coalesce(to_jsonb(v_rows[1:v_limit]), '[]'),
        'next', case when cardinality(v_rows) > v_limit then v_rows[v_limit] -> 'name' end
    );
end
$$;
comment on function public.list_credentials(uuid, text, integer) is
    'Names in the order of their bytes, for admins: {"credentials": [Credential], "next": last name, null at the end}.';

create function public.delete_credentials(p_organization_id uuid, p_names jsonb default '[]') returns jsonb
language plpgsql security definer set search_path = ''
as $$
declare
    v_organization public.organizations :=
        gateway.authorize(p_organization_id, 'MEMBER_ROLE_ADMIN', p_inactive => true);
    v_names text[];
begin
    perform from public.organizations o where o.id = v_organization.id for no key update;
    v_names := gateway.drop_secrets(v_organization.id, array(
        select s.name from public.tenant_secrets s
        where s.organization_id = v_organization.id and starts_with(s.name, 'credential/')
            and (p_names = '[]' or p_names ? substr(s.name, 12))
    ));
    return jsonb_build_object('names', array(select substr(n, 12) from unnest(v_names) n order by n collate "C"));
end
$$;
comment on function public.delete_credentials(uuid, jsonb) is
    'Forgets the named credentials, all when none is named -> {"names": those that there were}, for admins.';

-- Who may do what ---------------------------------------------------------------------------------------------

alter table public.tenant_secrets enable row level security;
revoke all on table public.tenant_secrets from public, anon, authenticated, service_role;

revoke all on all functions in schema gateway from public;

revoke all on function
    public.reveal_secrets(uuid, jsonb, text), public.store_credentials(uuid, jsonb),
    public.list_credentials(uuid, text, integer), public.delete_credentials(uuid, jsonb)
    from public, anon, authenticated, service_role;
grant execute on function public.reveal_secrets(uuid, jsonb, text) to service_role, authenticator;
grant execute on function
    public.store_credentials(uuid, jsonb), public.list_credentials(uuid, text, integer),
    public.delete_credentials(uuid, jsonb)
    to authenticated, authenticator;
