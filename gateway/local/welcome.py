"""What `dev` says once it serves: where everything is, and commands to paste."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.local.dev import Ready

_TEMPLATE = """
n8n-gateway serves (after {seconds:.1f} s)

  REST, Connect, gRPC-Web   {http_url}
  gRPC                      {grpc_url}
  n8n                       {n8n_url}
  Postgres                  {database_url}
  Redis                     {redis_url}

Paste into another terminal:

  export GATEWAY={http_url} ORG={organization_id} TOKEN={token}

  # what the docs use besides: a workflow, the database, the platform's token, what seals tenants' secrets
  export WORKFLOW={echo} DATABASE_URL={database_url} PLATFORM_TOKEN={platform_token} VAULT_KEY={vault_key}

  # run a workflow
  curl -s $GATEWAY/api/v1/execute -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
       -d '{{"workflow_id": "{echo}", "data": {{"input": "hello"}}}}'

  # its events as n8n puts them out: as server-sent events, as lines of JSON
  curl -sN $GATEWAY/api/v1/execute/stream -H "Authorization: Bearer $TOKEN" \\
       -H 'Accept: text/event-stream' -H 'Content-Type: application/json' \\
       -d '{{"workflow_id": "{stream}"}}'
  curl -sN $GATEWAY/api/v1/execute/stream -H "Authorization: Bearer $TOKEN" \\
       -H 'Accept: application/x-ndjson' -H 'Content-Type: application/json' \\
       -d '{{"workflow_id": "{stream}"}}'

  # a workflow that fails costs nothing
  curl -s $GATEWAY/api/v1/execute -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
       -d '{{"workflow_id": "{fail}"}}'

  # the same over Connect, and over gRPC with the Python client
  curl -s $GATEWAY/n8ngateway.v1.ExecutionService/Execute -H "Authorization: Bearer $TOKEN" \\
       -H 'Content-Type: application/json' \\
       -d '{{"workflowId": "{echo}", "data": {{"input": "hello"}}}}'
  .venv/bin/python clients/python/examples/execute.py --target {grpc_url} --insecure --token $TOKEN \\
       --workflow {echo} --stream-workflow {stream}

  # the same with an API key, whose requests are signed with its client secret
  export N8N_GATEWAY_API_KEY={api_key}
  export N8N_GATEWAY_CLIENT_SECRET={client_secret}
  .venv/bin/n8n-gateway sign $GATEWAY/api/v1/execute --curl \\
       -d '{{"workflow_id": "{echo}", "data": {{"input": "hello"}}}}' | sh

  # any method by its name, so signed: --protocol rest, grpc, grpc-web or connect
  export N8N_GATEWAY_URL={http_url} N8N_GATEWAY_GRPC_URL=http://{grpc_url}
  .venv/bin/n8n-gateway call ExecuteStream --protocol grpc -d '{{"workflow_id": "{stream}"}}'

  # API keys, as who operates the platform makes them: at the database
  .venv/bin/n8n-gateway keys create --organization $ORG --name "Acme's CRM" --expires 90d
  .venv/bin/n8n-gateway keys list --organization $ORG

  # your organization, and its workflows
  curl -s $GATEWAY/api/v1/organizations -H "Authorization: Bearer $TOKEN"
  curl -s $GATEWAY/api/v1/workflows -H "Authorization: Bearer $TOKEN"

  # a token for a second user, who can be invited, or make an organization
  .venv/bin/n8n-gateway token --user user_two --data-dir {data_dir}

Ctrl-C stops everything; the data stays for the next start.
"""


def welcome(ready: Ready, data_dir: Path, *, seconds: float) -> str:
    """The text, for a person at a terminal."""
    return _TEMPLATE.format(
        data_dir=shlex.quote(str(data_dir.absolute())),
        seconds=seconds,
        http_url=ready.http_url,
        grpc_url=ready.grpc_url,
        n8n_url=ready.n8n_url,
        database_url=ready.database_url,
        redis_url=ready.redis_url,
        organization_id=ready.organization_id,
        token=ready.token,
        api_key=ready.api_key,
        client_secret=ready.client_secret,
        platform_token=ready.platform_token,
        vault_key=ready.settings["VAULT_KEY"],
        **{name: ready.workflows[name] for name in ("echo", "stream", "fail")},
    )
