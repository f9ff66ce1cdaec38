-- Who operates the platform makes and ends keys for organizations, in a shell at the database (`n8n-gateway keys`).
-- X-Platform-Token does not reach this far: the gateway refuses it.

grant execute on function
    public.create_api_key(uuid, jsonb, text, text, jsonb), public.list_api_keys(uuid, text, uuid, integer),
    public.get_api_key(uuid, uuid), public.rotate_api_key(uuid, uuid, text, jsonb, integer),
    public.revoke_api_key(uuid, uuid)
    to service_role;
