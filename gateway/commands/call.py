"""The command `n8n-gateway call`: any method of the API, through any door."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn, cast
from urllib.parse import urlsplit
from uuid import UUID

import orjson
import typer
from protobuf import DescMethod, Message
from rich.console import Console
from rich.markup import escape

from gateway.client.caller import Caller, Endpoint, Request
from gateway.client.failure import CallError
from gateway.client.methods import METHODS, UnknownMethod, completions, find_method, full_name, rest_binding
from gateway.commands import given
from gateway.transcoding import JsonDecoder, JsonError
from gateway.transcoding.fields import is_http_body

_INTERRUPTED = 130
_MOST_SECONDS = 9_999_999  # as milliseconds the ten digits that Connect has for it
# C0 but tab and newline, DEL and C1 (ECMA-48), in UTF-8.
_CONTROLS = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")

Headers = list[tuple[str, str]]


class Protocol(StrEnum):
    """A door of the gateway."""

    CONNECT = "connect"
    REST = "rest"
    GRPC = "grpc"
    GRPC_WEB = "grpc-web"


Calls = Callable[[Request], AsyncGenerator[bytes, None]]


def _calls(protocol: Protocol) -> Calls:
    """The door's own way, imported for it alone: the three together take most of a second."""
    match protocol:
        case Protocol.REST:
            from gateway.client.rest import call as rest  # noqa: PLC0415

            return rest
        case Protocol.GRPC:
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or it tells of failures in its own words, too
            from gateway.client.grpc import call as grpc  # noqa: PLC0415

            return grpc
        case Protocol.CONNECT | Protocol.GRPC_WEB:
            from gateway.client.connect import call as connect  # noqa: PLC0415

            return partial(connect, web=protocol is Protocol.GRPC_WEB)


def call(  # noqa: PLR0913 - one parameter for each option
    method: Annotated[
        str | None,
        typer.Argument(help="Such as Execute, or ExecutionService/Execute.", autocompletion=completions),
    ] = None,
    *,
    data: Annotated[
        str,
        typer.Option(
            "--data", "-d", callback=given.text, help="The request as JSON; @FILE, or @- for standard input."
        ),
    ] = "{}",
    protocol: Annotated[Protocol, typer.Option(help="The door.")] = Protocol.CONNECT,
    url: Annotated[
        str, typer.Option(envvar="N8N_GATEWAY_URL", help="The gateway, but for gRPC.")
    ] = "http://127.0.0.1:8000",
    grpc_url: Annotated[
        str, typer.Option(envvar="N8N_GATEWAY_GRPC_URL", help="The gateway for gRPC.")
    ] = "http://127.0.0.1:50051",
    token: Annotated[str | None, given.secret_option("N8N_GATEWAY_TOKEN", "A session token")] = None,
    api_key: Annotated[str | None, given.secret_option("N8N_GATEWAY_API_KEY", "An API key")] = None,
    client_secret: Annotated[
        str | None, given.secret_option("N8N_GATEWAY_CLIENT_SECRET", "The API key's, which signs the request")
    ] = None,
    platform_token: Annotated[
        str | None, given.secret_option("N8N_GATEWAY_PLATFORM_TOKEN", "The platform's token")
    ] = None,
    tenant: Annotated[
        UUID | None, typer.Option(envvar="N8N_GATEWAY_TENANT", help="The organization's id, as X-Tenant-ID.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header",
            "-H",
            callback=given.headers,
            help="'Name: value', or @FILE with such lines.",
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, max=_MOST_SECONDS, help="Seconds until it has to end.")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(help="PEM: whom to believe, not the system's CAs.")] = None,
    cert_file: Annotated[Path | None, typer.Option(help="PEM: a certificate to show.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="PEM: its key.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the headers, without secrets, on standard error.")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the methods.")] = False,
) -> None:
    """Call a method of the API, and print the answer as JSON, a stream's as one line for each message.

    Exits with 0 for OK, with 64 and the code of the status for any other (NOT_FOUND: 69).
    """
    if list_:
        _list()
        return
    if method is None:
        raise typer.BadParameter("is missing; --list shows all", param_hint="METHOD")
    try:
        found = find_method(method)
    except UnknownMethod as error:
        raise typer.BadParameter(str(error), param_hint="METHOD") from None
    if client_secret is not None and api_key is None:
        raise typer.BadParameter("signs for an API key, and none is given", param_hint="--client-secret")
    caller = Caller(
        token, api_key, client_secret, platform_token, str(tenant or ""), cast("Headers", header or [])
    )
    message = _message(found, cast("bytes", data))
    base = _base("--grpc-url", grpc_url) if protocol is Protocol.GRPC else _base("--url", url)
    endpoint = Endpoint(base, ca_file, cert_file, key_file)
    trace = _trace if verbose else _silence
    _end(Request(found, message, caller, endpoint, timeout, trace), _calls(protocol))


