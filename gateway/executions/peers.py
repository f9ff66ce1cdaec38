"""What replicas ask of each other about runs: the one that has a run answers."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import structlog

from gateway.executions.stored import error_from
from gateway.rpc.errors import Internal, RpcError, Unavailable
from gateway.rpc.status import status_of
from gateway.transcoding.gen.google.rpc.status_pb import Status

if TYPE_CHECKING:
    from gateway.executions.tasks import Tasks

    Answer = Callable[[str, bytes], Awaitable[bytes]]
    """Answers a question about a run (by its id). Raises the RpcError that the asker gets."""

log = structlog.get_logger("gateway.executions")

ANSWER_SECONDS = 8.0


class Channels(Protocol):
    """See `gateway.adapters.redis.channels`."""

    async def publish(self, channel: str, data: bytes) -> int:
        """Tell who listens; the answer is how many do. Raises Unavailable."""
        ...

    def listen(self, channel: str, handler: Callable[[bytes | None], None]) -> AbstractContextManager[None]:
        """Call `handler` with what is told."""
        ...


class Peers:
    """Asks other replicas, and answers them by `answers`, which has one for each kind of question."""

    def __init__(self, channels: Channels, replica: str, tasks: Tasks) -> None:
        self._channels = channels
        self._replica = replica
        self._tasks = tasks
        self._answers: dict[str, Answer] = {}
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}

    def listen(self) -> AbstractContextManager[None]:
        """Hear questions and answers for as long as the context is not left."""
        return self._channels.listen(_channel_of(self._replica), self._hear)

    def answer(self, kind: str, answer: Answer) -> None:
        """Answer questions of this kind so."""
        self._answers[kind] = answer

    async def ask(self, replica: str, kind: str, execution_id: str, data: bytes = b"") -> bytes:
        """Ask a replica about a run. Raises what it answers, and Unavailable when it does not."""
        number = uuid.uuid4().hex
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        question = {"kind": kind, "run": execution_id, "from": self._replica}
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if not await self._send(replica, question | {"number": number, "data": _text(data)}):
                    raise _gone()
                answer = await future
        except TimeoutError:
            raise _gone() from None
        finally:
            del self._asked[number]
        if "error" in answer:
            raise error_from(Status.from_binary(_bytes(answer["error"])))
        return _bytes(answer["data"])

    async def _send(self, replica: str, message: dict[str, Any]) -> int:
        return await self._channels.publish(_channel_of(replica), orjson.dumps(message))

    def _hear(self, told: bytes | None) -> None:
        if told is None:
            return
        message = orjson.loads(told)
        if "kind" in message:
            self._tasks.spawn(self._reply(message))
            return
        future = self._asked.get(message["number"])
        if future is not None and not future.done():
            future.set_result(message)

    async def _reply(self, question: dict[str, Any]) -> None:
        try:
            data = await self._answers[question["kind"]](question["run"], _bytes(question["data"]))
            answer = {"data": _text(data)}
        except RpcError as error:
            answer = {"error": _text(status_of(error, request_id="").to_binary())}
        except Exception:
            log.exception("question not answered", kind=question["kind"], execution_id=question["run"])
            fault = Internal("Something went wrong at the replica that has the run.")
            answer = {"error": _text(status_of(fault, request_id="").to_binary())}
        try:
            await self._send(question["from"], answer | {"number": question["number"]})
        except Unavailable:
            log.warning("answer not sent", kind=question["kind"], execution_id=question["run"])


def _channel_of(replica: str) -> str:
    return f"n8n-gateway:replica:{replica}"


def _gone() -> Unavailable:
    msg = "The replica that has the run does not answer."
    return Unavailable(msg, reason="RUNNER_UNREACHABLE", retry_after=1)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
