"""Events on their way out, to endpoints of organizations, in the Standard Webhooks form."""
