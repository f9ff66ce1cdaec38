"""A scripted n8n for tests: answers each webhook path with the bytes that a real one was seen to send."""

from __future__ import annotations

import asyncio
import json
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

JSON = "application/json; charset=utf-8"
FLOOD_LINES, FLOOD_LINE = 3200, 1 << 14
"""What `flood` streams: 50 MiB, more than is kept of a run and on its way to a reader."""
ZEROS = 1 << 30
"""How many zero bytes `zeros`, `zeros-line` and `zeros-gzip` answer with, as far as they are read."""
ZERO_LINES, ZERO_LINE = 1 << 10, 1 << 18
"""What `zeros-lines` streams: a quarter of that, which is read to its end."""


def _answer(status: str, body: bytes, content_type: str | None = JSON) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n"
    if content_type:
        head += f"Content-Type: {content_type}\r\n"
    return head.encode() + b"Connection: keep-alive\r\n\r\n" + body


def _json(status: str, value: object) -> bytes:
    return _answer(status, json.dumps(value).encode())


def line(kind: str, node: str, content: str | None = None, *, item: int = 0) -> bytes:
    """One line of n8n's stream."""
    value: dict[str, object] = {"type": kind}
    if content is not None:
        value["content"] = content
    value["metadata"] = {"nodeId": f"id-{node}", "nodeName": node, "itemIndex": item, "runIndex": 0}
    if kind != "error":
        value["metadata"] |= {"timestamp": 1795299897827}  # type: ignore[operator]
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _output(node: str, content: str) -> bytes:
    return line("begin", node) + line("item", node, content) + line("end", node)


_OUTPUTS = [_output("A", '{"n":1}'), _output("B", '{"n":2}'), _output("C", 'plain, with "quotes" and ☃')]
_ERROR = line("error", "Stop and Error")
STREAM = b"".join(_OUTPUTS)
"""The body of the path `stream`."""
STREAM_FAIL = _OUTPUTS[0] + _ERROR
"""The body of the path `stream-fail`."""


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


_STREAM_HEAD = (
    f"HTTP/1.1 200 OK\r\nContent-Type: {JSON}\r\nTransfer-Encoding: chunked\r\n"
    "Cache-Control: no-cache\r\nConnection: keep-alive\r\n\r\n"
).encode()
_NOT_REGISTERED = {
    "code": 404,
    "message": 'The requested webhook "POST n404" is not registered.',
    "hint": "The workflow must be active for a production URL to run successfully.",
}
_HTML = b"<!DOCTYPE html><html><head><title>Error</title></head><body><pre>Cannot POST /x</pre></body></html>"

_FIXED: dict[str, bytes] = {
    "/api/v1/executions/77/stop": _json("200 OK", {"id": "77", "status": "canceled"}),
    "n404": _json("404 Not Found", _NOT_REGISTERED),
    "n403": _answer("403 Forbidden", b"Authorization data is wrong!", None),
    "n500": _json("500 Internal Server Error", {"message": "Error in workflow"}),
    "n422": _json("422 Unprocessable Entity", {"code": 422, "message": "Failed to parse request body"}),
    "no-database": _json("503 Service Unavailable", {"code": 503, "message": "Database is not ready!"}),
    "proxy-503": _answer("503 Service Unavailable", b"upstream connect error", "text/plain"),
    "migrating": _answer("200 OK", b"n8n is starting up. Please wait", "text/html; charset=utf-8"),
    "html": _answer("404 Not Found", _HTML, "text/html; charset=utf-8"),
    "empty": _answer("200 OK", b""),
    "text": _answer("200 OK", "plain ☃ text".encode(), "text/plain; charset=utf-8"),
    "bytes": _answer("200 OK", bytes(range(256)), "application/octet-stream"),
    "list": _json("200 OK", [1, 2.5, {"n": None}]),
}


