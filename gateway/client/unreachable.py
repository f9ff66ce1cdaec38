"""Why a server gave no answer, in the same words for every HTTP library: one connection more finds it out."""

from __future__ import annotations

import asyncio
import socket
import ssl
from urllib.parse import urlsplit

from gateway.client.caller import Endpoint
from gateway.client.failure import CallError
from gateway.rpc.errors import Code

_SECONDS = 3.0


async def unreachable(endpoint: Endpoint) -> CallError:
    """UNAVAILABLE, with what is wrong on the way to the server and what is to be done."""
    try:
        tls = endpoint.tls() if endpoint.is_encrypted else None
    except OSError as error:
        message = f"The files given for TLS cannot be used: {error.strerror or error}."
        return CallError(Code.UNAVAILABLE, message)
    parts = urlsplit(endpoint.url)
    try:
        async with asyncio.timeout(_SECONDS):
            _, writer = await asyncio.open_connection(
                parts.hostname, parts.port or (443 if tls else 80), ssl=tls
            )
        writer.close()
    except OSError as error:
        return CallError(Code.UNAVAILABLE, _problem(endpoint.url, error))
    return CallError(Code.UNAVAILABLE, _problem(endpoint.url, None))


def _problem(url: str, error: OSError | None) -> str:
    """What the connection came to, and what is to be done; no error where it was made."""
    elsewhere = "name its address with --url, or with --grpc-url for gRPC"
    match error:
        case None:
            told = f"{url} broke the connection off: call again, or, if no gateway is there, {elsewhere}"
        case ConnectionRefusedError():
            told = f"Nothing listens at {url}: start the gateway there, or {elsewhere}"
        case TimeoutError():
            told = f"Nothing answers at {url}: see whether it can be reached from here, or {elsewhere}"
        case socket.gaierror():
            told = f"The host of {url} is not known: see whether it is spelled right, or {elsewhere}"
        case ssl.SSLCertVerificationError():
            told = f"{url} is not trusted ({error.verify_message}): give its authority with --ca-file"
        case ssl.SSLError():
            told = f"{url} does not speak TLS as asked ({error.reason}): http:// is for a gateway without TLS"
        case _:
            told = f"{url} cannot be reached ({error.strerror or error}): mend that, or {elsewhere}"
    return f"{told}."
