"""What can become of a call to n8n, other than an answer.

Every fault is an RpcError of its code and an N8nFault, which knows the fate of the run::

    N8nFault                    reason
    ├── N8nUnavailable          N8N_UNREACHABLE             no connection, so nothing was sent
    │                           N8N_PROXY_ERROR             what stands before n8n answered: nobody knows
    │                           N8N_CIRCUIT_OPEN            it was away a moment ago; nothing was sent
    │                           N8N_BUSY                    all connections are in use
    │                           N8N_STARTING                n8n answers, but serves no webhooks yet
    │                           N8N_CONNECTION_LOST         cut before the end of the answer
    ├── N8nFailedPrecondition   N8N_WEBHOOK_NOT_REGISTERED  no active workflow has this path
    │                           N8N_AUTH_REJECTED           n8n knows another internal secret
    │                           N8N_REDIRECTED              the base URL is not n8n's own
    │                           N8N_RESPONSE_MISMATCH       it answers otherwise than is expected
    │                           N8N_ADDRESS_REFUSED         its address is not public, and not allowed
    │                           N8N_API_KEY_MISSING         (stop) no API key is configured
    │                           N8N_API_KEY_REJECTED        (stop) n8n does not accept it
    │   └── N8nWithheld         N8N_WITHHELD                whoever sends it does not want to any more
    ├── N8nInvalidArgument      N8N_BAD_PATH                the path could leave /webhook/
    │                           N8N_BAD_HEADER              a header that is not printable ASCII
    │                           N8N_REJECTED_INPUT          n8n cannot parse it, or it is too large
    ├── N8nUnknown              WORKFLOW_FAILED             the workflow failed, or answered 4xx or 5xx
    │                           N8N_MALFORMED_RESPONSE      the answer cannot be read
    │                           N8N_STOP_FAILED             (stop) n8n answered something else
    ├── N8nCancelled            WORKFLOW_CANCELLED          the run was stopped in n8n
    ├── N8nDeadlineExceeded     WORKFLOW_TIMED_OUT          n8n's own limit for executions
    │                           N8N_FIRST_BYTE_TIMEOUT, N8N_IDLE_TIMEOUT, N8N_TIMEOUT
    └── N8nResourceExhausted    N8N_RESPONSE_TOO_LARGE

A fault has `retry_after` only if the run was never begun, and that is known from n8n itself or for want of a
connection: whoever is told to come back may have it run once more.

Messages and metadata are for the caller: no address, no stack trace, no secret.
Metadata of what n8n answered: `n8n_status`, and `n8n_message` (at most 500 characters).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import NamedTuple, TypeVar

import orjson

from gateway.rpc.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Unknown,
)

_STARTING_SECONDS = 5.0
_UNREACHABLE_SECONDS = 5.0
_BUSY_SECONDS = 1.0
_MESSAGE_LENGTH = 500
_STARTING_PAGE = b"n8n is starting up. Please wait"
_ERROR_BEGINS = (b'{"code":', b'{"message":')
_NO_DATABASE = "Database is not ready!"
_PROXY_ERROR = "N8N_PROXY_ERROR"
# Those of the registry (RFC 9110), and what some proxies add: 520 to 530 of Cloudflare.
_OF_PROXIES = {
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
    *range(520, 531),
}
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NOT_REGISTERED = re.compile(
    r'The requested webhook ".*" is not registered\.|This webhook is not registered for '
)


class Fate(Enum):
    """What is known of the run that was asked for."""

    NEVER_SENT = "never_sent"
    """No byte of the request left: it may be sent again."""
    REFUSED = "refused"
    """n8n answered, without starting the workflow."""
    FAILED = "failed"
    """The workflow was started, and has ended."""
    UNKNOWN = "unknown"
    """Sent, and nobody knows: the workflow may run on to its success."""


class N8nFault(Exception):
    """Beside the RpcError of its code: what is known of the run."""

    fate: Fate = Fate.UNKNOWN

    @property
    def sent(self) -> bool:
        """Whether n8n may have received the request."""
        return self.fate is not Fate.NEVER_SENT


class N8nUnavailable(N8nFault, Unavailable):
    """n8n is away, or went away."""


class N8nFailedPrecondition(N8nFault, FailedPrecondition):
    """n8n and the gateway are not set up for each other."""


class N8nWithheld(N8nFailedPrecondition):
    """Nothing was sent, because whoever wanted it sent does not any more."""


class N8nInvalidArgument(N8nFault, InvalidArgument):
    """The path or the input is not acceptable."""


class N8nUnknown(N8nFault, Unknown):
    """The workflow failed, or its answer cannot be read."""


class N8nCancelled(N8nFault, Cancelled):
    """The run was stopped in n8n."""


class N8nDeadlineExceeded(N8nFault, DeadlineExceeded):
    """The run took too long, for n8n or for the gateway."""


class N8nResourceExhausted(N8nFault, ResourceExhausted):
    """The answer is over a limit."""


_Made = TypeVar("_Made", bound=N8nFault)


def fault(made: _Made, fate: Fate) -> _Made:
    """Give a fault its fate."""
    made.fate = fate
    return made


def unreachable() -> N8nUnavailable:
    """Say that there is no connection: refused, no such name, no route, TLS, connect timeout."""
    message = "n8n cannot be reached."
    made = N8nUnavailable(message, reason="N8N_UNREACHABLE", retry_after=_UNREACHABLE_SECONDS)
    return fault(made, Fate.NEVER_SENT)


def circuit_open(seconds: float) -> N8nUnavailable:
    """Say that n8n was away a moment ago, and is asked again in so many seconds."""
    message = "n8n does not answer at the moment."
    made = N8nUnavailable(message, reason="N8N_CIRCUIT_OPEN", retry_after=seconds)
    return fault(made, Fate.NEVER_SENT)


def address_refused() -> N8nFailedPrecondition:
    """Say that n8n's name leads to an address that the gateway does not connect to."""
    message = "The address of this n8n is not public, and the gateway does not allow it."
    return fault(N8nFailedPrecondition(message, reason="N8N_ADDRESS_REFUSED"), Fate.NEVER_SENT)


