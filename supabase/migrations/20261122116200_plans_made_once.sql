-- What each run calls goes by keys, and its plans do not depend on which ones. Postgres would make each of them five
-- times on every new connection before it kept one.

alter function public.begin_execution(
    uuid, uuid, uuid, integer, text, text, jsonb, text, integer, boolean
) set plan_cache_mode = 'force_generic_plan';
alter function public.settle_execution(uuid, text, integer, jsonb, jsonb, text, boolean, text, integer, integer)
    set plan_cache_mode = 'force_generic_plan';
