"""FastAPI with pydantic models that have the same fields and rules: one route, 10 and 500 routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from tests.bench.servers import serving


class Schedule(BaseModel):
    time_zone: str = Field("", max_length=64)
    hour: int = Field(0, ge=0, le=23)
    minute: int = Field(0, ge=0, le=59)
    weekdays: bool = False


class CreateTaskRequest(BaseModel):
    title: str = Field(min_length=1, max_length=200)
    priority: int = Field(0, ge=0, le=10)
    tags: Annotated[list[str], Field(max_length=16)] = []
    labels: Annotated[dict[str, str], Field(max_length=32)] = {}
    schedule: Schedule | None = None


class Task(BaseModel):
    id: str
    project: str
    title: str
    priority: int
    tags: list[str]
    labels: dict[str, str]
    schedule: Schedule | None


class ListLinesRequest(BaseModel):
    count: int = Field(ge=1, le=1000)
    size: int = Field(ge=1, le=65536)


class Line(BaseModel):
    sequence: int
    text: str


async def create_task(project: UUID, request: CreateTaskRequest) -> Task:
    return Task(
        id="task-1",
        project=str(project),
        title=request.title,
        priority=request.priority,
        tags=request.tags,
        labels=request.labels,
        schedule=request.schedule,
    )


async def list_lines(request: ListLinesRequest) -> StreamingResponse:
    async def lines() -> AsyncIterator[bytes]:
        text = "x" * request.size
        for sequence in range(request.count):
            yield Line(sequence=sequence, text=text).model_dump_json().encode() + b"\n"

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def application(paths: list[str]) -> FastAPI:
    app = FastAPI(openapi_url=None)
    for path in paths:
        app.post(path)(create_task)
    app.post("/v1/lines")(list_lines)
    return app


def groups(count: int) -> list[str]:
    return [f"/v1/group{index}/projects/{{project}}/tasks" for index in range(count)]


if __name__ == "__main__":
    serving.serve(
        {
            "http": application(["/v1/projects/{project}/tasks"]),
            "10": application(groups(10)),
            "500": application(groups(500)),
        }
    )
