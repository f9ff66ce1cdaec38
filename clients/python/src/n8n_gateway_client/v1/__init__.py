"""Messages and stubs generated from n8ngateway.v1."""
