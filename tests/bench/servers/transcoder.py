"""The transcoder alone, with an echo handler, on tables of 10 and of 500 routes, served as the gateway is."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Any

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from protobuf import DescMethod, Message

from gateway.doors.http import HttpServer
from gateway.transcoding import RequestMetadata, Transcoder
from tests.bench.servers import serving


def routes(bench: bytes, count: int) -> bytes:
    """A descriptor set with one service of `count` methods, each on its own path."""
    files = descriptor_pb2.FileDescriptorSet.FromString(bench)
    del next(file for file in files.file if file.name == "bench/v1/bench.proto").service[:]
    file = files.file.add(name="routes.proto", package="bench.v1", syntax="proto3")
    file.dependency.extend(["bench/v1/bench.proto", "google/api/annotations.proto"])
    service = file.service.add(name="Routes")
    for index in range(count):
        method = service.method.add(
            name=f"Create{index}",
            input_type=".bench.v1.CreateTaskRequest",
            output_type=".bench.v1.Task",
        )
        rule = method.options.Extensions[annotations_pb2.http]
        rule.post = f"/v1/group{index}/projects/{{project}}/tasks"
        rule.body = "*"
    return files.SerializeToString()


async def echo(method: DescMethod, request: Any, _metadata: RequestMetadata) -> Message:
    return method.output.type(
        id="task-1",
        project=request.project,
        title=request.title,
        priority=request.priority,
        tags=request.tags,
        labels=request.labels,
        schedule=request.schedule,
    )


async def main(bench: bytes) -> None:
    servers = {
        str(count): HttpServer(Transcoder.from_descriptor_set(routes(bench, count), echo), grace=1)
        for count in (10, 500)
    }
    serving.announce({name: await server.start("127.0.0.1", 0) for name, server in servers.items()})
    await asyncio.Event().wait()


if __name__ == "__main__":
    serving.run(partial(main, Path(sys.argv[1]).read_bytes()))
