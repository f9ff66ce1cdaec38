"""The least that can do the same in Python: plain ASGI, one Lua script, asyncpg, aiohttp, and nothing else.

No rules for what is sent, no guard beside one quota, no events that others can read, no money beside a
reservation and its capture (`bare.sql`). What the gateway takes beside this is the price of what it promises.

``python -m tests.bench.servers.bare_parts DIRECTORY``
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import jwt
import orjson
from redis.asyncio import Redis

from tests.bench.servers import serving
from tests.bench.servers.parts import Parts

CONNECTIONS = 16
_COUNT = """
local calls = redis.call('INCR', KEYS[1])
if calls == 1 then redis.call('EXPIRE', KEYS[1], 60) end
return calls
"""
_LIMIT = 1_000_000

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class BareGateway:
    """An ASGI application for the paths that are measured."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._keys = {key.key_id: key.key for key in jwt.PyJWKClient(parts.jwks_url).get_signing_keys()}
        self._claims: dict[str, dict[str, Any]] = {}
        self._count = Redis.from_url(parts.redis_url).register_script(_COUNT)
        self._connections: asyncio.LifoQueue[asyncpg.Connection]
        self._n8n: aiohttp.ClientSession
        self._routes = {
            "/api/v1/workflows": self._list_workflows,
            "/api/v1/execute": self._execute,
            "/api/v1/execute/stream": self._execute_stream,
        }

    async def start(self) -> None:
        """Connect to everything."""
        connection = await asyncpg.connect(self._parts.superuser_url)
        await connection.execute(Path(__file__).with_name("bare.sql").read_text())
        await connection.close()
        self._connections = asyncio.LifoQueue()
        for _ in range(CONNECTIONS):
            self._connections.put_nowait(await asyncpg.connect(self._parts.database_url))
        headers = {"x-n8n-internal-auth": self._parts.internal_secret, "content-type": "application/json"}
        connector = aiohttp.TCPConnector(limit=0)
        self._n8n = aiohttp.ClientSession(self._parts.n8n_url, headers=headers, connector=connector)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        token = dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer ")
        claims = self._claims.get(token) or self._verified(token)
        if await self._count([f"bare:{claims['o']['id']}"]) > _LIMIT:
            await _answer(send, b"{}", status=429)
            return
        body, is_whole = b"", False
        while not is_whole:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, is_whole = body + message["body"], not message["more_body"]
        await self._routes[scope["path"]](claims, body, send)

    def _verified(self, token: str) -> dict[str, Any]:
        key = self._keys[jwt.get_unverified_header(token)["kid"]]
        self._claims[token] = jwt.decode(token, key, ["RS256"], issuer=self._parts.issuer)
        return self._claims[token]

    async def _row(self, query: str, *arguments: object) -> Any:
        connection = await self._connections.get()
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            self._connections.put_nowait(connection)

    async def _list_workflows(self, claims: dict[str, Any], _body: bytes, send: Send) -> None:
        text = await self._row("select bare.list_workflows($1)", orjson.dumps(claims).decode())
        await _answer(send, b'{"workflows":%b}' % text.encode())

    async def _execute(self, claims: dict[str, Any], body: bytes, send: Send) -> None:
        async with self._begun(claims, body) as (execution_id, answer):
            started = time.monotonic()
            result = await answer.read()
            left = await self._row("select bare.settle($1, $2)", execution_id, result.decode())
        told = {
            "success": True,
            "execution_id": str(execution_id),
            "status": "completed",
            "data": orjson.loads(result),
            "credits_used": 1,
            "credits_remaining": left,
            "execution_time_ms": int((time.monotonic() - started) * 1000),
        }
        await _answer(send, orjson.dumps(told))

    async def _execute_stream(self, claims: dict[str, Any], body: bytes, send: Send) -> None:
        text: list[str] = []
        sequence = 0
        async with self._begun(claims, body) as (execution_id, answer):
            await _begin(send, b"application/x-ndjson")
            async for heard in _objects(answer.content):
                told = []
                for item in heard:
                    if item["type"] == "item":
                        sequence += 1
                        text.append(item["content"])
                        chunk = {"node_name": item["metadata"]["nodeName"], "text": item["content"]}
                        told.append(orjson.dumps({"sequence": sequence, "chunk": chunk}) + b"\n")
                await send({"type": "http.response.body", "body": b"".join(told), "more_body": True})
            result = orjson.dumps("".join(text)).decode()
            left = await self._row("select bare.settle($1, $2)", execution_id, result)
        completed = {"credits_used": 1, "credits_remaining": left}
        end = orjson.dumps({"sequence": sequence + 1, "completed": completed}) + b"\n"
        await send({"type": "http.response.body", "body": end})

    @asynccontextmanager
    async def _begun(
        self, claims: dict[str, Any], body: bytes
    ) -> AsyncIterator[tuple[uuid.UUID, aiohttp.ClientResponse]]:
        execution_id = uuid.uuid4()
        path = await self._row("select bare.begin($1, $2)", execution_id, claims["o"]["id"])
        data = orjson.dumps(orjson.loads(body)["data"])
        async with self._n8n.post(f"/webhook/{path}", data=data) as answer:
            yield execution_id, answer


async def _objects(content: aiohttp.StreamReader) -> AsyncIterator[list[dict[str, Any]]]:
    rest = b""
    async for data in content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        yield [orjson.loads(line) for line in lines]


async def _begin(send: Send, content_type: bytes, status: int = 200) -> None:
    headers = [(b"content-type", content_type)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _answer(send: Send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    gateway = BareGateway(Parts.read(Path(sys.argv[1])))
    serving.serve({"http": gateway}, start=gateway.start)
