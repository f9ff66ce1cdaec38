"""The embedded default: every outside part that the gateway needs, on this machine, from Python packages.

Postgres, Valkey, a demo n8n and an identity issuer, all on loopback, all keeping their data in one directory.
`stack` starts them together; each module also stands alone.
"""
