"""The gateway's own doors and chain in front of the bench service: everything but I/O.

The caller's token is verified once and remembered, as in the gateway; requests are
validated, get a request id, and one access log line each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import jwt
from bench.v1 import bench_pb
from bench.v1.bench_pb import CreateTaskRequest, Line, ListLinesRequest, Task

from gateway import logs
from gateway.adapters.clerk import ClerkTokens
from gateway.chain.access_log import LOGGER, AccessLog
from gateway.chain.authenticate import Authenticate, BearerToken
from gateway.chain.context import establish_context
from gateway.chain.validate import Validate
from gateway.doors.connect import ConnectDoor
from gateway.doors.grpc import GrpcDoor
from gateway.doors.http import HttpServer, http_application
from gateway.doors.rest import RestDoor
from gateway.rpc.call import Call
from gateway.rpc.chain import Chain
from gateway.rpc.methods import MethodTable
from tests.bench import session_token
from tests.bench.servers import serving

MAX_MESSAGE_BYTES = 4 << 20


class BenchService:
    async def create_task(self, request: CreateTaskRequest, _call: Call) -> Task:
        return Task(
            id="task-1",
            project=request.project,
            title=request.title,
            priority=request.priority,
            tags=request.tags,
            labels=request.labels,
            schedule=request.schedule,
        )

    async def list_lines(self, request: ListLinesRequest, _call: Call) -> AsyncIterator[list[Line]]:
        text = "x" * request.size
        for sequence in range(request.count):
            yield [Line(sequence=sequence, text=text)]


class Keys:
    """The issuer's keys, read from a file in place of its URL."""

    def __init__(self, path: Path) -> None:
        self._keys = {key["kid"]: jwt.PyJWK.from_dict(key) for key in json.loads(path.read_text())["keys"]}

    async def key(self, key_id: str) -> jwt.PyJWK | None:
        return self._keys.get(key_id)


async def main() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    logs.configure("INFO", "json")
    methods = MethodTable([(bench_pb.desc().services[0], BenchService())])
    tokens = ClerkTokens(
        Keys(Path(sys.argv[1])),  # type: ignore[arg-type]
        issuer=session_token.ISSUER,
        audience=None,
        authorized_parties=[],
    )
    guards = [Authenticate(BearerToken(tokens.verify), {}), Validate(methods)]
    chain = Chain(establish_context, guards, [AccessLog(logs.info_lines(LOGGER))], timeout=60.0)
    grpc_door = GrpcDoor(methods, chain, max_message_bytes=MAX_MESSAGE_BYTES)
    http = HttpServer(
        http_application(
            ConnectDoor(methods, chain, max_message_bytes=MAX_MESSAGE_BYTES),
            RestDoor(methods, chain, max_message_bytes=MAX_MESSAGE_BYTES).application,
            services=[service.type_name for service in methods.services],
            cors_origins=[],
        ),
        grace=1,
    )
    grpc_port = await grpc_door.start("127.0.0.1", 0)
    serving.announce({"http": await http.start("127.0.0.1", 0), "grpc": grpc_port})
    await asyncio.Event().wait()


if __name__ == "__main__":
    serving.run(main)
