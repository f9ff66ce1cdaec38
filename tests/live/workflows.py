"""The workflows of the live tests, made through n8n's public API.

Each is a row of nodes: a webhook, what it does, what it answers. The constants are the webhooks' paths.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ECHO = "echo"
HEADERS = "headers"
TEXT = "text"
SLOW = "slow"
LATE = "late"
STREAM = "stream"
STREAM_FAIL = "stream-fail"
STREAM_EMPTY = "stream-empty"
SLOW_STREAM = "slow-stream"
FAIL = "fail"
HEADER_AUTH = "header-auth"
INACTIVE = "inactive"
REPORTING_SLOW = "reporting-slow"
REPORTING_FAIL = "reporting-fail"
REDEEMING = "redeeming"
UNKNOWN = "no-such-webhook"

SECRET_HEADER = "X-N8N-Internal-Auth"
EXECUTION_ID_HEADER = "X-N8N-Execution-Id"
TOKEN_HEADER = "X-Gateway-Execution-Token"
RUN_HEADER = "X-Gateway-Execution-Id"
HANDLE_HEADER = "X-Gateway-Credential-Handle"

PLAIN_TEXT = 'a plain part with "quotes" and unicode: é ☃'
SLOW_STREAM_PARTS = 6
FAILURE_MESSAGE = "this workflow fails on purpose"

UNFINISHED = frozenset({"new", "running", "waiting"})
"""What n8n says of a run that has not ended."""

_WEBHOOK = "n8n-nodes-base.webhook"
_PAUSE_SECONDS = 1
_SLOW_SECONDS = 30
_LATE_SECONDS = 5
_ROUTE_DEADLINE_SECONDS = 30
_POLL_SECONDS = 0.02

_UNSAVED: dict[str, Any] = {
    "saveDataSuccessExecution": "none",
    "saveDataErrorExecution": "none",
    "saveExecutionProgress": False,
}

_WEBHOOK_ITEM = "$('Webhook').item.json"
_ECHO = "={{ JSON.stringify({ echo: $json.body, executionId: $execution.id }) }}"
_HEADERS = "={{ JSON.stringify($json.headers) }}"


class RouteError(Exception):
    """An activated workflow's webhook did not appear."""


@dataclass(frozen=True)
class Node:
    """One node of a workflow: `type` and `version` choose n8n's implementation, `parameters` are its own."""

    name: str
    type: str
    version: float
    parameters: dict[str, Any]
    credentials: dict[str, Any] | None = None

    def definition(self) -> dict[str, Any]:
        """Return the node as n8n's API takes it."""
        definition: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "name": self.name,
            "type": self.type,
            "typeVersion": self.version,
            "position": [0, 0],
            "parameters": self.parameters,
            "webhookId": str(uuid.uuid4()),
        }
        return definition if self.credentials is None else {**definition, "credentials": self.credentials}


@dataclass(frozen=True)
class Workflow:
    """A row of nodes, each feeding the next; the first is the webhook of the path `name`."""

    name: str
    nodes: Sequence[Node]
    active: bool = True
    error_workflow: str = ""
    """n8n's id of what runs when it fails."""
    is_saved: bool = True
    """Whether n8n keeps the data of its runs."""

    def definition(self) -> dict[str, Any]:
        """Return the workflow as n8n's API takes it."""
        links = {
            node.name: {"main": [[{"node": following.name, "type": "main", "index": 0}]]}
            for node, following in pairwise(self.nodes)
        }
        return {
            "name": self.name,
            "nodes": [node.definition() for node in self.nodes],
            "connections": links,
            "settings": {
                "executionOrder": "v1",
                **({"errorWorkflow": self.error_workflow} if self.error_workflow else {}),
                **({} if self.is_saved else _UNSAVED),
            },
        }


