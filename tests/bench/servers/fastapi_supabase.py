"""The same gateway from the usual parts: FastAPI, PyJWT, SlowAPI on Redis, supabase-py, httpx.

Written with care: one pool for each upstream, keys fetched once, the caller's token in the headers of its own
requests, the same SQL functions as the gateway calls, and no step that the gateway does not take.

``python -m tests.bench.servers.fastapi_supabase DIRECTORY SUPABASE_URL``
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import jwt
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from postgrest import AsyncPostgrestClient
from postgrest.exceptions import APIError
from pydantic import BaseModel, Field
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded

from tests.bench.servers import serving
from tests.bench.servers.parts import Parts

parts = Parts.read(Path(sys.argv[1]))
rest_url = f"{sys.argv[2]}/rest/v1"
keys = {key.key_id: key.key for key in jwt.PyJWKClient(parts.jwks_url).get_signing_keys()}
pool = httpx.Limits(max_connections=None, max_keepalive_connections=100)
n8n = httpx.AsyncClient(base_url=parts.n8n_url, limits=pool, timeout=60)
supabase = httpx.AsyncClient(limits=pool, timeout=10)


def tenant(request: Request) -> str:
    return str(request.state.claims["o"]["id"])


limiter = Limiter(key_func=tenant, storage_uri=parts.redis_url, headers_enabled=False)
app = FastAPI(openapi_url=None)
app.state.limiter = limiter


@app.exception_handler(RateLimitExceeded)
async def too_many(_request: Request, error: RateLimitExceeded) -> None:
    raise HTTPException(429, str(error.detail))


class ExecuteRequest(BaseModel):
    workflow_id: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, str] = Field(default_factory=dict)
    credits: int | None = Field(None, ge=0)


class ExecuteResponse(BaseModel):
    success: bool
    execution_id: str
    status: str
    data: Any
    credits_used: int
    credits_remaining: int
    execution_time_ms: int


class Workflow(BaseModel):
    id: str
    organization_id: str
    name: str
    description: str
    webhook_path: str
    credits_per_execution: int
    is_active: bool
    created_at: datetime
    updated_at: datetime


class ListWorkflowsResponse(BaseModel):
    workflows: list[Workflow]


async def caller(request: Request) -> str:
    """The caller's verified token."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    try:
        key = keys[jwt.get_unverified_header(token)["kid"]]
        request.state.claims = jwt.decode(token, key, ["RS256"], issuer=parts.issuer, leeway=5)
    except (jwt.PyJWTError, KeyError):
        raise HTTPException(401) from None
    return token


Caller = Annotated[str, Depends(caller)]


def client(token: str, apikey: str) -> AsyncPostgrestClient:
    headers = {"apikey": apikey, "authorization": f"Bearer {token}"}
    return AsyncPostgrestClient(rest_url, headers=headers, http_client=supabase)


async def rpc(function: str, token: str, apikey: str, arguments: dict[str, Any]) -> Any:
    """Call a function of the database as the token's bearer."""
    try:
        return (await client(token, apikey).rpc(function, arguments).execute()).data
    except APIError as error:
        raise HTTPException(409, error.message) from None


async def begin(request: ExecuteRequest, token: str) -> tuple[str, dict[str, Any]]:
    execution_id = str(uuid.uuid4())
    body = json.dumps(request.model_dump(), sort_keys=True).encode()
    arguments = {
        "p_execution_id": execution_id,
        "p_workflow_id": request.workflow_id,
        "p_credits": request.credits,
        "p_request_hash": hashlib.sha256(body).hexdigest(),
        "p_metadata": request.metadata,
    }
    return execution_id, await rpc("begin_execution", token, parts.anon_key, arguments)


async def settle(execution_id: str, state: str, started: float, result: Any) -> dict[str, Any]:
    arguments = {
        "p_execution_id": execution_id,
        "p_state": f"EXECUTION_STATE_{state}",
        "p_duration_ms": int((time.monotonic() - started) * 1000),
        "p_result": result,
    }
    settled = await rpc("settle_execution", parts.service_key, parts.service_key, arguments)
    return dict(settled)


def upstream(begun: dict[str, Any], request: ExecuteRequest) -> httpx.Request:
    path = f"/webhook/{begun['workflow']['webhook_path']}"
    headers = {"x-n8n-internal-auth": parts.internal_secret}
    return n8n.build_request("POST", path, json=request.data, headers=headers)


@app.get("/api/v1/workflows")
@limiter.limit("1000000/minute")
async def list_workflows(request: Request, token: Caller) -> ListWorkflowsResponse:
    del request
    query = client(token, parts.anon_key).from_("workflows").select(",".join(Workflow.model_fields))
    found = await query.order("id").limit(50).execute()
    return ListWorkflowsResponse(workflows=found.data)


@app.post("/api/v1/execute")
@limiter.limit("1000000/minute")
async def execute(request: Request, token: Caller, body: ExecuteRequest) -> ExecuteResponse:
    del request
    execution_id, begun = await begin(body, token)
    started = time.monotonic()
    answer = await n8n.send(upstream(begun, body))
    if answer.status_code != 200:
        await settle(execution_id, "FAILED", started, None)
        raise HTTPException(502)
    settled = await settle(execution_id, "COMPLETED", started, answer.json())
    return ExecuteResponse(
        success=True,
        execution_id=execution_id,
        status="completed",
        data=answer.json(),
        credits_used=settled["credits_used"],
        credits_remaining=settled["credits_remaining"],
        execution_time_ms=int((time.monotonic() - started) * 1000),
    )


@app.post("/api/v1/execute/stream")
@limiter.limit("1000000/minute")
async def execute_stream(request: Request, token: Caller, body: ExecuteRequest) -> StreamingResponse:
    del request
    execution_id, begun = await begin(body, token)
    return StreamingResponse(relay(execution_id, begun, body), media_type="application/x-ndjson")


async def relay(execution_id: str, begun: dict[str, Any], body: ExecuteRequest) -> AsyncIterator[bytes]:
    started = time.monotonic()
    text: list[str] = []
    answer = await n8n.send(upstream(begun, body), stream=True)
    sequence = 0
    async for line in answer.aiter_lines():
        heard = json.loads(line)
        if heard["type"] == "item":
            sequence += 1
            text.append(heard["content"])
            chunk = {"node_name": heard["metadata"]["nodeName"], "text": heard["content"]}
            yield json.dumps({"sequence": sequence, "chunk": chunk}).encode() + b"\n"
    await answer.aclose()
    settled = await settle(execution_id, "COMPLETED", started, "".join(text))
    yield json.dumps({"sequence": sequence + 1, "completed": settled}).encode() + b"\n"


if __name__ == "__main__":
    serving.serve({"http": app})
