"""Takes due deliveries and posts them, in every replica, for as long as it serves.

A delivery is leased to the replica that posts it. When that dies, the lease runs out and another one posts
the same delivery again, under the same `webhook-id`: each event is delivered at least once.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from gateway.rpc.errors import Aborted, FailedPrecondition, Unavailable
from gateway.rpc.periodic import Periodic
from gateway.webhooks.event import body_of
from gateway.webhooks.signature import SecretError, signed_headers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.adapters.database import Database
    from gateway.adapters.vault import Vault
    from gateway.adapters.webhook_sender import Attempt, WebhookSender

log = structlog.get_logger("gateway.webhooks")

LOOK_SECONDS = 1.0
"""Between two looks for what is due."""
GATHER_SECONDS = 0.02
"""After a delivery has ended, so that others may end as well before the next look."""
AWAY_SECONDS = 5.0
"""Between two looks while the database is away."""
AT_ONCE = 64
"""Deliveries under way in one replica; half of them at most to endpoints that failed last."""
EACH = 8
"""Deliveries under way to one endpoint, in all replicas; one to an endpoint that failed last.

An organization has twice as many under way, whatever its endpoints: its slow ones hold up nobody else.
"""
LEASE_SECONDS = 60
"""Longer than an attempt can take, and its note in the database."""
FIRST_RETRY_SECONDS = 5
LONGEST_RETRY_SECONDS = 6 * 3600
_GROWTH = 4.0
_NOTE_TRIES = 5


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is to be posted, leased to this replica."""

    id: str
    organization_id: str
    webhook_id: str
    url: str
    payload: str = field(repr=False)
    attempt: int
    attempts_since_queued: int
    is_failing: bool
    secrets: Mapping[str, Mapping[str, str]] = field(repr=False)


def retry_seconds(attempts: int, asked: float = 0.0) -> int:
    """How long to wait after so many failures: 5 s, 20 s, 80 s, … at most 6 hours, a fifth more or less.

    As long as the receiver `asked`, if that is more. Eleven attempts go over about a day.
    """
    grown = min(FIRST_RETRY_SECONDS * _GROWTH ** min(attempts - 1, 16), LONGEST_RETRY_SECONDS)
    spread = grown * random.uniform(0.8, 1.2)  # noqa: S311 - nothing is guessed from it
    return round(max(spread, min(asked, LONGEST_RETRY_SECONDS)))


class Deliverer(Periodic):
    """`start` it, then `close` it. Runs never wait for it: it reads what they have left in the database."""

    def __init__(self, database: Database, vault: Vault, sender: WebhookSender) -> None:
        super().__init__(log, "deliveries not taken", retry=AWAY_SECONDS)
        self._database = database
        self._vault = vault
        self._sender = sender
        self._under_way: dict[asyncio.Task[None], Delivery] = {}
        self._gathering: asyncio.TimerHandle | None = None

    async def close(self, grace: float = 0.0) -> None:
        """Take no more, let what is under way end for `grace` seconds, leave the rest to other replicas."""
        await super().close()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=grace)
        for task in [*self._under_way]:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def deliver_due(self) -> int:
        """Begin what is due, as far as there is room -> how much there was to do."""
        room = AT_ONCE - len(self._under_way)
        if room <= 0:
            return 0
        failing = sum(delivery.is_failing for delivery in self._under_way.values())
        text = await self._database.call(
            "take_webhook_deliveries",
            None,
            p_limit=room,
            p_failing_limit=max(0, min(room, AT_ONCE // 2 - failing)),
            p_each=EACH,
            p_lease_seconds=LEASE_SECONDS,
        )
        taken = orjson.loads(text)
        for row in taken["deliveries"]:
            self._begin(Delivery(**row))
        return int(taken["planned"]) + len(taken["deliveries"])

    async def turn(self) -> float:
        """Begin what is due, and say when to look again: at once where there may be more."""
        if await self.deliver_due() > 0:
            return 0
        return LOOK_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311 - so that replicas do not look together

    def _begin(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._deliver(delivery))
        self._under_way[task] = delivery
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._under_way[task]
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER_SECONDS, self._gathered)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("delivery broke", exc_info=error)

    def _gathered(self) -> None:
        self._gathering = None
        self.wake()

    async def _deliver(self, delivery: Delivery) -> None:
        bound = {"webhook_id": delivery.webhook_id, "delivery_id": delivery.id, "attempt": delivery.attempt}
        body = body_of(delivery.payload)
        try:
            signing = self._vault.open(delivery.organization_id, delivery.secrets)
            headers = signed_headers(signing.values(), delivery.id, int(time.time()), body)
        except FailedPrecondition as error:
            await self._note(delivery, 0, f"its signing secret cannot be read: {error.reason}")
            return
        except SecretError as error:
            await self._note(delivery, 0, f"its signing secret cannot sign: {error}")
            return
        attempt = await self._sender.post(delivery.url, body, headers)
        noted = await self._note(delivery, attempt.status, attempt.error, attempt)
        if attempt.error:
            log.info("webhook not delivered", status=attempt.status, **bound)
        if noted.get("is_disabled"):
            log.warning("webhook disabled", organization_id=delivery.organization_id, **bound)

    async def _note(
        self, delivery: Delivery, status: int, error: str, attempt: Attempt | None = None
    ) -> dict[str, Any]:
        """Write down how it went; when that cannot be done, the lease runs out and it is delivered again."""
        for again in range(_NOTE_TRIES):
            try:
                text = await self._database.call(
                    "finish_webhook_delivery",
                    None,
                    p_id=delivery.id,
                    p_attempt=delivery.attempt,
                    p_status=status,
                    p_error=error,
                    p_retry_seconds=retry_seconds(
                        delivery.attempts_since_queued, attempt.retry_after if attempt else 0.0
                    ),
                    p_is_gone=attempt is not None and attempt.is_gone,
                )
            except (Unavailable, Aborted):
                await asyncio.sleep(2**again)
            else:
                noted: dict[str, Any] = orjson.loads(text)
                return noted
        log.warning("delivery not noted", delivery_id=delivery.id)
        return {}
