"""grpc.aio alone, with google.protobuf messages: no rules are checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from bench.v1 import bench_pb2_grpc
from bench.v1.bench_pb2 import CreateTaskRequest, Line, ListLinesRequest, Task

from tests.bench.servers import serving


class BenchService(bench_pb2_grpc.BenchServiceServicer):
    async def CreateTask(self, request: CreateTaskRequest, _context: Any) -> Task:  # noqa: N802
        return Task(
            id="task-1",
            project=request.project,
            title=request.title,
            priority=request.priority,
            tags=request.tags,
            labels=request.labels,
            schedule=request.schedule,
        )

    async def ListLines(self, request: ListLinesRequest, _context: Any) -> AsyncIterator[Line]:  # noqa: N802
        text = "x" * request.size
        for sequence in range(request.count):
            yield Line(sequence=sequence, text=text)


async def main() -> None:
    server = grpc.aio.server()
    bench_pb2_grpc.add_BenchServiceServicer_to_server(BenchService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    serving.announce({"grpc": port})
    await asyncio.Event().wait()


if __name__ == "__main__":
    serving.run(main)
