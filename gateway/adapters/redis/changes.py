"""What is no longer as it was, told to every replica."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog

from gateway.rpc.errors import Unavailable

if TYPE_CHECKING:
    from gateway.adapters.redis.channels import Channels

    Forget = Callable[[str | None], None]

log = structlog.get_logger("gateway.redis")

_CHANNEL = "n8n-gateway:"
API_KEYS = "api-keys"
ORGANIZATIONS = "organizations"
N8N_INSTANCES = "n8n-instances"
"""Topics of changes: public ids of keys, ids of organizations, ids of those whose n8n is another one."""


class Changes:
    """Tells every replica of changes, by topics.

    `forgets` has for each topic what is called with the name of the thing that changed, and with None
    when some changes may have been missed. Without Redis nobody else is told, and nothing raises: each
    replica then finds out as its own memory ages.
    """

    def __init__(self, channels: Channels, forgets: Mapping[str, Forget]) -> None:
        self._channels = channels
        self._forgets = dict(forgets)

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Hear what other replicas tell, until the context is left."""
        with ExitStack() as listening:
            for topic, forget in self._forgets.items():
                listening.enter_context(self._channels.listen(_CHANNEL + topic, partial(_hear, forget)))
            yield

    async def publish(self, topic: str, name: str) -> None:
        """Tell of a change, here at once and to the others as far as they can be reached."""
        self._forgets[topic](name)
        try:
            await self._channels.publish(_CHANNEL + topic, name.encode())
        except Unavailable:
            log.warning("change not published", topic=topic)


def _hear(forget: Forget, told: bytes | None) -> None:
    try:
        forget(None if told is None else told.decode())
    except UnicodeDecodeError:
        forget(None)  # no replica of ours can have told it
