from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.chain import security_log
from gateway.chain.security_log import AGAIN_SECONDS, BASELINE, SUSPICIOUS, SecurityEvent, SecurityLog
from gateway.rpc.errors import InvalidArgument, Unavailable


class Database:
    """Keeps what it is given, and fails when told to."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.fails: list[Exception] = []
        self.called = asyncio.Event()

    async def call(self, function: str, principal: None, /, **arguments: Any) -> str:
        assert (function, principal) == ("note_security_events", None)
        self.called.set()
        if self.fails:
            raise self.fails.pop(0)
        self.rows += arguments["p_events"]
        return "{}"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def event(subject: str = "user_1", request_id: str = "r-1") -> SecurityEvent:
    return SecurityEvent("o-1", SUSPICIOUS, subject, "sess_1", "f" * 64, "logged", ("network",), request_id)


@asynccontextmanager
async def running(database: Database, clock: Clock) -> AsyncIterator[SecurityLog]:
    log = SecurityLog(database, pause=0.01, clock=clock)  # type: ignore[arg-type]
    log.start()
    yield log
    await log.close()


async def written(database: Database, count: int) -> list[Any]:
    async with asyncio.timeout(10):
        while len(database.rows) < count:
            database.called.clear()
            await database.called.wait()
    return database.rows


async def test_the_first_is_written_at_once_and_the_same_a_minute_later_with_its_count() -> None:
    database, clock = Database(), Clock()
    async with running(database, clock) as log:
        log.record(event())
        [row] = await written(database, 1)
        assert row == {
            "organization_id": "o-1",
            "status": SUSPICIOUS,
            "subject_id": "user_1",
            "session_id": "sess_1",
            "fingerprint": "f" * 64,
            "action": "logged",
            "signals": ("network",),
            "request_id": "r-1",
            "count": 1,
            "age_seconds": 0,
        }
        for number in range(50):
            log.record(event(request_id=f"r-{number}"))
        log.record(event("user_2"))
        assert (await written(database, 2))[1]["subject_id"] == "user_2"
        clock.now += AGAIN_SECONDS
        assert (await written(database, 3))[2]["count"] == 50
        log.record(event("user_3"))
        await written(database, 4)
    assert len(database.rows) == 4


async def test_a_baseline_is_written_at_once_each_time() -> None:
    database, clock = Database(), Clock()
    baseline = replace(event(), status=BASELINE)
    async with running(database, clock) as log:
        for number in range(1, 4):
            log.record(baseline)
            assert len(await written(database, number)) == number


async def test_it_is_told_how_long_ago_the_last_one_was() -> None:
    database, clock = Database(), Clock()
    database.fails = [Unavailable("away")] * 2
    async with running(database, clock) as log:
        log.record(event())
        clock.now += 5
        log.record(event())
        log.record(event("user_2"))
        clock.now += 2.5
        rows = await written(database, 2)
    assert [row["age_seconds"] for row in rows] == [2.5, 2.5]


async def test_what_is_left_is_written_at_the_end() -> None:
    database, clock = Database(), Clock()
    async with running(database, clock) as log:
        log.record(event())
        await written(database, 1)
        log.record(event())
        log.record(event("user_2"))
    assert sorted((row["subject_id"], row["count"]) for row in database.rows) == [
        ("user_1", 1), ("user_1", 1), ("user_2", 1)
    ]  # fmt: skip


async def test_events_wait_while_the_database_is_away() -> None:
    database, clock = Database(), Clock()
    database.fails = [Unavailable("away")] * 3
    async with running(database, clock) as log:
        log.record(event())
        await database.called.wait()
        log.record(event())
        [row] = await written(database, 1)
    assert row["count"] == 2


async def test_the_end_does_not_wait_for_a_database_that_is_away() -> None:
    database, clock = Database(), Clock()
    database.fails = [Unavailable("away")] * 1000
    async with asyncio.timeout(10):
        async with running(database, clock) as log:
            log.record(event())
    assert database.rows == []


@pytest.mark.parametrize("fault", [InvalidArgument("no"), RuntimeError("a fault")])
async def test_a_batch_that_fails_does_not_end_the_writing(fault: Exception) -> None:
    database, clock = Database(), Clock()
    database.fails = [fault]
    async with running(database, clock) as log:
        with capture_logs() as logs:
            log.record(event())
            await database.called.wait()
            log.record(event("user_2"))
            rows = await written(database, 1)
            assert any("security events" in line["event"] for line in logs)
        assert "user_2" in [row["subject_id"] for row in rows]


async def test_memory_is_bounded_and_what_is_dropped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_log, "MOST", 100)
    database, clock = Database(), Clock()
    log = SecurityLog(database, pause=0.01, clock=clock)  # type: ignore[arg-type]
    for number in range(1000):
        log.record(event(f"user_{number}"))
    with capture_logs() as logs:
        log.start()
        await written(database, 100)
        await log.close()
    assert len(database.rows) == 100
    assert {"event": "security events dropped", "count": 900, "log_level": "warning"} in logs


async def test_kinds_of_the_past_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security_log, "MOST", 1)
    database, clock = Database(), Clock()
    async with running(database, clock) as log:
        log.record(event())
        await written(database, 1)
        clock.now += AGAIN_SECONDS
        async with asyncio.timeout(10):
            while len(database.rows) < 2:
                log.record(event("user_2"))
                await asyncio.sleep(0.01)
    assert database.rows[1]["subject_id"] == "user_2"


async def test_a_subject_that_postgres_cannot_store_is_stored_without_what_it_cannot() -> None:
    database, clock = Database(), Clock()
    async with running(database, clock) as log:
        log.record(event("user\0_1"))
        [row] = await written(database, 1)
    assert row["subject_id"] == "user_1"
