"""What each RPC is answered by, and what runs workflows."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING

from gateway.adapters.addresses import Networks
from gateway.adapters.redis.changes import API_KEYS, N8N_INSTANCES, ORGANIZATIONS
from gateway.adapters.redis.event_streams import EventStreams
from gateway.adapters.redis.run_queue import CHANNEL as QUEUE_CHANNEL
from gateway.adapters.redis.run_queue import RunQueue
from gateway.adapters.webhook_sender import WebhookSender
from gateway.executions.attempt import Caller, Limits
from gateway.executions.cancel import Cancellations
from gateway.executions.credentials import StoredCredentials
from gateway.executions.dispatcher import Dispatcher
from gateway.executions.ending import Endings
from gateway.executions.leases import Leases
from gateway.executions.peers import Peers
from gateway.executions.publisher import Publisher
from gateway.executions.reports import Reports
from gateway.executions.runner import Runner
from gateway.executions.sweeper import Sweeper
from gateway.executions.unpublished import Unpublished
from gateway.executions.watch import Watcher
from gateway.rpc import api
from gateway.rpc.methods import MethodTable
from gateway.services.api_key import ApiKeyService
from gateway.services.credit import CreditService
from gateway.services.execution import ExecutionService
from gateway.services.health import HealthService
from gateway.services.internal import InternalService
from gateway.services.organization import OrganizationService
from gateway.services.webhook import WebhookService
from gateway.services.workflow import WorkflowService
from gateway.settings import plain
from gateway.webhooks.deliverer import Deliverer

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack

    from gateway.adapters.redis.changes import Changes
    from gateway.app.surroundings import Surroundings
    from gateway.settings import Settings

PUBLISH_SECONDS = 2.0
"""How long the last events may take to reach Redis when the gateway stops."""


class Services:
    """The implementations of all services; `grace_left` tells the seconds that ending may still take."""

    def __init__(
        self,
        settings: Settings,
        parts: AsyncExitStack,
        around: Surroundings,
        changes: Changes,
        grace_left: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._around = around
        self._changes = changes
        self._grace_left = grace_left
        self.health = HealthService(around.checks, around.away)

    async def methods(self) -> MethodTable:
        """Each service with what answers it."""
        around, publish = self._around, self._changes.publish
        database, vault = around.database, around.vault
        executions, reports = self._executions()
        self._parts.push_async_callback(self.health.close)
        organizations = OrganizationService(
            database,
            vault,
            partial(publish, ORGANIZATIONS),
            tokens=around.tokens,
            n8n_networks=around.n8n_networks,
            n8n_changed=partial(publish, N8N_INSTANCES),
        )
        api_keys = ApiKeyService(database, vault, partial(publish, API_KEYS))
        return MethodTable(
            [
                (api.ORGANIZATION, organizations),
                (api.API_KEY, api_keys),
                (api.CREDIT, CreditService(database)),
                (api.WORKFLOW, WorkflowService(database)),
                (api.EXECUTION, executions),
                (api.WEBHOOK, await self._webhooks()),
                (api.INTERNAL, self._internal(reports)),
                (api.HEALTH, self.health),
            ]
        )

    def _executions(self) -> tuple[ExecutionService, Reports]:
        """What runs workflows and queues runs, keeps them this replica's own, and reads them out."""
        settings, parts, around = self._settings, self._parts, self._around
        database, vault = around.database, around.vault
        replica, lease = secrets.token_hex(8), settings.execution_lease_seconds
        streams = EventStreams(around.redis, settings.execution_events_megabytes << 20)
        channels = around.channels
        publisher = Publisher(streams, replica)
        limits = Limits(total=settings.execution_timeout_seconds)
        credentials = StoredCredentials(database, vault, replica)
        caller = Caller(around.n8n_instances.of, limits, credentials, around.tokens)
        runner = Runner(database, caller, publisher, replica=replica, lease_seconds=lease)
        endings = Endings(database, streams, replica)
        peers = Peers(channels, replica, runner.tasks)
        unpublished = Unpublished(database, runner.runs, peers)
        watcher = Watcher(runner.runs, streams, channels, endings, unpublished)
        queue = RunQueue(around.redis, settings.execution_queue_megabytes << 20)
        capacity = settings.execution_queue_concurrency
        dispatcher = Dispatcher(database, queue, runner, vault, endings, capacity=capacity)
        cancellations = Cancellations(database, runner, watcher, peers, dispatcher, endings)
        reports = Reports(database, runner, streams, peers)
        leases = Leases(database, runner, streams)
        sweeper = Sweeper(database, leases, dispatcher, endings, lease)
        for part in (publisher, leases, sweeper, dispatcher):
            part.start()
        parts.push_async_callback(streams.close)
        parts.push_async_callback(lambda: publisher.close(PUBLISH_SECONDS))
        parts.push_async_callback(leases.close)
        parts.enter_context(peers.listen())
        parts.enter_context(channels.listen(QUEUE_CHANNEL, dispatcher.hear))
        parts.push_async_callback(lambda: runner.drain(self._grace_left()))
        parts.push_async_callback(dispatcher.close)
        parts.push_async_callback(sweeper.close)
        service = ExecutionService(database, runner, dispatcher, watcher, cancellations)
        return service, reports

    async def _webhooks(self) -> WebhookService:
        """The endpoints that are told of events, and what tells them."""
        database, vault = self._around.database, self._around.vault
        networks = Networks(self._settings.webhook_allowed_networks)
        deliverer = Deliverer(database, vault, WebhookSender(networks))
        deliverer.start()
        self._parts.push_async_callback(lambda: deliverer.close(self._grace_left()))
        return WebhookService(database, vault, networks)

    def _internal(self, reports: Reports) -> InternalService:
        settings, around = self._settings, self._around
        own = [plain(settings.n8n_internal_auth_secret), plain(settings.n8n_api_key)]
        return InternalService(around.database, around.vault, around.tokens, reports, own)