class N8nApi:
    """The part of n8n's public API that makes workflows; a refusal raises `httpx.HTTPStatusError`."""

    def __init__(self, base_url: str, api_key: str) -> None:
        """Take what `create_owner` returned as `api_key`."""
        self._client = httpx.Client(base_url=base_url, headers={"X-N8N-API-KEY": api_key}, timeout=60)

    def __enter__(self) -> Self:
        """Use the connections until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()

    def create_header_credential(self, name: str, value: str) -> dict[str, Any]:
        """Store a header and its secret value; return what a node names under `credentials`."""
        body = {"name": "internal", "type": "httpHeaderAuth", "data": {"name": name, "value": value}}
        created = self._post("/api/v1/credentials", body)
        return {"httpHeaderAuth": {"id": created["id"], "name": created["name"]}}

    def create(self, workflow: Workflow) -> str:
        """Create a workflow and return n8n's id of it; if it is an active one, its webhook is reachable then.

        Raises:
            RouteError: n8n said that it is active, but its webhook did not appear.

        """
        created = self._post("/api/v1/workflows", workflow.definition())
        if workflow.active:
            self._post(f"/api/v1/workflows/{created['id']}/activate", {})
            if workflow.nodes[0].type == _WEBHOOK:
                self._wait_for_route(workflow.name)
        return str(created["id"])

    def execution_status(self, execution_id: str) -> str:
        """Ask n8n how a run ended, `success`, `error` or `canceled`; it says one of UNFINISHED before."""
        response = self._client.get(f"/api/v1/executions/{execution_id}")
        return str(response.raise_for_status().json()["status"])

    def executions(self, workflow_id: str) -> list[Any]:
        """All that n8n keeps of a workflow's runs, their data included; the newest first, 250 at most."""
        query = {"workflowId": workflow_id, "includeData": "true", "limit": "250"}
        response = self._client.get("/api/v1/executions", params=query)
        return list(response.raise_for_status().json()["data"])

    def running_executions(self, workflow_id: str) -> list[str]:
        """Ids of a workflow's runs that have not ended."""
        query = {"status": "running", "workflowId": workflow_id}
        response = self._client.get("/api/v1/executions", params=query)
        return [str(execution["id"]) for execution in response.raise_for_status().json()["data"]]

    def _wait_for_route(self, path: str) -> None:
        """Ask with the wrong method, which starts no run: n8n names the right one once the route exists."""
        deadline = time.monotonic() + _ROUTE_DEADLINE_SECONDS
        while "POST" not in self._client.get(f"/webhook/{path}").text:
            if time.monotonic() > deadline:
                message = f"the webhook {path} did not appear within {_ROUTE_DEADLINE_SECONDS} s"
                raise RouteError(message)
            time.sleep(_POLL_SECONDS)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = self._client.post(path, json=body).raise_for_status().json()
        return result


def create_all(api: N8nApi, internal_secret: str) -> dict[str, str]:
    """Make every workflow of the live tests; return n8n's id of each by its webhook path."""
    credential = api.create_header_credential(SECRET_HEADER, internal_secret)
    return {workflow.name: api.create(workflow) for workflow in _workflows(credential)}


def create_reporting(api: N8nApi, gateway_url: str, internal_secret: str) -> dict[str, str]:
    """Make the workflows that call the gateway, and the one that tells it of their failures."""
    authenticated = [{"name": SECRET_HEADER, "value": internal_secret}]
    log_error = f"{gateway_url}/api/v1/internal/log-error"
    handler = Workflow(
        "error-handler",
        [
            Node("Error Trigger", "n8n-nodes-base.errorTrigger", 1, {}),
            _post("Tell", log_error, authenticated, "={{ JSON.stringify($json) }}"),
        ],
    )
    handler_id = api.create(handler)
    own_run = "{{ $json.headers['x-gateway-execution-id'] }}"
    token = {"name": TOKEN_HEADER, "value": "={{ $json.headers['x-gateway-execution-token'] }}"}
    report = _post(
        "Report",
        f"={gateway_url}/api/v1/internal/executions/{own_run}/events",
        [*authenticated, token],
        "={{ JSON.stringify({ n8n_execution_id: $execution.id, node_name: 'Report', text: 'begun' }) }}",
    )
    answer = _answer_json("Answer", _ECHO)
    made = [
        Workflow(REPORTING_SLOW, [_webhook(REPORTING_SLOW), report, _pause("Pause", _SLOW_SECONDS), answer]),
        Workflow(
            REPORTING_FAIL, [_webhook(REPORTING_FAIL), report, _fail(), answer], error_workflow=handler_id
        ),
    ]
    return {workflow.name: api.create(workflow) for workflow in made}


def create_redeeming(
    api: N8nApi, gateway_url: str, internal_secret: str, name: str, upstream_url: str
) -> str:
    """Make the workflow that redeems its handle and shows the credential `name` to an upstream."""
    handle = f"$json.headers['{HANDLE_HEADER.lower()}']"
    run = {"name": RUN_HEADER, "value": "={{ $json.headers['x-gateway-execution-id'] }}"}
    redeem = _post(
        "Redeem",
        f"{gateway_url}/api/v1/internal/credentials/redeem",
        [{"name": SECRET_HEADER, "value": internal_secret}, run],
        f"={{{{ JSON.stringify({{ handle: {handle}, names: ['{name}'] }}) }}}}",
    )
    bearer = {"name": "Authorization", "value": f"=Bearer {{{{ $json.credentials.{name} }}}}"}
    spent = {"name": HANDLE_HEADER, "value": f"={{{{ {handle.replace('$json', _WEBHOOK_ITEM)} }}}}"}
    use = _post("Use", upstream_url, [bearer, spent], "{}")
    told = f"={{{{ JSON.stringify({{ upstream: $json, told: $('Redeem').item.json.credentials.{name} }}) }}}}"
    nodes = [_webhook(REDEEMING), redeem, use, _answer_json("Answer", told)]
    return api.create(Workflow(REDEEMING, nodes, is_saved=False))