def withheld() -> N8nWithheld:
    """Say that `may_send` said no."""
    message = "The run was not sent to n8n: it took too long until it could be."
    return fault(N8nWithheld(message, reason="N8N_WITHHELD"), Fate.NEVER_SENT)


def busy() -> N8nUnavailable:
    """Say that all connections are in use, and none came free in time."""
    message = "All connections to n8n are in use."
    made = N8nUnavailable(message, reason="N8N_BUSY", retry_after=_BUSY_SECONDS)
    return fault(made, Fate.NEVER_SENT)


def starting() -> N8nUnavailable:
    """Say that n8n answers, but serves no webhooks yet."""
    message = "n8n is starting."
    made = N8nUnavailable(message, reason="N8N_STARTING", retry_after=_STARTING_SECONDS)
    return fault(made, Fate.REFUSED)


def connection_lost() -> N8nUnavailable:
    """Say that the connection ended before the answer did.

    There is no `retry_after`: the workflow may have run, so it is not to be called again blindly.
    """
    message = "The connection to n8n was lost before the end of its answer."
    return fault(N8nUnavailable(message, reason="N8N_CONNECTION_LOST"), Fate.UNKNOWN)


def proxy_error(status: int, open_question: str = "the workflow was started") -> N8nUnavailable:
    """Say that something before n8n answered in its place, with or without having asked it."""
    message = f"What stands before n8n answered {status}: whether {open_question} is not known."
    metadata = {"n8n_status": str(status)}
    return fault(N8nUnavailable(message, reason=_PROXY_ERROR, metadata=metadata), Fate.UNKNOWN)


def timed_out(reason: str, seconds: float, fate: Fate = Fate.UNKNOWN) -> N8nDeadlineExceeded:
    """Make a N8N_FIRST_BYTE_TIMEOUT, N8N_IDLE_TIMEOUT or N8N_TIMEOUT, after `seconds`."""
    what = {
        "N8N_FIRST_BYTE_TIMEOUT": "n8n did not begin to answer",
        "N8N_IDLE_TIMEOUT": "n8n sent nothing more",
        "N8N_TIMEOUT": "The run did not end",
    }[reason]
    return fault(N8nDeadlineExceeded(f"{what} within {seconds:g} seconds.", reason=reason), fate)


def too_large(what: str) -> N8nResourceExhausted:
    """Say that the answer is over a limit, and which."""
    message = f"n8n's answer is too large: {what}."
    return fault(N8nResourceExhausted(message, reason="N8N_RESPONSE_TOO_LARGE"), Fate.UNKNOWN)


def malformed(what: str) -> N8nUnknown:
    """Say that the answer cannot be read, and why."""
    message = f"n8n's answer cannot be read: {what}."
    return fault(N8nUnknown(message, reason="N8N_MALFORMED_RESPONSE"), Fate.UNKNOWN)


def not_a_stream(status: int) -> N8nFailedPrecondition:
    """Say that the answer is a document where a stream is expected. The workflow has run, or still does."""
    message = (
        "n8n's answer is not a stream, as the workflow's response_mode expects it: "
        "let its webhook respond with streaming in n8n, or change the mode."
    )
    metadata = {"n8n_status": str(status)}
    made = N8nFailedPrecondition(message, reason="N8N_RESPONSE_MISMATCH", metadata=metadata)
    return fault(made, Fate.FAILED)


def is_starting_page(headers: Mapping[str, str], body: bytes) -> bool:
    """Tell n8n's own answer of status 200, to every path, while it migrates its database."""
    return body == _STARTING_PAGE and not _is_by_workflow(headers)


def _is_by_workflow(headers: Mapping[str, str]) -> bool:
    """What a workflow sends has a Content-Security-Policy with `sandbox`, n8n's own answers have not."""
    return "sandbox" in headers.get("Content-Security-Policy", "")


class _Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes
    message: str
    metadata: dict[str, str]


