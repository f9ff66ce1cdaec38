-- The shape of Supabase Vault 0.3, so that what calls it can be run and tested without it. It encrypts NOTHING: its
-- secrets lie in a table as they are. The gateway does not use it when VAULT_KEY is set, as `dev` sets it; production
-- on plain Postgres sets VAULT_KEY. Running it again changes nothing, and a real vault is left alone.

do $$
begin
    if to_regnamespace('vault') is not null then
        return;
    end if;
    create schema vault;
    comment on schema vault is 'Stands in for Supabase Vault on this Postgres; encrypts nothing.';

    create table vault.secrets (
        id uuid primary key default gen_random_uuid(),
        name text unique,
        description text not null default '',
        secret text not null,
        key_id uuid,
        created_at timestamptz not null default now(),
        updated_at timestamptz not null default now()
    );
    create view vault.decrypted_secrets as
        select id, name, description, secret, secret as decrypted_secret, key_id, created_at, updated_at
        from vault.secrets;

    create function vault.create_secret(
        new_secret text, new_name text default null, new_description text default '', new_key_id uuid default null
    ) returns uuid
    language sql set search_path = ''
    as $f$
        insert into vault.secrets (secret, name, description, key_id)
        values (new_secret, new_name, new_description, new_key_id) returning id
    $f$;

    create function vault.update_secret(
        secret_id uuid, new_secret text default null, new_name text default null, new_description text default null,
        new_key_id uuid default null
    ) returns void
    language sql set search_path = ''
    as $f$
        update vault.secrets s set
            secret = coalesce(new_secret, s.secret),
            name = coalesce(new_name, s.name),
            description = coalesce(new_description, s.description),
            key_id = coalesce(new_key_id, s.key_id),
            updated_at = now()
        where s.id = secret_id
    $f$;

    revoke all on all functions in schema vault from public;
end
$$;
