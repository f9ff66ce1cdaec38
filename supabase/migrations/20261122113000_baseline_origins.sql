-- A rotated key begins anew: told by what a fingerprint was made with. Its time does not tell, because events are
-- written down later than they happen, and counted on the row of the same day.

comment on column public.security_logs.fingerprint is
    'The first 8 characters stand for the key of the MACs and, where the subject is an API key, its secret; 28 are a '
    'MAC of the network and 28 one of the user agent, each with the organization. The values themselves are not kept.';

drop function public.find_baseline(uuid, text, text);
create function public.find_baseline(
    p_organization_id uuid, p_subject_id text, p_session_id text, p_origin text default ''
) returns jsonb
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform gateway.require_service();
    return jsonb_build_object('fingerprint', (
        select l.fingerprint from public.security_logs l
        where l.organization_id = p_organization_id
            and l.subject_id = p_subject_id
            and l.session_id = p_session_id
            and l.status = 'SECURITY_EVENT_STATUS_BASELINE'
            and starts_with(l.fingerprint, p_origin)
        order by l.id desc limit 1
    ));
end
$$;
comment on function public.find_baseline(uuid, text, text, text) is
    'What the calls of a session or key are compared with: {"fingerprint": the last baseline that begins with p_origin, '
    'or null}. For the gateway itself only.';

revoke all on function public.find_baseline(uuid, text, text, text) from public, anon, authenticated, service_role;
grant execute on function public.find_baseline(uuid, text, text, text) to service_role, authenticator;