def _end(request: Request, calls: Calls) -> NoReturn:
    """Make the call, print what comes, and end the process as it ends.

    Threads of HTTP clients may be left then, and abort the process at the interpreter's own end: it has none.
    """
    status = 0
    try:
        asyncio.run(_printed(request, calls))
    except CallError as error:
        first, *facts = error.lines()
        _tell("\n  ".join([f"[red]error:[/] {_harmless(first)}", *map(_harmless, facts)]))
        status = error.exit_status
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BrokenPipeError:
        status = 1  # whoever read has seen enough
    except OSError as error:
        _tell(f"[red]error:[/] the answer cannot be written: {error.strerror}")
        status = 1
    os._exit(status)


async def _printed(request: Request, calls: Calls) -> None:
    is_bytes = is_http_body(request.method.output)
    is_unary = request.method.method_kind == "unary"
    async with aclosing(calls(request)) as parts:
        async for part in parts:
            sys.stdout.buffer.write(part if is_bytes else _shown(part, indent=is_unary))
            sys.stdout.buffer.flush()


def _shown(json: bytes, *, indent: bool) -> bytes:
    """JSON for a terminal, which takes some characters for commands that JSON leaves as they are.

    A stream's lines are shown as they came, and may be no JSON where the server is no gateway.
    """
    text = orjson.dumps(orjson.loads(json), option=orjson.OPT_INDENT_2) if indent else json
    return _CONTROLS.sub(lambda control: b"\\u%04x" % ord(control[0].decode()), text) + b"\n"


def _message(method: DescMethod, text: bytes) -> Message:
    """The request. Raises BadParameter."""
    try:
        return JsonDecoder(method.input).decode(text)
    except JsonError as error:
        problem = f"{error.field}: {error.problem}" if error.field else error.problem
        raise typer.BadParameter(problem, param_hint="--data") from None


def _base(option: str, url: str) -> str:
    """The URL without a slash at its end. Raises BadParameter."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port)
    except ValueError:
        valid = False
    if not valid or "@" in parts.netloc or parts.query or parts.fragment:
        raise typer.BadParameter(
            "must look like http://127.0.0.1:8000, or https://… for TLS", param_hint=option
        )
    return url.rstrip("/")


def _list() -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(full_name(method)) for method in METHODS)
    for method in METHODS:
        rule = rest_binding(method)
        console.print(f"{full_name(method):{width}}  {rule.http_method:6} {rule.template}", markup=False)


def _harmless(text: str) -> str:
    """Text from elsewhere, without what a terminal or rich would take for more than text."""
    return escape("".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text))


def _tell(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def _trace(mark: str, line: str, headers: Iterable[tuple[str, str]]) -> None:
    told = [line, *(f"{name}: {value}" for name, value in headers)]
    _tell("\n".join(_harmless(f"{mark} {text}") for text in told))


def _silence(_mark: str, _line: str, _headers: Iterable[tuple[str, str]]) -> None:
    pass
