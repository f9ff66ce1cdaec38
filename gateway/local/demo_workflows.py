"""The demo n8n's workflows, and their executions.

A run belongs to n8n, not to the request that started it: it goes on when the client is gone.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

_REMEMBERED_EXECUTIONS = 1000


class Status(StrEnum):
    """States of an execution that n8n's public API tells apart here."""

    RUNNING = "running"
    SUCCESS = "success"
    ERROR = "error"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause of the workflow, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Respond:
    """A node that answers: `parts` are its outputs, a str as it is and anything else as JSON.

    A streaming workflow sends each part as an item, `gap` seconds apart; another one answers with the first.
    """

    node: str
    parts: tuple[Callable[[Execution], object], ...]
    gap: float = 0


@dataclass(frozen=True, slots=True)
class StopAndError:
    """A node that fails."""

    node: str = "Stop and Error"


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow that is started by `POST /webhook/{path}`."""

    path: str
    steps: tuple[Wait | Respond | StopAndError, ...]
    streaming: bool = False
    header_auth: bool = False
    headers: tuple[tuple[str, Callable[[Execution], str]], ...] = ()
    """Response headers that its Respond to Webhook node sets."""

    @property
    def id(self) -> str:
        """Sixteen letters and digits, as n8n's ids are."""
        digest = base64.b64encode(hashlib.sha256(self.path.encode()).digest(), altchars=b"Zz").decode()
        return digest[:16]

    def node_id(self, node: str) -> str:
        """Return the UUID of the node of that name."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"n8n:{self.path}/{node}"))


@dataclass(slots=True)
class Execution:
    """One run of a workflow."""

    id: str
    workflow: Workflow
    body: object
    status: Status = Status.RUNNING
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    stopped: datetime | None = None
    lines: asyncio.Queue[Mapping[str, object] | None] = field(default_factory=asyncio.Queue)
    """What a streaming run sends, then None when it ends; nothing ends it after a stop, as in n8n."""
    answer: asyncio.Future[object] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """What another run answers. Fails with WorkflowError or ExecutionStopped."""
    task: asyncio.Task[None] | None = None

    async def stream(self) -> AsyncIterator[Mapping[str, object]]:
        """Yield the lines of a streaming run as its nodes make them."""
        while (line := await self.lines.get()) is not None:
            yield line


class WorkflowError(Exception):
    """A node failed before the workflow answered."""


class ExecutionStopped(Exception):
    """The run was stopped through the API before the workflow answered."""


class Executions:
    """Starts runs, counts their ids up, and remembers the last thousand. `pace` multiplies every pause."""

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._runs: OrderedDict[str, Execution] = OrderedDict()
        self._last_id = 0

    def start(self, workflow: Workflow, body: object) -> Execution:
        """Start a run and return at once."""
        self._last_id += 1
        execution = Execution(id=str(self._last_id), workflow=workflow, body=body)
        # Nobody asks for it if the client went away.
        execution.answer.add_done_callback(lambda future: future.cancelled() or future.exception())
        execution.task = asyncio.create_task(self._run(execution))
        self._runs[execution.id] = execution
        if len(self._runs) > _REMEMBERED_EXECUTIONS:
            self._forget_oldest_finished()
        return execution

    def get(self, execution_id: str) -> Execution | None:
        """Return the run of that id, if it is remembered."""
        return self._runs.get(execution_id)

    def newest_first(self) -> list[Execution]:
        """Return the runs that are remembered."""
        return list(reversed(self._runs.values()))

    def stop(self, execution: Execution) -> bool:
        """Stop a run; False if it is not running any more."""
        if execution.status is not Status.RUNNING or execution.task is None:
            return False
        execution.task.cancel()
        self._finish(execution, Status.CANCELED)
        if not execution.answer.done():
            execution.answer.set_exception(ExecutionStopped())
        return True

    async def aclose(self) -> None:
        """End every run."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget_oldest_finished(self) -> None:
        for run in self._runs.values():
            if run.status is not Status.RUNNING:
                del self._runs[run.id]
                return

    async def _run(self, execution: Execution) -> None:
        for step in execution.workflow.steps:
            match step:
                case Wait():
                    await asyncio.sleep(step.seconds * self._pace)
                case StopAndError():
                    self._fail(execution, step)
                    return
                case Respond() if execution.workflow.streaming:
                    await self._send(execution, step)
                case Respond():
                    execution.answer.set_result(step.parts[0](execution))
        self._finish(execution, Status.SUCCESS)
        execution.lines.put_nowait(None)

    async def _send(self, execution: Execution, step: Respond) -> None:
        metadata = _metadata(execution, step.node)
        execution.lines.put_nowait(_line("begin", metadata))
        for part in step.parts:
            content = part(execution)
            text = content if isinstance(content, str) else to_json(content)
            execution.lines.put_nowait(_line("item", metadata, text))
            await asyncio.sleep(step.gap * self._pace)
        execution.lines.put_nowait(_line("end", metadata))

    def _fail(self, execution: Execution, step: StopAndError) -> None:
        self._finish(execution, Status.ERROR)
        # The one line without a time, and with the run before the item.
        identity = {"nodeId": execution.workflow.node_id(step.node), "nodeName": step.node}
        execution.lines.put_nowait({"type": "error", "metadata": {**identity, "runIndex": 0, "itemIndex": 0}})
        execution.lines.put_nowait(None)
        if not execution.answer.done():
            execution.answer.set_exception(WorkflowError())

    def _finish(self, execution: Execution, status: Status) -> None:
        execution.status = status
        execution.stopped = datetime.now(UTC)


