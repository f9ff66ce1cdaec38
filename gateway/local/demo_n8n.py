"""A demo n8n: answers webhooks, health checks and part of the public API as n8n 2.41 does, byte for byte.

It runs no workflows of anybody's making, only those of `demo_workflows`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
from typing import TYPE_CHECKING, Self

from aiohttp import web

from gateway.local import demo_wire as wire
from gateway.local.demo_workflows import (
    WORKFLOWS,
    Execution,
    Executions,
    ExecutionStopped,
    Status,
    Workflow,
    WorkflowError,
)
from gateway.local.loopback import LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

_BY_PATH = {workflow.path: workflow for workflow in WORKFLOWS}
_WEBHOOK = "/webhook/"
_API = "/api/v1/"
_LIST_DEFAULT = 100
_LIST_MOST = 250


class DemoN8n:
    """An n8n with demo workflows, on a loopback port of this process.

    `internal_secret` is what `POST /webhook/header-auth` wants in X-N8N-Internal-Auth; `api_key` what the
    public API wants in X-N8N-API-KEY (without one, every call to it is refused); `port` the port or what
    chooses it; `pace` multiplies the workflows' pauses.

    Workflows: echo, header-auth, slow (5 s), fail; and streaming: stream, stream-fail, slow-stream, agent.
    """

    def __init__(
        self,
        internal_secret: str,
        port: int | Callable[[], int] = 0,
        *,
        api_key: str | None = None,
        pace: float = 1.0,
    ) -> None:
        self._internal_secret = internal_secret
        self._api_key = api_key
        self._choose_port = port if callable(port) else lambda: port
        self._pace = pace
        self._executions = Executions(pace)
        self._server = LoopbackServer("n8n", self._application)

    async def start(self) -> None:
        """Listen; raises PartFailed if the port cannot be had."""
        await self._server.start(self._choose_port)

    async def stop(self) -> None:
        """Stop listening; answers in progress are cut off, and runs end."""
        await self._server.stop()
        await self._executions.aclose()

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end: webhooks are at `{url}/webhook/{path}`."""
        return self._server.url

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.port

    def _application(self) -> web.Application:
        application = web.Application(client_max_size=wire.BODY_LIMIT)
        application.router.add_route("*", "/{path:.*}", self._answer)
        application.on_response_prepare.append(wire.replace_headers)
        return application

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            if request.path.startswith(_WEBHOOK):
                return await self._webhook(request)
            if request.path.startswith(_API):
                return await self._public_api(request)
            if request.path in {"/healthz", "/healthz/readiness"} and request.method in {"GET", "HEAD"}:
                return await wire.send_json(request, {"status": "ok"}, vary=False)
            if request.path.startswith("/webhook-test/"):
                raise _no_test_webhook(request.path.removeprefix("/webhook-test/"))
        except wire.Refusal as refusal:
            return await wire.send_json(request, refusal.body, status=refusal.status)
        return await wire.send_html_not_found(request)

    async def _webhook(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix(_WEBHOOK)
        workflow = _BY_PATH.get(path.removesuffix("/"))
        if request.method == "OPTIONS":
            return await wire.send_options(request, "POST" if workflow else None)
        if request.method in {"TRACE", "CONNECT"}:
            raise wire.Refusal(500, {"code": 0, "message": f"The method {request.method} is not supported."})
        if workflow is None:
            raise _not_registered(request.method, path)
        if request.method != "POST":
            raise _wrong_method(request.method)
        if workflow.header_auth and not self._is_internal(request):
            return await wire.send_wrong_authorization(request)
        try:
            body = await wire.read_body(request)
        except wire.BadBody as error:
            refused: dict[str, object] = {"code": 422, "message": "Failed to parse request body"}
            raise wire.Refusal(422, refused | {"hint": str(error)}) from error
        if workflow.streaming:
            return await self._stream(request, workflow, body)
        return await self._respond(request, workflow, body)

    async def _stream(self, request: web.Request, workflow: Workflow, body: object) -> web.StreamResponse:
        stream = await wire.LineStream.open(request)
        async for line in self._executions.start(workflow, body).stream():
            await stream.write(line)
        return await stream.close()

    async def _respond(self, request: web.Request, workflow: Workflow, body: object) -> web.StreamResponse:
        execution = self._executions.start(workflow, body)
        try:
            # Shielded: the client may go away, and the run goes on.
            answer = await asyncio.shield(execution.answer)
        except WorkflowError:
            raise wire.Refusal(500, {"message": "Error in workflow"}) from None
        except ExecutionStopped:
            raise wire.Refusal(500, {"code": 0, "message": "The execution was cancelled manually"}) from None
        headers = tuple((name, value(execution)) for name, value in workflow.headers)
        origin = request.headers.get("Origin")
        if origin is not None:
            allowed = ("Access-Control-Allow-Methods", "OPTIONS, POST")
            headers = (allowed, ("Access-Control-Allow-Origin", origin), *headers)
        return await wire.send_json(
            request, answer, before=(*headers, ("Content-Security-Policy", wire.SANDBOX))
        )

    def _is_internal(self, request: web.Request) -> bool:
        return _same(request.headers.get("X-N8N-Internal-Auth", ""), self._internal_secret)

    async def _public_api(self, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("X-N8N-API-KEY")
        if key is None:
            raise wire.Refusal(401, {"message": "'X-N8N-API-KEY' header required"})
        if self._api_key is None or not _same(key, self._api_key):
            raise wire.Refusal(401, {"message": "unauthorized"})
        match request.method, request.path.removeprefix(_API).split("/"):
            case "GET", ["executions"]:
                return await wire.send_json(request, self._list(request))
            case "GET", ["executions", execution_id]:
                return await wire.send_json(request, _describe(self._find(execution_id)))
            case "POST", ["executions", execution_id, "stop"]:
                return await wire.send_json(request, self._stop(execution_id))
        raise wire.Refusal(404, {"message": "not found"})

    def _find(self, execution_id: str) -> Execution:
        execution = self._executions.get(execution_id)
        if execution is None:
            raise wire.Refusal(404, {"message": "Not Found"})
        return execution

    def _stop(self, execution_id: str) -> dict[str, object]:
        execution = self._find(execution_id)
        if not self._executions.stop(execution):
            state = f"{execution.id} is currently {execution.status}"
            raise wire.Refusal(
                409, {"message": f"Only running or waiting executions can be stopped and {state}"}
            )
        shown = ("finished", "mode", "startedAt", "status", "stoppedAt")
        return {name: value for name, value in _describe(execution).items() if name in shown}

    def _list(self, request: web.Request) -> dict[str, object]:
        status = request.query.get("status")
        workflow_id = request.query.get("workflowId")
        last_id, limit = _page(request)
        found = [
            run
            for run in self._executions.newest_first()
            # As n8n does: running ones are listed only when they are asked for.
            if (run.status == status if status else run.status is not Status.RUNNING)
            and (workflow_id is None or run.workflow.id == workflow_id)
            and (last_id is None or int(run.id) < last_id)
        ]
        page = found[:limit]
        more = {"lastId": page[-1].id, "limit": limit} if len(found) > limit else None
        cursor = base64.b64encode(json.dumps(more).encode()).decode() if more else None
        return {"data": [_describe(run) for run in page], "nextCursor": cursor}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


def _page(request: web.Request) -> tuple[int | None, int]:
    """Return the id to list below, if any, and how many to list."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        cursor = json.loads(base64.b64decode(request.query.get("cursor", "")))
        return int(cursor["lastId"]), int(cursor["limit"])
    limit = request.query.get("limit", "")
    return None, min(int(limit), _LIST_MOST) if limit.isdigit() and int(limit) else _LIST_DEFAULT


def _describe(run: Execution) -> dict[str, object]:
    return {
        "id": run.id,
        "finished": run.status is Status.SUCCESS,
        "mode": "webhook",
        "retryOf": None,
        "retrySuccessId": None,
        "status": str(run.status),
        "startedAt": _time(run.started),
        "stoppedAt": _time(run.stopped),
        "workflowId": run.workflow.id,
        "waitTill": None,
    }


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z") if moment else None


def _not_registered(method: str, path: str) -> wire.Refusal:
    message = f'The requested webhook "{method} {path}" is not registered.'
    return wire.Refusal(404, {"code": 404, "message": message, "hint": wire.HINT_INACTIVE})


def _wrong_method(method: str) -> wire.Refusal:
    message = f"This webhook is not registered for {method} requests. Did you mean to make a POST request?"
    return wire.Refusal(404, {"code": 404, "message": message})


def _no_test_webhook(path: str) -> wire.Refusal:
    hint = (
        "Click the 'Execute workflow' button on the canvas, then try again. (In test mode, the webhook only "
        "works for one call after you click this button)"
    )
    message = f'The requested webhook "{path}" is not registered.'
    return wire.Refusal(404, {"code": 404, "message": message, "hint": hint})


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogateescape"), expected.encode())
