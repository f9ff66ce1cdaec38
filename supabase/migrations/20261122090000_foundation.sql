-- What every later migration stands on: the schema of helpers that no API exposes, ids, errors, the caller.
--
-- Conventions of these migrations:
--   * public holds tables and one function per operation; only they can be reached through PostgREST.
--   * Every table has row-level security and is read-only for its readers: changes go through functions.
--     RLS is not forced on the owner, because SECURITY DEFINER functions run as the owner and check the caller
--     themselves; nobody logs in as the owner to serve requests.
--   * Functions have an empty search_path. A project may hand out new objects to its API roles by default, so each
--     object is first taken back from all of them and then granted by name.
--   * authenticator gets EXECUTE beside the role that it becomes: the gateway changes the role inside of one
--     statement, and Postgres checks EXECUTE when that statement starts.

create schema gateway;
revoke all on schema gateway from public;
grant usage on schema gateway to authenticated, service_role;
comment on schema gateway is 'Helpers of the gateway''s own functions; never exposed by an API.';

create function gateway.uuid_v7() returns uuid
language plpgsql volatile set search_path = ''
as $$
declare
    v_microseconds bigint := extract(epoch from clock_timestamp()) * 1000000;
begin
    return (
        lpad(to_hex(v_microseconds / 1000), 12, '0')
        || to_hex(28672 + v_microseconds % 1000 * 4096 / 1000)
        || substr(gen_random_uuid()::text, 20)
    )::uuid;
end
$$;
comment on function gateway.uuid_v7() is
    'RFC 9562 version 7: milliseconds, then the microseconds as 12 bits (method 3), then 62 random bits.';

create function gateway.fail(
    p_code text, p_reason text, p_message text,
    p_metadata jsonb default '{}', p_fields jsonb default '{}'
) returns void
language plpgsql set search_path = ''
as $$
begin
    raise exception using
        errcode = p_code,
        message = p_message,
        detail = p_reason,
        hint = jsonb_build_object('metadata', p_metadata, 'fields', p_fields)::text;
end
$$;
comment on function gateway.fail(text, text, text, jsonb, jsonb) is
    'Ends the statement with an error meant for the caller. SQLSTATE: GW400 INVALID_ARGUMENT, GW401 UNAUTHENTICATED, '
    'GW403 PERMISSION_DENIED, GW404 NOT_FOUND, GW409 ALREADY_EXISTS, GW410 ABORTED, GW412 FAILED_PRECONDITION. '
    'DETAIL is the reason, HINT a JSON object {"metadata": {text: text}, "fields": {path: what is wrong}}.';

create function gateway.caller_id() returns text
language plpgsql stable set search_path = ''
as $$
declare
    v_subject text := auth.jwt() ->> 'sub';
begin
    if v_subject is null or v_subject = '' then
        perform gateway.fail('GW401', 'UNAUTHENTICATED', 'The call carries no identity.');
    end if;
    return v_subject;
end
$$;
comment on function gateway.caller_id() is 'Subject of the caller''s token; fails with GW401 when there is none.';

create function gateway.require_service() returns void
language plpgsql stable set search_path = ''
as $$
begin
    -- The role that was set for this call; SECURITY DEFINER does not change it, as it changes current_user.
    if current_setting('role', true) is distinct from 'service_role' then
        perform gateway.fail('GW403', 'PERMISSION_DENIED', 'Only the gateway itself may do this.');
    end if;
end
$$;
comment on function gateway.require_service() is 'Fails with GW403 unless the call is made as service_role.';

create function gateway.page_size(p_limit integer) returns integer
language sql immutable set search_path = ''
as $$
    select least(greatest(coalesce(p_limit, 50), 1), 200)
$$;
comment on function gateway.page_size(integer) is 'Rows of one page: 50 when not said, never more than 200.';

create table public.profiles (
    id text primary key check (char_length(id) between 1 and 255),
    email text check (char_length(email) <= 320),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
comment on table public.profiles is 'Users, by the subject of their session tokens; a row appears at first need.';
comment on column public.profiles.email is 'As the token told it; null when it did not.';

alter table public.profiles enable row level security;
revoke all on table public.profiles from public, anon, authenticated, service_role;
grant select on table public.profiles to authenticated, service_role;
create policy profiles_read on public.profiles for select to authenticated
    using (id = (select auth.jwt() ->> 'sub'));

create function gateway.ensure_profile() returns text
language plpgsql security definer set search_path = ''
as $$
declare
    v_id text := gateway.caller_id();
    v_email text := left(auth.jwt() ->> 'email', 320);
begin
    insert into public.profiles as p (id, email) values (v_id, v_email)
    on conflict (id) do update set email = excluded.email, updated_at = now()
        where excluded.email is not null and p.email is distinct from excluded.email;
    return v_id;
end
$$;
comment on function gateway.ensure_profile() is 'Makes the caller''s profile, or brings its address up to date -> id.';

revoke all on all functions in schema gateway from public;
grant execute on function
    gateway.fail(text, text, text, jsonb, jsonb), gateway.caller_id(), gateway.page_size(integer)
    to authenticated, service_role;
