"""Callers as they should be: one idempotency key a request, and another try after any break."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.faulty_n8n import STEPS
from tests.faults.system import System, Tenant

PATIENCE_SECONDS = 120.0
_CALL_SECONDS = 45.0
_AGAIN = {409, 429, 503, 504}
_UNANSWERED = (aiohttp.ClientError, OSError, TimeoutError, json.JSONDecodeError)


@dataclass
class Answer:
    """What a caller knows in the end; `problems` are what must not be."""

    key: str
    execution_id: str = ""
    success: bool | None = None
    reason: str = ""
    attempts: int = 0
    problems: list[str] = field(default_factory=list)


class Caller(ABC):
    """One request that is made until it has an answer."""

    def __init__(self, system: System, tenant: Tenant, workflow: str) -> None:
        self._system = system
        self._tenant = tenant
        self.answer = Answer(uuid.uuid4().hex)
        self._body = {"workflow_id": tenant.workflows[workflow], "data": {"key": self.answer.key}}
        self._told = ""

    async def run(self) -> Answer:
        """Try until there is an answer, or for PATIENCE_SECONDS."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while self.answer.success is None and time.monotonic() < give_up:
            self.answer.attempts += 1
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    await self._try(self._system.url())
            except _UNANSWERED:
                pass
            if self.answer.success is None:
                await asyncio.sleep(random.uniform(0.05, 0.5))
        return self.answer

    @abstractmethod
    async def _try(self, url: str) -> None:
        """Make one attempt; sets the answer's `success` when there is one."""

    def _headers(self) -> dict[str, str]:
        return self._tenant.headers | {"Idempotency-Key": self.answer.key}

    def _failed(self, http_status: int, status: dict[str, Any]) -> None:
        """Take a google.rpc.Status. One that may pass is final when it was told of this execution before."""
        details = [d for d in status.get("details", []) if d.get("@type", "").endswith("ErrorInfo")]
        info = details[0] if details else {}
        execution_id = info.get("metadata", {}).get("execution_id", "")
        self.answer.reason = info.get("reason", "")
        told, self._told = self._told, f"{execution_id} {self.answer.reason}"
        in_use = self.answer.reason == "IDEMPOTENCY_KEY_IN_USE"
        if http_status not in _AGAIN or (execution_id and not in_use and told == self._told):
            self.answer.success, self.answer.execution_id = False, execution_id


class ExecuteCaller(Caller):
    """Calls Execute."""

    async def succeeds(self, url: str) -> bool:
        """Try it once, at one gateway."""
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await self._try(url)
        except _UNANSWERED:
            return False
        return self.answer.success is True

    async def _try(self, url: str) -> None:
        target = f"{url}/api/v1/execute"
        async with self._system.session.post(target, json=self._body, headers=self._headers()) as response:
            body = await response.json()
        if response.status == 200:
            self.answer.success, self.answer.execution_id = True, body["execution_id"]
        else:
            self._failed(response.status, body)


class StreamCaller(Caller):
    """Calls ExecuteStream, and WatchExecution from where it broke. `leave` goes away after every event."""

    def __init__(self, system: System, tenant: Tenant, workflow: str, *, leave: bool = False) -> None:
        super().__init__(system, tenant, workflow)
        self._sequence = 0
        self._result_sequence: int | None = None
        self._steps: list[int] = []
        self._has_steps = workflow == "steps"
        self._leave = leave

    async def _try(self, url: str) -> None:
        session = self._system.session
        accept = {"Accept": "application/x-ndjson"}
        if not self.answer.execution_id:
            target = f"{url}/api/v1/execute/stream"
            request = session.post(target, json=self._body, headers=self._headers() | accept)
        else:
            target = f"{url}/api/v1/executions/{self.answer.execution_id}/events"
            after = {"after_sequence": str(self._sequence)}
            request = session.get(target, params=after, headers=self._tenant.headers | accept)
        async with request as response:
            if response.status != 200:
                self._failed(response.status, await response.json())
                return
            async for line in self._read(response):
                self._take(json.loads(line))
                if self._leave and self.answer.success is None:
                    return

    async def _read(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        async for line in response.content:
            yield line

    def _take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            if self.answer.success is None and self._sequence == 0:
                self._failed(503, event["error"])
            return
        self.answer.execution_id = event["execution_id"]
        self._check_sequence(event)
        self._sequence = event["sequence"]
        self._steps += map(int, re.findall(r"step (\d+)", json.dumps(event.get("chunk"))))
        if "completed" in event:
            self.answer.success = True
            if self._has_steps and self._steps != list(range(STEPS)):
                self.answer.problems.append(f"steps {self._steps}")
        elif "failed" in event:
            self._failed(500, event["failed"]["status"])
            self.answer.execution_id = event["execution_id"]

    def _check_sequence(self, event: dict[str, Any]) -> None:
        """Hold that no event is missing, but where the outcome alone is told to who has none of the output.

        Where nothing was published of a run before its gateway died that is its end, as event 2; where Redis
        is away it is the whole result, and right after it the end.
        """
        sequence = event["sequence"]
        if sequence != self._sequence + 1:
            if self._sequence <= 1 and "chunk" in event:
                self._result_sequence = sequence
            elif self._sequence > 1 or "failed" not in event:
                self.answer.problems.append(f"event {sequence} after {self._sequence}")
        is_end = "completed" in event or "failed" in event
        if is_end and self._result_sequence not in (None, sequence - 1):
            self.answer.problems.append(f"the result as event {self._result_sequence}, the end as {sequence}")


class SlowCaller(StreamCaller):
    """Reads one event a byte at a time, nothing more until its run has ended, and then the rest."""

    async def _read(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        first = b""
        while not first.endswith(b"\n"):
            first += await response.content.readexactly(1)
        yield first
        query = "select count(*) from executions where id = $1 and finished_at is not null"
        execution_id = uuid.UUID(self.answer.execution_id)
        while not (await self._system.rows(query, execution_id))[0][0]:  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.1)
        async for line in response.content:
            yield line


class VanishingCaller(StreamCaller):
    """Leaves as soon as the run has begun, and comes back for the rest."""

    def __init__(self, system: System, tenant: Tenant, workflow: str) -> None:
        super().__init__(system, tenant, workflow, leave=True)
