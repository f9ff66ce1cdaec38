"""One attempt to run a workflow: the call to n8n, and what it puts out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.adapters.n8n import Expected, StopResult, Timeouts
from gateway.adapters.n8n.pieces import NodeError
from gateway.executions.credentials import grant
from gateway.executions.output import event_of
from gateway.executions.token import HEADER as TOKEN_HEADER
from gateway.gen.n8ngateway.v1.workflow_pb import ResponseMode
from gateway.rpc.errors import FailedPrecondition, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from gateway.adapters.n8n import N8n, Response
    from gateway.adapters.n8n.pieces import Piece
    from gateway.executions.credentials import Credentials
    from gateway.executions.output import Heard
    from gateway.executions.run import Run
    from gateway.executions.settlement import Outcome
    from gateway.executions.token import ExecutionTokens
    from gateway.gen.n8ngateway.v1.workflow_pb import Workflow

    N8nFor = Callable[[str, str], AbstractAsyncContextManager[N8n]]
    """The n8n of an organization, for one of its runs and as long as the context is not left."""

_PARSED = ("{", "[", b"{", b"[")
_PARSED_AT_ONCE = 8 << 10
"""Bytes of JSON that become events before others get a turn: a value of two may take microseconds."""

EXECUTION_HEADER = "x-gateway-execution-id"

_EXPECTED = {ResponseMode.DOCUMENT: Expected.DOCUMENT, ResponseMode.STREAMING: Expected.STREAM}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may take where its workflow does not say, in seconds.

    In all, between two bytes, and to connect.
    """

    total: float = 300.0
    idle: float = 60.0
    connect: float = 5.0


class Caller:
    """Calls the n8n of a run's organization."""

    def __init__(
        self, n8n_for: N8nFor, limits: Limits, credentials: Credentials, tokens: ExecutionTokens
    ) -> None:
        self._n8n_for = n8n_for
        self._limits = limits
        self._credentials = credentials
        self._tokens = tokens

    async def call(self, run: Run, outcome: Outcome) -> None:
        """Send a run to n8n and hear it out. Raises the RpcError that failed it.

        Nothing is sent, and N8nWithheld raised, where another replica may have taken the run up by then.
        """
        job = run.job
        token = self._tokens.of(job.execution_id, job.organization_id)
        headers = {
            "traceparent": job.traceparent,
            EXECUTION_HEADER: job.execution_id,
            TOKEN_HEADER: token,
        }
        granted = await grant(self._credentials, job)
        secrets = [token, *granted.secrets]
        async with self._n8n_for(job.organization_id, job.execution_id) as n8n:
            if run.n8n not in {None, n8n}:
                msg = "The organization has another n8n than the one that the run was sent to."
                raise FailedPrecondition(msg, reason="N8N_CHANGED")
            run.sent_to(n8n, secrets)
            sending = n8n.run(
                job.workflow.webhook_path,
                granted.payload,
                headers=headers | dict(granted.headers),
                timeouts=self._timeouts(job.workflow),
                secrets=secrets,
                expected=_EXPECTED.get(job.workflow.response_mode, Expected.ANY),
                may_send=run.is_surely_leased,
            )
            del granted  # the whole input once more, with credentials in it
            async with sending as response:
                failed = await _hear_out(run, outcome, response)
        if failed is not None:
            name = failed.node.name
            msg = f'The workflow failed in its node "{name}".'
            raise Unknown(msg, reason="WORKFLOW_FAILED", metadata={"node": name})

    async def stop(self, run: Run, *, timeout_seconds: float) -> bool:
        """Stop a run where it was sent to; whether that has stopped it. Raises what `N8n.stop` raises.

        Its organization may have another n8n by now, where the same id is somebody else's run.
        """
        if not run.n8n_execution_id:
            return False
        async with self._n8n_for(run.job.organization_id, run.job.execution_id) as n8n:
            if n8n is not run.n8n:
                return False
            answer = await n8n.stop(run.n8n_execution_id, timeout_seconds=timeout_seconds)
        return answer is StopResult.STOPPED

    def _timeouts(self, workflow: Workflow) -> Timeouts:
        idle = workflow.idle_timeout_seconds or self._limits.idle
        return Timeouts(
            connect=self._limits.connect,
            idle=idle,
            total=workflow.timeout_seconds or self._limits.total,
            # n8n begins a stream before it runs the first node.
            first_byte=idle if workflow.response_mode is ResponseMode.STREAMING else None,
        )


async def _hear_out(run: Run, outcome: Outcome, response: Response) -> NodeError | None:
    """Take all that n8n puts out; the first node that failed, if one did."""
    run.n8n_execution_id = run.n8n_execution_id or response.n8n_execution_id
    failed: NodeError | None = None
    async for pieces in response.pieces:
        node_error = await hear(run, outcome, pieces)
        failed = failed or node_error
        await run.room()
    return failed


async def hear(run: Run, outcome: Outcome, pieces: Iterable[Piece]) -> NodeError | None:
    """Take what n8n has put out at one time to the log and to the result; the first node that failed.

    Others get turns meanwhile.
    """
    failed: NodeError | None = None
    events: list[tuple[Heard, str | bytes]] = []
    parsed = 0
    for piece in pieces:
        heard = event_of(piece)
        if heard is None:
            if failed is None and isinstance(piece, NodeError):
                failed = piece
            continue
        events.append(heard)
        _, raw = heard
        if raw[:1] in _PARSED:
            parsed += len(raw)
            if parsed > _PARSED_AT_ONCE:
                _take(run, outcome, events)
                events, parsed = [], 0
                await asyncio.sleep(0)
    _take(run, outcome, events)
    return failed


def _take(run: Run, outcome: Outcome, events: list[tuple[Heard, str | bytes]]) -> None:
    outcome.output.extend(events)
    run.log.extend(events)
