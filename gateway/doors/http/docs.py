"""`/openapi.json`, and a page at `/docs` that shows it, to which `/` leads.

All files come from this installation.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib.resources
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from gateway.doors.description import describe_api
from gateway.transcoding.conditional import entity_tag, none_match
from gateway.transcoding.negotiation import accepts_gzip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from importlib.abc import Traversable

    from gateway.doors.asgi import Receive, Scope, Send

FIRST_SEGMENTS = ("docs", "openapi.json")
"""The first segments of the paths that are served here."""

_PAGE = b"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>n8n-gateway API</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = b"""\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "none",
  validatorUrl: null,
});
"""
_WELCOME = "n8n-gateway: /docs shows the API, /openapi.json describes it, /api/v1/health tells how it is\n"
# The style sheet has its images in itself.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _Missing(Exception):
    """The files of the page are not in this installation."""


@dataclass
class _Resource:
    """A file, read when it is first asked for."""

    media_type: str
    read: Callable[[], bytes]

    @cached_property
    def body(self) -> bytes:
        return self.read()

    @cached_property
    def tag(self) -> bytes:
        return entity_tag(self.body)

    @cached_property
    def compressed(self) -> bytes:
        return gzip.compress(self.body, mtime=0)

    def response(self, headers: Headers) -> Response:
        """The file, or 304 when the caller has it. Raises _Missing."""
        kept = {"etag": self.tag.decode(), "cache-control": "no-cache", "vary": "accept-encoding"}
        kept["content-security-policy"] = _POLICY
        wanted = headers.get("if-none-match", "")
        if wanted and none_match(wanted.encode("latin-1"), self.tag):
            return Response(status_code=304, headers=kept)
        body = self.body
        if accepts_gzip(headers.get("accept-encoding", "").encode("latin-1")):
            body = self.compressed
            kept["content-encoding"] = "gzip"
        return Response(body, headers=kept, media_type=self.media_type)


def _vendored(name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return (_swagger_ui() / name).read_bytes()
        except (PackageNotFoundError, FileNotFoundError) as error:
            raise _Missing from error

    return read


def _swagger_ui() -> Traversable:
    """Where Swagger UI is: inside the package in a wheel, in the package it is built from in a checkout."""
    packaged = importlib.resources.files("gateway") / "_swagger_ui"
    if packaged.is_dir():
        return packaged
    return Path(str(distribution("flask-swagger-ui").locate_file("flask_swagger_ui"))) / "dist"


_RESOURCES: Mapping[str, _Resource] = {
    "/openapi.json": _Resource("application/json", describe_api),
    "/docs": _Resource("text/html", lambda: _PAGE),
    "/docs/start.js": _Resource("text/javascript", lambda: _START),
    "/docs/swagger-ui-bundle.js": _Resource("text/javascript", _vendored("swagger-ui-bundle.js")),
    "/docs/swagger-ui.css": _Resource("text/css", _vendored("swagger-ui.css")),
    "/docs/favicon-32x32.png": _Resource("image/png", _vendored("favicon-32x32.png")),
}


async def documentation(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application for FIRST_SEGMENTS, and for `/`, which leads a browser to the page."""
    await (await _respond(scope))(scope, receive, send)


async def _respond(scope: Scope) -> Response:
    path = scope["path"]
    if path == "/docs/":
        return RedirectResponse("../docs", 308)
    resource = _RESOURCES.get(path)
    if resource is None and path != "/":
        return PlainTextResponse("no such page\n", 404)
    if scope["method"] not in ("GET", "HEAD"):
        return PlainTextResponse("GET only\n", 405, {"allow": "GET, HEAD"})
    if resource is None:
        return PlainTextResponse(_WELCOME, 307, {"location": "docs", "cache-control": "no-cache"})
    try:
        return await asyncio.to_thread(resource.response, Headers(scope=scope))
    except _Missing:
        return PlainTextResponse("this installation lacks the files of the page; see /openapi.json\n", 404)