def of_answer(status: int, headers: Mapping[str, str], body: bytes) -> N8nFault:
    """Tell what an answer other than 2xx means.

    A Respond node may choose any status, so n8n's own answers are told by their form. What a
    workflow sends has a Content-Security-Policy with `sandbox`, which n8n's own answers have not,
    nor those of a proxy. An error of a server that is neither's leaves open what became of the run.
    """
    message = _message(headers, body)
    metadata = {"n8n_status": str(status)}
    if message:
        metadata["n8n_message"] = message
    if not _is_by_workflow(headers):
        answer = _Answer(status, headers, body, message, metadata)
        for judge in _JUDGES:
            made = judge(answer)
            if made is not None:
                return made
    text = f"The workflow failed: {message or f'n8n answered {status}'}"
    return fault(N8nUnknown(text, reason="WORKFLOW_FAILED", metadata=metadata), Fate.FAILED)


def of_stop(status: int, headers: Mapping[str, str], body: bytes) -> N8nFault:
    """Tell what an answer to a stop means that is none of those that n8n documents."""
    made = of_answer(status, headers, body)
    if isinstance(made, N8nUnavailable):
        return proxy_error(status, "the run was stopped") if made.reason == _PROXY_ERROR else made
    text = f"n8n could not stop the run: it answered {status}."
    stop_failed = N8nUnknown(text, reason="N8N_STOP_FAILED", metadata={"n8n_status": str(status)})
    return fault(stop_failed, Fate.UNKNOWN)


def _not_registered(answer: _Answer) -> N8nFault | None:
    if answer.status != HTTPStatus.NOT_FOUND or not _NOT_REGISTERED.match(answer.message):
        return None
    text = "n8n does not know this webhook: activate the workflow in n8n, and check its webhook_path."
    return _precondition(text, "N8N_WEBHOOK_NOT_REGISTERED", answer)


def _away(answer: _Answer) -> N8nFault | None:
    if answer.status == HTTPStatus.SERVICE_UNAVAILABLE and answer.message == _NO_DATABASE:
        return starting()
    if answer.status == HTTPStatus.NOT_FOUND and b"<pre>Cannot POST /" in answer.body:
        return starting()
    if answer.status in _OF_PROXIES:
        return proxy_error(answer.status)
    return None


def _auth_rejected(answer: _Answer) -> N8nFault | None:
    said = answer.message == "Authorization data is wrong!" or 'realm="Webhook"' in answer.headers.get(
        "WWW-Authenticate", ""
    )
    if answer.status not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN} or not said:
        return None
    text = (
        "n8n rejects the gateway: N8N_INTERNAL_AUTH_SECRET must match "
        "the header auth credential of the workflow's webhook."
    )
    return _precondition(text, "N8N_AUTH_REJECTED", answer)


def _input_rejected(answer: _Answer) -> N8nFault | None:
    if answer.status not in {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}:
        return None
    text = f"n8n rejects the input: {answer.message or f'it answered {answer.status}'}"
    made = N8nInvalidArgument(text, reason="N8N_REJECTED_INPUT", metadata=answer.metadata)
    return fault(made, Fate.REFUSED)


def _redirected(answer: _Answer) -> N8nFault | None:
    if not HTTPStatus.MULTIPLE_CHOICES <= answer.status < HTTPStatus.BAD_REQUEST:
        return None
    text = "n8n answers with a redirect: its base URL must be the address that n8n itself serves."
    return _precondition(text, "N8N_REDIRECTED", answer)


def _ended_by_n8n(answer: _Answer) -> N8nFault | None:
    if not answer.message.startswith("The execution was cancelled"):
        return None
    if "timed out" in answer.message:
        text = "The run exceeded n8n's own time limit."
        late = N8nDeadlineExceeded(text, reason="WORKFLOW_TIMED_OUT", metadata=answer.metadata)
        return fault(late, Fate.FAILED)
    text = "The run was stopped in n8n."
    stopped = N8nCancelled(text, reason="WORKFLOW_CANCELLED", metadata=answer.metadata)
    return fault(stopped, Fate.FAILED)


def _unknown(answer: _Answer) -> N8nFault | None:
    if answer.status < HTTPStatus.INTERNAL_SERVER_ERROR or answer.body.startswith(_ERROR_BEGINS):
        return None
    made = malformed(f"it has the status {answer.status}, and not the form of n8n's errors")
    made.metadata |= answer.metadata
    return made


_JUDGES = (_not_registered, _away, _auth_rejected, _input_rejected, _redirected, _ended_by_n8n, _unknown)


def _precondition(text: str, reason: str, answer: _Answer) -> N8nFailedPrecondition:
    made = N8nFailedPrecondition(text, reason=reason, metadata=answer.metadata)
    return fault(made, Fate.REFUSED)


def _message(headers: Mapping[str, str], body: bytes) -> str:
    """Give n8n's `message`, or a short plain text; never its `stacktrace` or `hint`."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        if not headers.get("Content-Type", "text/plain").startswith("text/plain"):
            return ""
        value = {"message": body.decode("utf-8", "replace")}
    message = value.get("message") if isinstance(value, dict) else None
    return _CONTROLS.sub(" ", message).strip()[:_MESSAGE_LENGTH] if isinstance(message, str) else ""
