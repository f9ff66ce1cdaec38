"""HTTP as n8n 2.41 answers it: the headers and their order, ETags, gzip, the body of every refusal."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from urllib.parse import parse_qsl

from aiohttp import web

from gateway.local.demo_workflows import to_json

JSON_TYPE = "application/json; charset=utf-8"
SANDBOX = (
    "sandbox allow-downloads allow-forms allow-modals allow-orientation-lock allow-pointer-lock allow-popups "
    "allow-popups-to-escape-sandbox allow-presentation allow-scripts allow-top-navigation-by-user-activation "
    "allow-top-navigation-to-custom-protocols"
)
HINT_INACTIVE = (
    "The workflow must be active for a production URL to run successfully. You can activate the workflow "
    "using the toggle in the top-right of the editor. Note that unlike test URL calls, production URL calls "
    "aren't shown on the canvas (only in the executions list)"
)
BODY_LIMIT = 16 << 20

_Headers = tuple[tuple[str, str], ...]
_GZIP = 16 + zlib.MAX_WBITS
_COMPRESSED_FROM = 1024
_HEADERS_KEY = web.RequestKey("n8n_headers", tuple)
_LARGEST_PLAIN_NUMBER = 1e21
"""From here on JSON.stringify writes an exponent."""


class BadBody(Exception):
    """The request body is not what its type says; the text is n8n's hint."""


class Refusal(Exception):
    """An error that n8n answers with a JSON object."""

    def __init__(self, status: int, body: dict[str, object]) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


async def send_json(
    request: web.Request, value: object, *, status: int = 200, before: _Headers = (), vary: bool = True
) -> web.StreamResponse:
    """Answer with JSON; `before` are the headers that come first."""
    body = to_json(value).encode("utf-8", "backslashreplace")
    headers = (*before, ("Content-Type", JSON_TYPE))
    if vary and len(body) >= _COMPRESSED_FROM and _accepts_gzip(request):
        trailing = (("ETag", etag(body)), ("Vary", "Accept-Encoding"), ("Content-Encoding", "gzip"))
        response = await _begin(request, status, (*headers, *trailing), chunked=True)
        compressor = zlib.compressobj(wbits=_GZIP)
        await response.write(compressor.compress(body) + compressor.flush())
        await response.write_eof()
        return response
    length = (("Content-Length", str(len(body))), ("ETag", etag(body)))
    return await _send(request, status, (*headers, *length, *((("Vary", "Accept-Encoding"),) * vary)), body)


