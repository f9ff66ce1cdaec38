from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import structlog
from protobuf import message_to_json_value

from gateway.adapters.n8n import N8n
from gateway.adapters.redis.event_streams import Batch
from gateway.executions import attempt, settlement, tasks
from gateway.executions import runner as runner_module
from gateway.executions.attempt import Caller, Limits
from gateway.executions.event import NodeEvent
from gateway.executions.lease_clock import lease_clock
from gateway.executions.publisher import Publisher
from gateway.executions.run import Job, Run
from gateway.executions.runner import Runner
from gateway.executions.settlement import Outcome
from gateway.executions.token import ExecutionTokens
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent
from gateway.gen.n8ngateway.v1.execution_pb import ExecutionState
from gateway.gen.n8ngateway.v1.workflow_pb import CredentialMode, ResponseMode, UnknownOutcomePolicy, Workflow
from gateway.rpc.errors import (
    Cancelled,
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    NotFound,
    ResourceExhausted,
    RpcError,
    Unavailable,
    Unknown,
)
from gateway.transcoding.gen.google.rpc.error_details_pb import ErrorInfo
from tests.executions.accounts import BALANCE, PRICE, Accounts
from tests.stub_n8n import StubN8n

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
GRACE = 30.0


@pytest.fixture(autouse=True)
def logged(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(settlement, "FIRST_RETRY_SECONDS", 0.001)
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
async def n8n(stub_n8n: StubN8n) -> AsyncIterator[N8n]:
    stub_n8n.close_gate()
    async with N8n(stub_n8n.url, internal_secret="s" * 64) as opened:
        yield opened
    stub_n8n.open_gate()


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


class Stored:
    """The credentials of every organization but "sealed", whose vault does not open."""

    async def of(self, organization_id: str) -> dict[str, str]:
        if organization_id == "sealed":
            raise FailedPrecondition("no key", reason="SECRET_UNREADABLE")
        return {"TOKEN": f"secret-of-{organization_id}", "PIN": "1234"}

    async def handle(self, execution_id: str) -> str:
        return f"handle of {execution_id}"


stored = Stored()


class Accepting:
    """Streams that take everything, and that nobody reads."""

    async def claim(self, _writer: str, _execution_id: str) -> int:
        return 0

    async def append(self, _writer: str, batches: Sequence[Batch]) -> list[int | None]:
        return [0] * len(batches)


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    started = Publisher(Accepting(), "this replica")
    started.start()
    yield started
    await started.close(GRACE)


def caller(n8n: N8n, limits: Limits | None = None) -> Caller:
    return Caller(lambda *_: nullcontext(n8n), limits or Limits(), stored, ExecutionTokens("t" * 64))


@pytest.fixture
async def runner(accounts: Accounts, n8n: N8n, publisher: Publisher) -> AsyncIterator[Runner]:
    running = Runner(
        accounts, caller(n8n, Limits(total=GRACE, idle=GRACE)), publisher, replica="this replica"
    )
    yield running
    accounts.gate.set()
    await running.drain(0)


async def events_of(run: Run) -> AsyncGenerator[ExecutionEvent, None]:
    """All that a run puts out, then the error that failed it."""
    async with aclosing(run.log.read()) as batches:
        async for batch in batches:
            for event in batch:
                yield event.message() if isinstance(event, NodeEvent) else event
    run.settled()


def job(webhook: str, *, payload: bytes = b"{}", **fields: Any) -> Job:
    workflow = Workflow(id="w-1", webhook_path=webhook, **fields)
    return Job(f"run of {webhook}", workflow, PRICE, payload, TRACE)


def kinds(events: list[ExecutionEvent]) -> list[str]:
    return [event.event.field for event in events if event.event is not None]


async def until_first(run: Run, kind: str) -> None:
    """Wait until the run has put out an event of a kind."""
    async for event in events_of(run):
        if event.event is not None and event.event.field == kind:
            return


async def failure(run: Run) -> tuple[list[ExecutionEvent], RpcError]:
    """The events of a run that fails, and its error."""
    events: list[ExecutionEvent] = []

    async def read() -> None:
        async for event in events_of(run):
            events.append(event)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(RpcError) as caught:
        await read()
    with pytest.raises(RpcError) as again:
        await run.ended()
    assert (again.value.reason, again.value.metadata) == (caught.value.reason, caught.value.metadata)
    return events, caught.value


async def test_a_run_tells_its_events_and_settles(runner: Runner, accounts: Accounts) -> None:
    run = runner.start(job("stream"))
    events = [event async for event in events_of(run)]
    node = ["node_started", "chunk", "node_finished"]
    assert kinds(events) == ["started", *node * 3, "completed"]
    started, end = events[0].event, events[-1].event
    assert started is not None
    assert end is not None
    assert (started.value.workflow_id, started.value.credits_reserved) == ("w-1", PRICE)
    assert (end.value.credits_used, end.value.credits_remaining) == (PRICE, BALANCE - PRICE)
    outcome, settled = await run.ended()
    assert outcome.state is ExecutionState.COMPLETED
    assert settled.credits_used == PRICE
    assert end.value.execution_time_ms == outcome.duration_ms
    kept = accounts.settled["run of stream"]
    assert (kept["p_state"], kept["p_error"]) == ("EXECUTION_STATE_COMPLETED", None)


async def test_a_stream_has_to_begin_before_its_idle_time_is_over(runner: Runner, accounts: Accounts) -> None:
    late = job("hang", response_mode=ResponseMode.STREAMING, idle_timeout_seconds=1)
    events, error = await failure(runner.start(late))
    assert (error.code, error.reason) == (Code.DEADLINE_EXCEEDED, "N8N_FIRST_BYTE_TIMEOUT")
    assert kinds(events) == ["started", "failed"]
    assert accounts.settled["run of hang"]["p_state"] == "EXECUTION_STATE_TIMED_OUT"


async def test_a_run_that_answers_otherwise_than_expected_is_not_sent_again(
    runner: Runner, accounts: Accounts, stub_n8n: StubN8n
) -> None:
    before = stub_n8n.calls["echo"]
    fields = {"is_idempotent": True, "unknown_outcome_policy": UnknownOutcomePolicy.RETRY}
    events, error = await failure(runner.start(job("echo", response_mode=ResponseMode.STREAMING, **fields)))
    assert (error.code, error.reason) == (Code.FAILED_PRECONDITION, "N8N_RESPONSE_MISMATCH")
    assert kinds(events) == ["started", "failed"]
    assert accounts.settled["run of echo"]["p_state"] == "EXECUTION_STATE_FAILED"
    assert stub_n8n.calls["echo"] == before + 1


class StandingStill(Accepting):
    """Streams that another replica has written up to the fifth event; nobody hears of it the first time."""

    def __init__(self) -> None:
        self.claims = 0

    async def claim(self, _writer: str, _execution_id: str) -> int:
        self.claims += 1
        if self.claims == 1:
            raise Unavailable("Redis does not answer.")
        return 5


async def test_a_run_that_is_taken_over_while_redis_stands_still_goes_on_numbering(
    accounts: Accounts, n8n: N8n, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "CLAIM_SECONDS", 0.001)
    publisher = Publisher(StandingStill(), "this replica")
    publisher.start()
    runner = Runner(accounts, caller(n8n), publisher, replica="this replica", lease_seconds=3600)
    run = await runner.take_over(job("echo"), lease_clock(), attempt=2)
    await run.ended()
    assert run.log.last == 5 + 3
    await runner.drain(GRACE)
    await publisher.close(GRACE)


async def test_the_request_reaches_n8n_with_its_trace(runner: Runner, stub_n8n: StubN8n) -> None:
    outcome, _ = await runner.start(job("echo", payload=b'{"n":1}')).ended()
    value = outcome.output.value()
    assert value is not None
    assert message_to_json_value(value) == {"echo": {"n": 1}, "executionId": "7"}
    assert stub_n8n.headers["echo"]["traceparent"] == TRACE
    assert stub_n8n.headers["echo"]["x-gateway-execution-id"] == "run of echo"


async def test_every_reader_hears_the_same(runner: Runner) -> None:
    run = runner.start(job("stream"))
    readers = [[event async for event in events_of(run)] for _ in range(2)]
    assert readers[0] == readers[1]


async def test_a_run_survives_its_caller(runner: Runner, stub_n8n: StubN8n, accounts: Accounts) -> None:
    run = runner.start(job("gated"))
    reading = asyncio.create_task(run.ended())
    await until_first(run, "chunk")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    stub_n8n.open_gate()
    outcome, _ = await run.ended()
    assert outcome.error is None
    assert accounts.settled["run of gated"]["p_state"] == "EXECUTION_STATE_COMPLETED"


async def test_a_reader_that_leaves_leaves_nothing_behind(runner: Runner, stub_n8n: StubN8n) -> None:
    run = runner.start(job("gated"))
    events = events_of(run)
    await anext(events)
    await anext(events)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await events.aclose()
    assert not run.log._waiting
    stub_n8n.open_gate()
    await run.ended()


@pytest.mark.parametrize(
    ("webhook", "code", "reason", "state"),
    [
        ("stream-fail", Code.UNKNOWN, "WORKFLOW_FAILED", "FAILED"),
        ("n404", Code.FAILED_PRECONDITION, "N8N_WEBHOOK_NOT_REGISTERED", "FAILED"),
        ("cut", Code.UNAVAILABLE, "N8N_CONNECTION_LOST", "UNKNOWN"),
    ],
)
async def test_a_failure_names_its_execution_and_costs_nothing(
    runner: Runner, accounts: Accounts, webhook: str, code: Code, reason: str, state: str
) -> None:
    events, error = await failure(runner.start(job(webhook)))
    assert (error.code, error.reason) == (code, reason)
    assert error.metadata["execution_id"] == f"run of {webhook}"
    assert kinds(events)[0] == "started"
    end = events[-1].event
    assert end is not None
    assert end.field == "failed"
    assert (end.value.credits_used, end.value.credits_remaining) == (0, BALANCE)
    info = end.value.status.details[0].unpack(ErrorInfo)
    assert (info.reason, info.metadata["execution_id"]) == (reason, f"run of {webhook}")
    kept = accounts.settled[f"run of {webhook}"]
    assert kept["p_state"] == f"EXECUTION_STATE_{state}"
    assert reason in kept["p_error"]


async def test_the_node_that_failed_is_named(runner: Runner) -> None:
    events, error = await failure(runner.start(job("stream-fail")))
    assert isinstance(error, Unknown)
    assert error.metadata["node"] == "Stop and Error"
    assert kinds(events) == ["started", "node_started", "chunk", "node_finished", "failed"]


async def test_a_workflow_s_own_time_is_a_bound(runner: Runner, accounts: Accounts) -> None:
    _, error = await failure(runner.start(job("hang", timeout_seconds=1)))
    assert isinstance(error, DeadlineExceeded)
    assert accounts.settled["run of hang"]["p_state"] == "EXECUTION_STATE_TIMED_OUT"


async def test_so_is_its_own_silence(runner: Runner, accounts: Accounts) -> None:
    events, error = await failure(runner.start(job("endless", idle_timeout_seconds=1)))
    assert error.reason == "N8N_IDLE_TIMEOUT"
    assert "chunk" in kinds(events)
    assert accounts.settled["run of endless"]["p_state"] == "EXECUTION_STATE_TIMED_OUT"


@pytest.mark.parametrize(
    ("webhook", "limits"), [("hang", Limits(total=0.05)), ("endless", Limits(total=GRACE, idle=0.05))]
)
async def test_without_its_own_those_of_the_gateway_hold(
    accounts: Accounts, n8n: N8n, publisher: Publisher, webhook: str, limits: Limits
) -> None:
    _, error = await failure(
        Runner(accounts, caller(n8n, limits), publisher, replica="this replica").start(job(webhook))
    )
    assert isinstance(error, DeadlineExceeded)


async def test_n8n_away_is_unavailable(accounts: Accounts, publisher: Publisher) -> None:
    stub = StubN8n()
    stub.close()
    async with N8n(stub.url, internal_secret="s" * 64) as n8n:
        _, error = await failure(
            Runner(accounts, caller(n8n), publisher, replica="this replica").start(job("echo"))
        )
    assert (error.code, error.reason) == (Code.UNAVAILABLE, "N8N_UNREACHABLE")


async def test_a_fault_of_the_gateway_fails_the_run_and_says_nothing(
    runner: Runner, accounts: Accounts, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    def broken(*_arguments: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(attempt, "hear", broken)
    _, error = await failure(runner.start(job("echo")))
    assert isinstance(error, Internal)
    assert "secret" not in error.message
    assert error.metadata == {"execution_id": "run of echo"}
    assert accounts.settled["run of echo"]["p_state"] == "EXECUTION_STATE_FAILED"
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["run broke"]


async def test_a_run_that_cannot_be_settled_is_an_error_and_not_an_end(
    n8n: N8n, publisher: Publisher, logged: list[Any]
) -> None:
    accounts = Accounts(Internal("1"), Internal("2"))
    events, error = await failure(
        Runner(accounts, caller(n8n), publisher, replica="this replica").start(job("echo"))
    )
    assert isinstance(error, Internal)
    assert error.metadata == {"execution_id": "run of echo"}
    assert kinds(events) == ["started", "chunk"]
    assert "run not settled" in [line["event"] for line in logged]


async def test_draining_lets_runs_end(runner: Runner, stub_n8n: StubN8n) -> None:
    run = runner.start(job("gated"))
    await until_first(run, "chunk")
    draining = asyncio.create_task(runner.drain(GRACE))
    await asyncio.sleep(0)
    assert not draining.done()
    stub_n8n.open_gate()
    await draining
    outcome, _ = await run.ended()
    assert outcome.error is None


async def test_draining_nothing_ends_at_once(runner: Runner) -> None:
    await runner.drain(GRACE)


@pytest.mark.parametrize("grace", [0.0, 0.05])
async def test_draining_cuts_off_what_is_left_and_settles_it_as_unknown(
    runner: Runner, accounts: Accounts, grace: float
) -> None:
    runs = [runner.start(job(webhook)) for webhook in ("hang", "gated", "endless")]
    await runner.drain(grace)
    for run in runs:
        events, error = await failure(run)
        assert (error.code, error.reason) == (Code.UNAVAILABLE, "SHUTTING_DOWN")
        assert error.metadata == {"execution_id": run.job.execution_id}
        assert kinds(events)[-1] == "failed"
        assert accounts.settled[run.job.execution_id]["p_state"] == "EXECUTION_STATE_UNKNOWN"


async def test_draining_does_not_cut_off_a_settlement(runner: Runner, accounts: Accounts) -> None:
    accounts.gate.clear()
    run = runner.start(job("echo"))
    await accounts.asked.wait()
    draining = asyncio.create_task(runner.drain(0))
    await asyncio.sleep(0.01)
    accounts.gate.set()
    await draining
    outcome, settled = await run.ended()
    assert (outcome.error, settled.credits_used) == (None, PRICE)


class Stopping:
    """Calls an n8n whose runs end when they are to be stopped, and that says so when it may answer."""

    def __init__(self) -> None:
        self.asked, self.ended, self.answers = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def call(self, run: Run, _outcome: Outcome) -> None:
        if run.job.workflow.webhook_path == "endless":
            await asyncio.Event().wait()
        await self.asked.wait()
        self.ended.set()
        raise Unknown("It was stopped.", reason="WORKFLOW_FAILED")

    async def stop(self, _run: Run, *, timeout_seconds: float) -> bool:
        assert timeout_seconds < tasks.SETTLE_SECONDS
        self.asked.set()
        await self.answers.wait()
        return True


async def test_draining_does_not_cut_off_a_cancellation(accounts: Accounts, publisher: Publisher) -> None:
    n8n = Stopping()
    runner = Runner(accounts, n8n, publisher, replica="this replica")  # type: ignore[arg-type]
    cancelled, other = runner.start(job("gated")), runner.start(job("endless"))
    assert runner.cancel("run of gated")
    await n8n.ended.wait()
    draining = asyncio.create_task(runner.drain(0))
    _, error = await failure(other)
    assert error.reason == "SHUTTING_DOWN"  # what may be cut off has been
    n8n.answers.set()
    _, error = await failure(cancelled)
    await draining
    assert (error.reason, error.metadata["n8n_stopped"]) == ("EXECUTION_CANCELLED", "true")
    assert accounts.settled["run of gated"]["p_state"] == "EXECUTION_STATE_CANCELLED"


async def test_a_run_that_is_cancelled_is_settled_though_its_stop_breaks(
    runner: Runner, accounts: Accounts, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    async def broken(*_arguments: Any, **_options: Any) -> bool:
        raise RuntimeError("secret")

    monkeypatch.setattr(Caller, "stop", broken)
    run = runner.start(job("endless"))
    await until_first(run, "chunk")
    assert runner.cancel("run of endless")
    _, error = await failure(run)
    assert (error.reason, error.metadata["n8n_stopped"]) == ("EXECUTION_CANCELLED", "false")
    assert accounts.settled["run of endless"]["p_state"] == "EXECUTION_STATE_CANCELLED"
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["run not stopped in n8n"]


async def test_draining_does_not_wait_for_ever_for_a_database_that_is_away(
    runner: Runner, accounts: Accounts, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    monkeypatch.setattr(tasks, "SETTLE_SECONDS", 0.05)
    accounts.gate.clear()
    runs = [runner.start(job("hang")), runner.start(job("echo"))]
    await accounts.asked.wait()
    await runner.drain(0)
    for run in runs:
        events, error = await failure(run)
        assert error.reason == "SHUTTING_DOWN"
        assert kinds(events)[-1] != "completed"
    assert "runs left unsettled" in [line["event"] for line in logged]


def beginning(do: Callable[[], Awaitable[str]]) -> tuple[Callable[[], Awaitable[str]], asyncio.Event]:
    """A beginning that tells when it is under way."""
    reached = asyncio.Event()

    async def begin() -> str:
        reached.set()
        return await do()

    return begin, reached


async def test_a_beginning_outlives_its_caller(runner: Runner) -> None:
    gate, ended = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        await gate.wait()
        ended.set()
        return "begun"

    begin, reached = beginning(work)
    caller = asyncio.create_task(runner.begin("e", begin))
    await reached.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    gate.set()
    await ended.wait()


async def test_a_beginning_gives_what_it_began(runner: Runner, accounts: Accounts) -> None:
    async def work() -> str:
        return "begun"

    assert await runner.begin("e", work) == "begun"
    assert not accounts.calls


async def test_a_refused_beginning_settles_nothing(runner: Runner, accounts: Accounts) -> None:
    async def work() -> str:
        raise FailedPrecondition("no credits")

    with pytest.raises(FailedPrecondition):
        await runner.begin("e", work)
    await runner.drain(GRACE)
    assert not accounts.calls


@pytest.mark.parametrize("found", [True, False])
async def test_a_beginning_that_broke_off_is_given_back(n8n: N8n, publisher: Publisher, found: bool) -> None:  # noqa: FBT001
    accounts = Accounts(*([] if found else [NotFound("never begun")]))
    runner = Runner(accounts, caller(n8n), publisher, replica="this replica")

    async def work() -> str:
        raise Unavailable("the connection broke")

    with pytest.raises(Unavailable):
        await runner.begin("e", work)
    await runner.drain(GRACE)
    # What is not there yet may still come: the database may begin it after it broke off.
    assert [call["p_execution_id"] for call in accounts.calls] == ["e"] * (1 if found else 2)
    assert accounts.settled["e"]["p_state"] == "EXECUTION_STATE_FAILED"
    assert accounts.settled["e"]["p_runner"] == "this replica"  # another one's run is not to be given back


async def test_a_beginning_that_broke_off_is_not_given_back_when_its_run_is_under_way(
    runner: Runner, accounts: Accounts, stub_n8n: StubN8n
) -> None:
    """It was taken from the queue before it was known to be there."""
    running: list[Run] = []

    async def work() -> str:
        running.append(runner.start(job("gated")))
        raise Unavailable("the connection broke")

    with pytest.raises(Unavailable):
        await runner.begin("run of gated", work)
    stub_n8n.open_gate()
    await running[0].ended()
    await runner.drain(GRACE)
    assert [call["p_state"] for call in accounts.calls] == ["EXECUTION_STATE_COMPLETED"]


async def test_a_beginning_that_never_came_is_given_up(
    n8n: N8n, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = Accounts(NotFound("never begun"))
    monkeypatch.setattr(runner_module, "BEGIN_SECONDS", 0)
    runner = Runner(accounts, caller(n8n), publisher, replica="this replica")

    async def work() -> str:
        raise Unavailable("the connection broke")

    with pytest.raises(Unavailable):
        await runner.begin("e", work)
    await runner.drain(GRACE)
    assert len(accounts.calls) == 1
    assert not accounts.settled


async def test_a_fault_after_the_charge_is_given_back(runner: Runner, accounts: Accounts) -> None:
    async def work() -> str:
        raise KeyError("a field of a newer schema")

    with pytest.raises(KeyError):
        await runner.begin("e", work)
    await runner.drain(GRACE)
    assert accounts.settled["e"]["p_state"] == "EXECUTION_STATE_FAILED"


async def test_a_beginning_that_draining_cuts_off_is_given_back(runner: Runner, accounts: Accounts) -> None:
    async def work() -> str:
        await asyncio.Event().wait()
        return ""

    begin, reached = beginning(work)
    caller = asyncio.create_task(runner.begin("e", begin))
    await reached.wait()
    await runner.drain(0)
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert accounts.settled["e"]["p_state"] == "EXECUTION_STATE_FAILED"


async def test_a_charge_that_cannot_be_given_back_is_logged(
    n8n: N8n, publisher: Publisher, logged: list[Any]
) -> None:
    runner = Runner(Accounts(Internal("1"), Internal("2")), caller(n8n), publisher, replica="this replica")

    async def work() -> str:
        raise Unavailable("the connection broke")

    with pytest.raises(Unavailable):
        await runner.begin("e", work)
    await runner.drain(GRACE)
    assert ("run not settled", "e") in [(line["event"], line.get("execution_id")) for line in logged]


def with_credentials(organization_id: str, payload: bytes = b"{}") -> Job:
    begun = job("echo", payload=payload, credential_mode=CredentialMode.INLINE)
    return replace(begun, organization_id=organization_id)


@pytest.mark.parametrize("payload", [b"{}", b'{"n": 1, "credentials": {"TOKEN": "the caller\'s own"}}'])
async def test_credentials_reach_the_workflow_and_do_not_come_back(
    runner: Runner, stub_n8n: StubN8n, payload: bytes
) -> None:
    outcome, _ = await runner.start(with_credentials("acme", payload)).ended()
    sent = json.loads(stub_n8n.bodies["echo"])
    assert sent == json.loads(payload) | {"credentials": {"TOKEN": "secret-of-acme", "PIN": "1234"}}
    answered = json.loads(outcome.output.value().to_json())["echo"]
    assert answered["credentials"]["TOKEN"] == "[redacted]"


async def test_a_handle_is_sent_in_place_of_the_credentials(runner: Runner, stub_n8n: StubN8n) -> None:
    begun = job("echo", payload=b'{"a": "secret-of-acme"}', credential_mode=CredentialMode.HANDLE)
    outcome, _ = await runner.start(replace(begun, organization_id="acme")).ended()
    assert stub_n8n.headers["echo"]["x-gateway-credential-handle"] == "handle of run of echo"
    assert json.loads(stub_n8n.bodies["echo"]) == {"a": "secret-of-acme"}
    # What the workflow redeems does not come back either.
    assert json.loads(outcome.output.value().to_json())["echo"] == {"a": "[redacted]"}


async def test_a_workflow_that_wants_none_gets_none(runner: Runner, stub_n8n: StubN8n) -> None:
    await runner.start(replace(job("echo"), organization_id="acme")).ended()
    assert json.loads(stub_n8n.bodies["echo"]) == {}


async def test_a_run_whose_credentials_cannot_be_read_is_not_sent_and_costs_nothing(
    runner: Runner, stub_n8n: StubN8n
) -> None:
    before = stub_n8n.calls["echo"]
    run = runner.start(with_credentials("sealed"))
    _, error = await failure(run)
    assert (error.reason, stub_n8n.calls["echo"]) == ("SECRET_UNREADABLE", before)
    assert run.settlement is not None
    assert run.settlement.credits_used == 0


async def test_a_run_is_stopped_in_no_other_n8n_than_it_was_sent_to(
    accounts: Accounts, publisher: Publisher, stub_n8n: StubN8n
) -> None:
    stops = stub_n8n.calls["/api/v1/executions/77/stop"]
    async with (
        N8n(stub_n8n.url, internal_secret="s" * 64, api_key="own") as own,
        N8n(stub_n8n.url, internal_secret="s" * 64, api_key="default") as default,
    ):
        n8ns = [own]
        sending = Caller(lambda *_: nullcontext(n8ns[-1]), Limits(), stored, ExecutionTokens("t" * 64))
        runner = Runner(accounts, sending, publisher, replica="this replica")
        for changed, stopped in ((False, "true"), (True, "false")):
            # It has not answered: what is known of the run, the workflow has reported.
            before = stub_n8n.calls["hang"]
            run = runner.start(job("hang"))
            while stub_n8n.calls["hang"] == before:  # noqa: ASYNC110 - it counts in a thread of its own
                await asyncio.sleep(0.01)
            run.n8n_execution_id = "77"
            if changed:
                n8ns.append(default)
            assert runner.cancel("run of hang")
            with pytest.raises(Cancelled) as cancelled:
                await run.ended()
            assert cancelled.value.metadata["n8n_stopped"] == stopped
        await runner.drain(GRACE)
    assert stub_n8n.calls["/api/v1/executions/77/stop"] == stops + 1


async def test_a_run_is_not_sent_again_to_another_n8n(
    accounts: Accounts, publisher: Publisher, stub_n8n: StubN8n
) -> None:
    calls = stub_n8n.calls["cut"]
    async with (
        N8n(stub_n8n.url, internal_secret=None) as own,
        N8n(stub_n8n.url, internal_secret=None) as default,
    ):
        n8ns = [default, default, own]
        sending = Caller(lambda *_: nullcontext(n8ns.pop()), Limits(), stored, ExecutionTokens("t" * 64))
        runner = Runner(accounts, sending, publisher, replica="this replica")
        repeatable = {"is_idempotent": True, "unknown_outcome_policy": UnknownOutcomePolicy.RETRY}
        _, error = await failure(runner.start(job("cut", **repeatable)))
        await runner.drain(GRACE)
    assert error.reason == "N8N_CHANGED"
    assert stub_n8n.calls["cut"] == calls + 1
    assert accounts.settled["run of cut"]["p_state"] == "EXECUTION_STATE_FAILED"


async def test_a_beginning_without_room_to_wait_is_given_back(n8n: N8n, publisher: Publisher) -> None:
    accounts = Accounts()
    runner = Runner(accounts, caller(n8n), publisher, replica="this replica")

    async def work() -> str:
        raise ResourceExhausted("the queue is full", reason="QUEUE_FULL")

    with pytest.raises(ResourceExhausted):
        await runner.begin("e", work)
    await runner.drain(GRACE)
    assert accounts.settled["e"]["p_state"] == "EXECUTION_STATE_FAILED"