def to_json(value: object) -> str:
    """Write JSON as JSON.stringify does."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _metadata(execution: Execution, node: str) -> dict[str, object]:
    return {"nodeId": execution.workflow.node_id(node), "nodeName": node, "itemIndex": 0, "runIndex": 0}


def _line(
    kind: Literal["begin", "item", "end"], metadata: Mapping[str, object], content: str | None = None
) -> dict[str, object]:
    stamped = {**metadata, "timestamp": time.time_ns() // 1_000_000}
    return {"type": kind, **({} if content is None else {"content": content}), "metadata": stamped}


def _echo(execution: Execution) -> object:
    return {"echo": execution.body, "executionId": execution.id, "workflowId": execution.workflow.id}


def _execution_id(execution: Execution) -> str:
    return execution.id


def _numbered(number: int) -> Callable[[Execution], object]:
    return lambda _: {"n": number}


def _text(value: str) -> Callable[[Execution], object]:
    return lambda _: value


def _first_of_stream(execution: Execution) -> object:
    return {"n": 1, "echo": execution.body, "executionId": execution.id}


_RESPOND = Respond("Respond to Webhook", (_echo,))
_EXECUTION_ID_HEADER = (("x-n8n-execution-id", _execution_id),)

WORKFLOWS: tuple[Workflow, ...] = (
    Workflow("echo", (_RESPOND,), headers=_EXECUTION_ID_HEADER),
    Workflow("header-auth", (_RESPOND,), header_auth=True, headers=_EXECUTION_ID_HEADER),
    Workflow("slow", (Wait(5), _RESPOND), headers=_EXECUTION_ID_HEADER),
    Workflow("fail", (StopAndError(), _RESPOND)),
    Workflow(
        "stream",
        (
            Respond("R1", (_first_of_stream,)),
            Wait(1),
            Respond("R2", (_numbered(2),)),
            Wait(1),
            Respond("R3", (_text('plain text part, with "quotes" and unicode é ☃'),)),
        ),
        streaming=True,
    ),
    Workflow("stream-fail", (Respond("R1", (_numbered(1),)), StopAndError()), streaming=True),
    Workflow(
        "slow-stream",
        tuple(step for n in range(6) for step in (Respond(f"R{n}", (_numbered(n),)), Wait(1))),
        streaming=True,
    ),
    Workflow(
        "agent",
        (Respond("Agent", tuple(map(_text, ("Hel", "lo ", "from ", "the ", "mock ☃"))), gap=0.3),),
        streaming=True,
    ),
)