def _workflows(header_credential: dict[str, Any]) -> Iterator[Workflow]:
    echo = _answer_json("Answer", _ECHO)
    yield Workflow(ECHO, [_webhook(ECHO), echo])
    yield Workflow(HEADERS, [_webhook(HEADERS), _answer_json("Answer", _HEADERS)])
    yield Workflow(SLOW, [_webhook(SLOW), _pause("Pause", _SLOW_SECONDS), echo])
    yield Workflow(LATE, [_webhook(LATE), _pause("Pause", _LATE_SECONDS), echo])
    yield Workflow(TEXT, [_webhook(TEXT), _answer_text("Answer", PLAIN_TEXT)])
    yield Workflow(FAIL, [_webhook(FAIL), _fail(), echo])
    yield Workflow(INACTIVE, [_webhook(INACTIVE), echo], active=False)
    yield Workflow(HEADER_AUTH, [_webhook(HEADER_AUTH, credentials=header_credential), echo])
    yield from _streaming_workflows()


def _streaming_workflows() -> Iterator[Workflow]:
    first = _answer_json("First", _ECHO)
    second = _answer_json("Second", _part(2))
    third = _answer_text("Third", PLAIN_TEXT)
    parts = [first, _pause("Pause 1"), second, _pause("Pause 2"), third]
    yield Workflow(STREAM, [_streaming_webhook(STREAM), *parts])
    yield Workflow(STREAM_FAIL, [_streaming_webhook(STREAM_FAIL), first, _fail()])
    yield Workflow(STREAM_EMPTY, [_streaming_webhook(STREAM_EMPTY), _pause("Pause")])
    yield Workflow(SLOW_STREAM, [_streaming_webhook(SLOW_STREAM), *_slow_parts()])


def _slow_parts() -> Iterator[Node]:
    for part in range(SLOW_STREAM_PARTS):
        yield _answer_json(f"Part {part}", _part(part))
        yield _pause(f"Pause {part}")


def _part(number: int) -> str:
    return f"={{{{ JSON.stringify({{ part: {number}, executionId: $execution.id }}) }}}}"


def _webhook(path: str, mode: str = "responseNode", credentials: dict[str, Any] | None = None) -> Node:
    parameters = {"httpMethod": "POST", "path": path, "responseMode": mode, "options": {}}
    if credentials is not None:
        parameters["authentication"] = "headerAuth"
    return Node("Webhook", _WEBHOOK, 2.1, parameters, credentials)


def _streaming_webhook(path: str) -> Node:
    return _webhook(path, "streaming")


def _post(name: str, url: str, headers: Sequence[dict[str, str]], body: str) -> Node:
    parameters = {
        "method": "POST",
        "url": url,
        "sendHeaders": True,
        "headerParameters": {"parameters": [*headers]},
        "sendBody": True,
        "specifyBody": "json",
        "jsonBody": body,
        "options": {},
    }
    return Node(name, "n8n-nodes-base.httpRequest", 4.2, parameters)


def _answer_json(name: str, expression: str) -> Node:
    return _answer(name, "json", expression)


def _answer_text(name: str, text: str) -> Node:
    return _answer(name, "text", text)


def _answer(name: str, kind: str, body: str) -> Node:
    header = {"name": EXECUTION_ID_HEADER, "value": "={{ $execution.id }}"}
    parameters = {
        "respondWith": kind,
        "responseBody": body,
        "options": {"responseHeaders": {"entries": [header]}},
    }
    return Node(name, "n8n-nodes-base.respondToWebhook", 1.5, parameters)


def _pause(name: str, seconds: int = _PAUSE_SECONDS) -> Node:
    return Node(name, "n8n-nodes-base.wait", 1.1, {"amount": seconds, "unit": "seconds"})


def _fail() -> Node:
    return Node("Stop", "n8n-nodes-base.stopAndError", 1, {"errorMessage": FAILURE_MESSAGE})
