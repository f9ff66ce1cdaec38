"""Puts a server under load for a while: wrk and h2load where both are found, else the bundled generator."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from tests.bench.generated import ROOT
from tests.bench.processes import LOAD_CORE, BenchError, on_core

if TYPE_CHECKING:
    from tests.bench.rows import Row


HTTP2_CONNECTIONS, HTTP2_STREAMS = 4, 4
_TIMEOUT_SECONDS = 30
_ATTEMPTS = 3

_WRK_SCRIPT = """
wrk.method = "{method}"
wrk.body = "{body}"
{headers}
local requests = {{}}
local turn = 0
function init(arguments)
  for number, token in ipairs({{{tokens}}}) do
    wrk.headers["authorization"] = "Bearer " .. token
    requests[number] = wrk.format()
  end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
function done(summary)
  local e = summary.errors
  io.write(string.format('RESULT {{"calls": %d, "seconds": %f, "bytes": %d, "errors": %d}}\\n',
    summary.requests, summary.duration / 1e6, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""
_H2LOAD_RESULT = re.compile(
    r"finished in [^,]+, ([\d.]+) req/s.*?(\d+) succeeded, (\d+) failed, (\d+) errored.*?"
    r"traffic: \S+ \((\d+)\) total",
    re.DOTALL,
)


@dataclass(frozen=True)
class Result:
    """What a run of some seconds did; `bytes` were received."""

    calls: int
    seconds: float
    bytes: int
    errors: int


def tools() -> str:
    """Which load generators a run uses: the same for all of its rows."""
    return "wrk, h2load" if shutil.which("wrk") and shutil.which("h2load") else "bundled"


def headers(row: Row, token: str) -> dict[str, str]:
    """A request's headers: the same for every peer of a row."""
    return _headers(row) | {"authorization": f"Bearer {token}"}


def _headers(row: Row) -> dict[str, str]:
    common = {"content-type": row.content_type}
    return common | ({"te": "trailers"} if row.http2 else {"accept": row.accept, "user-agent": "bench"})


def once(row: Row, port: int, token: str) -> bytes:
    """Make one call with an ordinary client and return what came, messages behind each other."""
    sent = headers(row, token)
    if row.http2:
        metadata = [("authorization", sent["authorization"])]
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_stream(row.path)
            return b"".join(call(row.body[5:], metadata=metadata, timeout=_TIMEOUT_SECONDS))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    connection.request(row.method, row.path, row.body, sent)
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    if response.status != 200:
        raise BenchError(f"{row.key} answers {response.status}: {answer[:300]!r}")
    return answer


def run(row: Row, port: int, tokens: Sequence[str], seconds: float, tool: str, scratch: Path) -> Result:
    """Load the row's server for that long, by callers in turns. Raises BenchError when calls fail."""
    for attempt in range(_ATTEMPTS):
        seconds *= 1 + attempt
        if tool == "bundled":
            result = _bundled(row, port, tokens, seconds)
        else:
            generate = _h2load if row.http2 else _wrk
            result = generate(row, port, tokens, seconds, scratch)
        if result.calls or result.errors:  # on a busy machine no call may have had the time to end
            break
    if result.errors or not result.calls:
        raise BenchError(f"{row.key}: {result.errors} errors in {result.calls} calls")
    return result


def _wrk(row: Row, port: int, tokens: Sequence[str], seconds: float, scratch: Path) -> Result:
    lines = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in _headers(row).items())
    body = "".join(f"\\{byte:03d}" for byte in row.body)
    script = scratch / "wrk.lua"
    script.write_text(
        _WRK_SCRIPT.format(
            method=row.method, body=body, headers=lines, tokens=", ".join(map(json.dumps, tokens))
        )
    )
    url = f"http://127.0.0.1:{port}{row.path}"
    process = _start(["wrk", "-t1", f"-c{row.connections}", "-d60s", "--timeout=30s", "-s", str(script), url])
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)  # wrk knows whole seconds only
    output = process.communicate(timeout=_TIMEOUT_SECONDS)[0].decode()
    if "RESULT" not in output:
        raise BenchError(f"{row.key}: wrk says {output!r}")
    return Result(**json.loads(output.partition("RESULT ")[2]))


def _h2load(row: Row, port: int, tokens: Sequence[str], seconds: float, scratch: Path) -> Result:
    data = scratch / "h2load.bin"
    data.write_bytes(row.body)
    sent = headers(row, tokens[0])
    fields = [argument for name, value in sent.items() for argument in ("-H", f"{name}: {value}")]
    command = [
        "h2load",
        "-t1",
        f"-c{HTTP2_CONNECTIONS}",
        f"-m{HTTP2_STREAMS}",
        "-D",
        f"{seconds * 1000:.0f}ms",
    ]
    process = _start([*command, "-d", str(data), *fields, f"http://127.0.0.1:{port}{row.path}"])
    output = process.communicate(timeout=_TIMEOUT_SECONDS + seconds)[0].decode()
    match = _H2LOAD_RESULT.search(output)
    if match is None:
        raise BenchError(f"{row.key}: h2load says {output!r}")
    rate, calls, failed, errored, received = match.groups()
    return Result(int(calls), int(calls) / max(float(rate), 1e-9), int(received), int(failed) + int(errored))


def _bundled(row: Row, port: int, tokens: Sequence[str], seconds: float) -> Result:
    load = {
        "method": row.method,
        "path": row.path,
        "port": port,
        "headers": _headers(row),
        "tokens": tokens,
        "body": base64.b64encode(row.body).decode(),
        "http2": row.http2,
        "connections": HTTP2_CONNECTIONS if row.http2 else row.connections,
        "streams": HTTP2_STREAMS,
        "seconds": seconds,
    }
    process = _start([sys.executable, "-m", "tests.bench.loader"])
    output = process.communicate(json.dumps(load).encode(), timeout=_TIMEOUT_SECONDS + seconds)[0]
    return Result(**json.loads(output))


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    with on_core(LOAD_CORE):
        return subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
