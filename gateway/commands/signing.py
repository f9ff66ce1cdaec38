"""The command `n8n-gateway sign`: one request is signed, as another program will send it."""

from __future__ import annotations

import secrets
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

import typer

from gateway.commands import given
from gateway.rpc.api_keys import parse_key
from gateway.rpc.signature import SignedRequest, Version, signed_headers

_STANDARD_INPUT = "-"


class RequestError(Exception):
    """The arguments do not say what to sign; the message holds no secret."""


def sign(  # noqa: PLR0913 - one parameter for each option
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="URL of the request; over gRPC /package.Service/Method.")],
    *,
    api_key: Annotated[str, given.secret_option("N8N_GATEWAY_API_KEY", "An API key")],
    client_secret: Annotated[
        str | None, given.secret_option("N8N_GATEWAY_CLIENT_SECRET", "The API key's, which signs the request")
    ] = None,
    client_secret_file: Annotated[Path | None, typer.Option(help="A file that holds it.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", help="The body.")] = None,
    data_file: Annotated[
        str | None, typer.Option(callback=given.file, help="A file with the body; - for standard input.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", "-X", help="POST with a body, GET without.")
    ] = None,
    content_type: Annotated[str | None, typer.Option(help="application/json with a body.")] = None,
    tenant: Annotated[UUID | None, typer.Option(help="The organization's id, as X-Tenant-ID.")] = None,
    version: Annotated[int, typer.Option(min=1, max=2, help="Of the signature.")] = 2,
    curl: Annotated[
        bool,
        typer.Option("--curl", help="Print a command for curl, which finds the API key where this one does."),
    ] = False,
) -> None:
    """Sign one request with an API key's client secret; print its headers, as `curl -H @-` takes them."""
    request = Request.of(
        target, data, data_file, method=method, content_type=content_type, tenant=str(tenant or "")
    )
    secret = _client_secret(client_secret, client_secret_file)
    headers = request.sign(api_key, secret, 1 if version == 1 else 2)
    if curl:
        sys.stdout.write(as_curl(request, headers, api_key=given.in_shell(context, "api_key")))
    else:
        sys.stdout.write("".join(f"{name}: {value}\n" for name, value in headers.items()))


@dataclass(frozen=True, slots=True)
class Request:
    """A request to sign, and where its body comes from."""

    url: str
    method: str
    content_type: str
    tenant: str
    body: bytes
    data_file: str | None

    @classmethod
    def of(
        cls,
        url: str,
        data: str | None,
        data_file: str | None,
        *,
        method: str | None,
        content_type: str | None,
        tenant: str,
    ) -> Request:
        """Raises RequestError."""
        if data is not None and data_file is not None:
            raise RequestError("give --data or --data-file, not both")
        body = data.encode() if data is not None else _read(data_file)
        has_body = data is not None or data_file is not None
        method = (method or ("POST" if has_body else "GET")).upper()
        if not (method.isascii() and method.isalpha()):
            raise RequestError("the method is a word such as PATCH")
        if content_type is None:
            content_type = "application/json" if has_body else ""
        if not (content_type.isascii() and content_type.isprintable()):
            raise RequestError("the content type is one line of ASCII characters")
        return cls(url, method, content_type, tenant, body, data_file)

    @property
    def target(self) -> str:
        """Path and query, as a client sends them: without what follows a `#`."""
        try:
            parts = urlsplit(self.url)
        except ValueError:
            raise RequestError("the URL is malformed") from None
        is_encoded = self.url.isascii() and self.url.isprintable() and " " not in self.url
        if not is_encoded or not (self.url.startswith("/") or parts.netloc):
            msg = "the target is a URL or begins with /, percent-encoded as it is sent"
            raise RequestError(msg)
        if "@" in parts.netloc:
            raise RequestError("the URL names a user, and the API key says who calls")
        path = parts.path or "/"
        return f"{path}?{parts.query}" if parts.query else path

    def sign(self, api_key: str, client_secret: str, version: Version) -> dict[str, str]:
        """The headers to send along. Raises RequestError."""
        parsed = parse_key(api_key)
        if parsed is None:
            raise RequestError("the API key has not the form of one: gw_live_…_…")
        if not client_secret:
            raise RequestError("the client secret is empty")
        request = SignedRequest(
            timestamp=str(int(time.time())),
            nonce=secrets.token_urlsafe(16),
            tenant=self.tenant,
            key_id=parsed[0],
            http_method=self.method,
            target=self.target,
            content_type=self.content_type,
            message=self.body,
        )
        return signed_headers(request, api_key, client_secret, version)


def as_curl(request: Request, headers: dict[str, str], *, api_key: str) -> str:
    """A command for a POSIX shell that sends the request. Raises RequestError.

    `api_key` is the word that the shell expands to it. It goes to curl through a pipe, from a command of the
    shell's own: what is on curl's command line everybody on the machine would see.
    """
    if "://" not in request.url:
        raise RequestError("curl needs a URL")
    method = ["--head"] if request.method == "HEAD" else ["-X", request.method]
    command = ["curl", "-sS", *method, request.url, "-H", "@-"]
    for name, value in headers.items():
        if name != "X-API-Key":
            command += ["-H", f"{name}: {value}"]
    if request.data_file is not None and request.data_file != _STANDARD_INPUT:
        command += ["--data-binary", f"@{request.data_file}"]
    elif request.body:
        try:
            text = request.body.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text or text.startswith("@"):
            raise RequestError("such a body does not fit into a command: give it as --data-file")
        command += ["--data-binary", text]
    return f"printf 'X-API-Key: %s\\n' {api_key} | {shlex.join(command)}\n"


def _read(data_file: str | None) -> bytes:
    if data_file is None:
        return b""
    if data_file == _STANDARD_INPUT:
        return sys.stdin.buffer.read()
    try:
        return Path(data_file).read_bytes()
    except OSError as error:
        raise RequestError(f"{data_file} cannot be read: {error.strerror}") from None


def _client_secret(text: str | None, file: Path | None) -> str:
    if text is not None:
        return text
    if file is None:
        msg = "the client secret is missing: set N8N_GATEWAY_CLIENT_SECRET or --client-secret-file"
        raise RequestError(msg)
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise RequestError(f"{file} cannot be read as the file of a client secret") from None
