"""n8n-gateway: a multi-tenant gateway in front of private n8n instances."""