async def send_html_not_found(request: web.Request) -> web.StreamResponse:
    """Answer as n8n's router does where nothing is."""
    path = request.path.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    body = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n'
        f"<body>\n<pre>Cannot {request.method} {path}</pre>\n</body>\n</html>\n"
    ).encode()
    headers = (
        ("Content-Security-Policy", "default-src 'none'"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Vary", "Accept-Encoding"),
    )
    return await _send(request, 404, headers, body)


async def send_wrong_authorization(request: web.Request) -> web.StreamResponse:
    """Answer as a webhook with header auth does: 403, chunked text, no Content-Type."""
    response = await _begin(request, 403, (("WWW-Authenticate", 'Basic realm="Webhook"'),), chunked=True)
    await response.write(b"Authorization data is wrong!")
    await response.write_eof()
    return response


async def send_options(request: web.Request, allowed: str | None) -> web.StreamResponse:
    """Answer a preflight: any origin is reflected."""
    origin = request.headers.get("Origin")
    wanted = request.headers.get("Access-Control-Request-Headers")
    headers: _Headers = ()
    if allowed is not None and origin is not None:
        headers = (
            ("Access-Control-Allow-Methods", f"OPTIONS, {allowed}"),
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Max-Age", "300"),
            *((("Access-Control-Allow-Headers", wanted),) if wanted else ()),
        )
    return await _send(request, 204, (*headers, ("ETag", 'W/"2-vyGp6PvFo4RvsFtPoIWeCReyIC8"')), b"")


class LineStream:
    """A streaming answer: its head goes out at once, then one JSON object a line, each in its own chunk."""

    def __init__(self, response: web.StreamResponse, *, gzip: bool) -> None:
        self._response = response
        self._compressor = zlib.compressobj(wbits=_GZIP) if gzip else None

    @classmethod
    async def open(cls, request: web.Request) -> LineStream:
        """Send the head of the answer."""
        gzip = _accepts_gzip(request)
        headers = (
            ("Content-Type", JSON_TYPE),
            ("Transfer-Encoding", "chunked"),
            ("Cache-Control", "no-cache"),
            ("Connection", "keep-alive"),
            ("Vary", "Accept-Encoding"),
            *((("Content-Encoding", "gzip"),) if gzip else ()),
        )
        return cls(await _begin(request, 200, headers, chunked=True), gzip=gzip)

    async def write(self, line: object) -> None:
        """Send one line, at once."""
        data = to_json(line).encode("utf-8", "backslashreplace") + b"\n"
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        await self._response.write(data)

    async def close(self) -> web.StreamResponse:
        """End the answer cleanly."""
        if self._compressor is not None:
            await self._response.write(self._compressor.flush())
        await self._response.write_eof()
        return self._response


async def read_body(request: web.Request) -> object:
    """Parse the request body by its Content-Type; none, or one of an unknown type, is an empty object.

    Raises BadBody if it does not parse, Refusal if it is over 16 MiB.
    """
    try:
        data = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise Refusal(500, {"code": 0, "message": "There was a problem executing the workflow"}) from None
    text = data.decode("utf-8", "replace")
    match request.content_type:
        case "application/json" if text:
            return _parse_json(text)
        case "application/x-www-form-urlencoded":
            return dict(parse_qsl(text, keep_blank_values=True))
        case "text/plain" if text:
            return text
    return {}


async def replace_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Put n8n's headers, in n8n's order, in place of the HTTP library's (signal on_response_prepare)."""
    wanted: _Headers | None = request.get(_HEADERS_KEY)
    if wanted is None:
        return
    date = response.headers.get("Date", "")
    names = {name for name, _ in wanted}
    response.headers.clear()
    for name, value in wanted:
        response.headers.add(name, value)
    response.headers.add("Date", date)
    if "Connection" not in names:
        _add_connection(request, response)
    if response.chunked and "Transfer-Encoding" not in names:
        response.headers.add("Transfer-Encoding", "chunked")


def etag(body: bytes) -> str:
    """Return the weak ETag that Express computes: length in hex, 27 characters of the SHA-1 in base64."""
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()
    return f'W/"{len(body):x}-{digest[:27]}"'


def _add_connection(request: web.Request, response: web.StreamResponse) -> None:
    if request.keep_alive:
        response.headers.add("Connection", "keep-alive")
        response.headers.add("Keep-Alive", "timeout=5")
    else:
        response.headers.add("Connection", "close")


def _accepts_gzip(request: web.Request) -> bool:
    codings = (item.split(";") for item in request.headers.get("Accept-Encoding", "").lower().split(","))
    return any(
        name.strip() == "gzip" and not any(option.strip() in {"q=0", "q=0.0"} for option in options)
        for name, *options in codings
    )


async def _begin(
    request: web.Request, status: int, headers: _Headers, *, chunked: bool
) -> web.StreamResponse:
    request[_HEADERS_KEY] = headers
    response = web.StreamResponse(status=status)
    if chunked:
        response.enable_chunked_encoding()
    await response.prepare(request)
    return response


async def _send(request: web.Request, status: int, headers: _Headers, body: bytes) -> web.StreamResponse:
    request[_HEADERS_KEY] = headers
    return web.Response(status=status, body=body)


def _parse_json(text: str) -> object:
    try:
        return json.loads(text, parse_float=_javascript_number, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadBody(_hint(error)) from error
    except (ValueError, RecursionError) as error:
        msg = f"Unexpected token in JSON: {error}"
        raise BadBody(msg) from error


def _javascript_number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < _LARGEST_PLAIN_NUMBER else number


def _refuse_constant(name: str) -> object:
    msg = f"'{name}' is not valid JSON"
    raise ValueError(msg)


def _hint(error: json.JSONDecodeError) -> str:
    if error.pos >= len(error.doc):
        return "Unexpected end of JSON input"
    where = f"in JSON at position {error.pos} (line {error.lineno} column {error.colno})"
    if error.msg.startswith("Expecting property name"):
        return f"Expected property name or '}}' {where}"
    return f"Unexpected token '{error.doc[error.pos]}' {where}"
