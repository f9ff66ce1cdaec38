"""Starlette with the standard library's JSON: no rules are checked."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.bench.servers import serving


async def create_task(request: Request) -> Response:
    task = await request.json()
    return JSONResponse({"id": "task-1", "project": request.path_params["project"], **task})


async def list_lines(request: Request) -> Response:
    wanted = await request.json()

    async def lines() -> AsyncIterator[bytes]:
        text = "x" * wanted["size"]
        for sequence in range(wanted["count"]):
            yield b'{"sequence":%d,"text":"%b"}\n' % (sequence, text.encode())

    return StreamingResponse(lines(), media_type="application/x-ndjson")


if __name__ == "__main__":
    routes = [
        Route("/v1/projects/{project}/tasks", create_task, methods=["POST"]),
        Route("/v1/lines", list_lines, methods=["POST"]),
    ]
    serving.serve({"http": Starlette(routes=routes)})
