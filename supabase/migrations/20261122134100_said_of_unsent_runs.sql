-- A run that is to be sent again and whose payload is lost (PAYLOAD_LOST) may have been sent before. That is so for
-- workflows alone that are idempotent and whose policy is to send again; for them a key may be used again, too.

comment on column public.executions.idempotency_key_expired is
    'Its key is free: it was used again after 24 hours, or the run failed and its caller was told to come back. It was '
    'not sent then, or its workflow may be sent a run twice.';

comment on function public.release_idempotency_key(uuid) is
    'Frees the idempotency key of a run that FAILED and whose error has a RetryInfo: {released: bool}. None has one that '
    'may have been sent to n8n, unless its workflow is idempotent and to be sent again (UNKNOWN_OUTCOME_POLICY_RETRY). '
    'For the gateway itself only.';
