"""connectrpc alone, with its own codecs: no rules are checked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from bench.v1.bench_connect import BenchServiceASGIApplication
from bench.v1.bench_pb import CreateTaskRequest, Line, ListLinesRequest, Task

from tests.bench.servers import serving


class BenchService:
    async def create_task(self, request: CreateTaskRequest, _context: Any) -> Task:
        return Task(
            id="task-1",
            project=request.project,
            title=request.title,
            priority=request.priority,
            tags=request.tags,
            labels=request.labels,
            schedule=request.schedule,
        )

    async def list_lines(self, request: ListLinesRequest, _context: Any) -> AsyncIterator[Line]:
        text = "x" * request.size
        for sequence in range(request.count):
            yield Line(sequence=sequence, text=text)


if __name__ == "__main__":
    serving.serve({"http": BenchServiceASGIApplication(BenchService())})