def _zipped_zeros() -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    for _ in range(ZEROS // len(_MANY_ZEROS)):
        yield packer.compress(_MANY_ZEROS)
    yield packer.flush()


_MANY_ZEROS = bytes(1 << 20)
_LINE_OF_ZEROS = line("item", "A", "0" * ZERO_LINE)


class StubN8n:
    """Serves on a loopback port of its own, in a thread of its own.

    `calls` counts the requests to each webhook path. The path `gated` streams one item
    and holds the rest back until `open_gate`; `cut` ends inside a stream, `cut-once` at the first
    attempt of each run; `hang` never answers; `endless` streams
    one item and never ends; `flood` streams FLOOD_LINES items. `sent` counts the bytes of what `zeros`,
    `zeros-line` (the second line of a stream), `zeros-lines` and `zeros-gzip` got rid of.
    """

    def __init__(self) -> None:
        self.port = 0
        self.calls: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.headers: dict[str, dict[str, str]] = {}
        self.bodies: dict[str, bytes] = {}
        self._cut_runs: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._gate = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        """Start to listen, on the port that it had before if it had one."""
        self._wait(self._listen())

    def go_away(self) -> None:
        """Stop to listen and cut every connection, as a stopped n8n would."""
        self._wait(self._go_away())

    def open_gate(self) -> None:
        """Let the rest of `gated` go."""
        self._loop.call_soon_threadsafe(self._gate.set)

    def close_gate(self) -> None:
        """Hold the rest of `gated` back again."""
        self._loop.call_soon_threadsafe(self._gate.clear)

    def close(self) -> None:
        """Stop for good."""
        self._wait(self._go_away())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _wait(self, work: Awaitable[None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _go_away(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._connections):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                request, *fields = head.split("\r\n")
                headers = {k.lower(): v for k, _, v in (f.partition(": ") for f in fields if f)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                path = request.split(" ")[1].removeprefix("/webhook/")
                self.bodies[path] = body
                self.headers[path] = headers
                self.calls[path] += 1
                await self._reply(path, body, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            return
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _reply(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        scripts: dict[str, Callable[[asyncio.StreamWriter], Awaitable[None]]] = {
            "stream": self._stream,
            "stream-fail": self._stream_fail,
            "gated": self._gated,
            "hang": self._hang,
            "endless": self._endless,
            "cut": self._cut,
            "cut-once": self._cut_once,
            "flood": self._flood,
            "zeros": self._zeros,
            "zeros-line": self._zeros_line,
            "zeros-gzip": self._zeros_gzip,
            "zeros-lines": self._zeros_lines,
        }
        if path in scripts:
            await scripts[path](writer)
        elif path == "echo":
            writer.write(_answer("200 OK", b'{"echo":%s,"executionId":"7"}' % body))
        elif path == "/healthz/readiness":
            writer.write(_json("200 OK", {"status": "ok"}))
        else:
            writer.write(_FIXED.get(path, _FIXED["n404"]))
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM_HEAD)
        for output in _OUTPUTS:
            writer.write(_chunk(output))
        writer.write(b"0\r\n\r\n")

    async def _stream_fail(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM_HEAD + _chunk(_OUTPUTS[0]))
        writer.write(_chunk(_ERROR) + b"0\r\n\r\n")

    async def _gated(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM_HEAD + _chunk(line("item", "A", "first!")))
        await writer.drain()
        await self._gate.wait()
        writer.write(_chunk(line("item", "B", "second!")) + b"0\r\n\r\n")

    async def _flood(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM_HEAD)
        for number in range(FLOOD_LINES):
            writer.write(_chunk(line("item", "A", f"{number:>{FLOOD_LINE}}")))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def _zeros(self, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {ZEROS}\r\n\r\n"
        writer.write(head.encode())
        for _ in range(ZEROS // len(_MANY_ZEROS)):
            await self._send("zeros", _MANY_ZEROS, writer)

    async def _zeros_line(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM_HEAD + _chunk(line("item", "A", "first!") + b'{"type":"item","content":"'))
        for _ in range(ZEROS // len(_MANY_ZEROS)):
            await self._send("zeros-line", _chunk(_MANY_ZEROS), writer)

    async def _zeros_lines(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM_HEAD)
        for _ in range(ZERO_LINES):
            await self._send("zeros-lines", _chunk(_LINE_OF_ZEROS), writer)
        writer.write(b"0\r\n\r\n")

    async def _zeros_gzip(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM_HEAD.replace(b"Connection:", b"Content-Encoding: gzip\r\nConnection:"))
        for data in _zipped_zeros():
            if data:
                await self._send("zeros-gzip", _chunk(data), writer)
        writer.write(b"0\r\n\r\n")

    async def _send(self, path: str, data: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        self.sent[path] += len(data)

    async def _hang(self, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async def _endless(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM_HEAD + _chunk(line("item", "A", "first!")))
        await writer.drain()
        await asyncio.Event().wait()

    async def _cut(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_STREAM_HEAD + _chunk(line("item", "A", "first!")))
        await writer.drain()
        writer.transport.abort()

    async def _cut_once(self, writer: asyncio.StreamWriter) -> None:
        run = self.headers["cut-once"]["x-gateway-execution-id"]
        if run not in self._cut_runs:
            self._cut_runs.add(run)
            await self._cut(writer)
        else:
            writer.write(_json("200 OK", {"again": True}))
