"""What `n8n-gateway sign` signs: one request, as another program will send it."""

from __future__ import annotations

import secrets
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from gateway.rpc.api_keys import parse_key
from gateway.rpc.signature import SignedRequest, Version, signed_headers

_STANDARD_INPUT = "-"


class RequestError(Exception):
    """The arguments do not say what to sign; the message holds no secret."""


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
        if content_type is None:
            content_type = "application/json" if has_body else ""
        return cls(url, method, content_type, tenant, body, data_file)

    @property
    def target(self) -> str:
        """Path and query, as a client sends them: without what follows a `#`."""
        try:
            parts = urlsplit(self.url)
        except ValueError:
            raise RequestError("the URL is malformed") from None
        path = parts.path or "/"
        if not path.startswith("/") or not self.url.isascii() or " " in self.url:
            msg = "the target is a URL or begins with /, percent-encoded as it is sent"
            raise RequestError(msg)
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


def as_curl(request: Request, headers: dict[str, str]) -> str:
    """A command for a POSIX shell that sends the request. Raises RequestError."""
    if "://" not in request.url:
        raise RequestError("curl needs a URL")
    command = ["curl", "-sS", "-X", request.method, request.url]
    for name, value in headers.items():
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
    return shlex.join(command) + "\n"


def _read(data_file: str | None) -> bytes:
    if data_file is None:
        return b""
    if data_file == _STANDARD_INPUT:
        return sys.stdin.buffer.read()
    try:
        return Path(data_file).read_bytes()
    except OSError as error:
        raise RequestError(f"{data_file} cannot be read: {error.strerror}") from None
