"""A pytest plugin: no secret that the run used may turn up in what it put out.

Secrets are remembered as they are made: API keys and client secrets, session tokens, whatever a setting
holds, and what tests `remember`. Searched are the logs and the output that pytest captures of each test, log
events that a test captures itself, the logs of processes that were started, and error answers and metrics
that tests hand to `search`. What is found fails the run and is named with its place, not with its value.

Where several processes run the tests, each tells the first one at its end what it knows. That one has what
all of them put out, and searches it for the secrets of all.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pydantic
import pytest
import structlog.testing

from gateway.local import issuer
from gateway.rpc import api_keys

SHORTEST = 16
"""Shorter values could turn up by chance. A secret of one character over and over is no secret."""

# What `dev` tells its user on purpose, once, on standard output.
_WELCOME = re.compile(rb"\nn8n-gateway serves \(after .*?Ctrl-C stops everything", re.DOTALL)

_known: dict[str, str] = {}
_output: list[tuple[str, str]] = []
_logs: set[Path] = set()
_found: dict[tuple[str, str], None] = {}


def remember(what: str, *values: str | None) -> None:
    """Search for these values from now on, and in all logs of processes; `what` is told in their place."""
    for value in values:
        if value and len(value) >= SHORTEST and len(set(value)) > 1:
            encoded = base64.b64encode(value.encode()).decode().rstrip("=")
            for form in (value, json.dumps(value)[1:-1], quote(value, safe=""), encoded):
                _known.setdefault(form, what)


def remember_ready(ready: dict[str, Any], data_dir: Path) -> None:
    """Remember the secrets of a gateway that `dev` has made ready, and search its logs at the end."""
    for name in ("token", "api_key", "client_secret", "internal_secret"):
        remember(f"dev's {name}", ready[name])
    for url in ("database_url", "redis_url"):
        remember(f"the password in dev's {url}", urlsplit(ready[url]).password)
    for name, value in json.loads((data_dir / "secrets.json").read_text()).items():
        remember(f"dev's secret {name}", value)
    for log in data_dir.glob("*.log"):
        search_log(log)


def remember_answer(message: dict[str, Any]) -> None:
    """Remember what an answer shows once: the key and the secret that it made."""
    for name in ("key", "client_secret", "secret"):
        value = message.get(name)
        if isinstance(value, str):
            remember(f"{name} of an answer", value)


def search(place: str, text: str) -> None:
    """Search what was put out."""
    for secret, what in _known.items():
        if secret in text:
            _found[what, place] = None


def search_log(file: Path) -> None:
    """Search a log when the run is over, and all has been written."""
    _logs.add(file)


# Where secrets come from


def _after(owner: type, name: str, then: Callable[..., None]) -> None:
    """Have a method of a class followed by `then`, which gets its result and its arguments."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def followed(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        then(result, *arguments)
        return result

    setattr(owner, name, followed)


def _made_key(_result: None, made: api_keys.NewKey, *_: Any) -> None:
    remember("an API key", made.key)
    remember("a client secret", made.client_secret)


def _made_setting(_result: None, made: pydantic.SecretStr, *_: Any) -> None:
    remember("a setting", made.get_secret_value())


def _minted(token: str, *_: Any) -> None:
    remember("a session token", token)


def pytest_configure(config: pytest.Config) -> None:
    del config
    _after(api_keys.NewKey, "__init__", _made_key)
    _after(pydantic.SecretStr, "__init__", _made_setting)
    _after(issuer.Issuer, "mint", _minted)
    capture = structlog.testing.LogCapture.__call__

    def captured(self: Any, logger: Any, method: str, event: Any) -> Any:
        search(f"log event {event.get('event')!r}", repr(event))
        return capture(self, logger, method, event)

    structlog.testing.LogCapture.__call__ = captured  # type: ignore[method-assign]


# Where they are searched


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        _output.extend((f"{name.lower()} of {report.nodeid}", text) for name, text in report.sections)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what another process knows; one that died has told nothing, and has failed the run."""
    del error
    told = getattr(node, "workeroutput", {}).get("leaks", {})
    _known.update(told.get("known", {}))
    _logs.update(map(Path, told.get("logs", [])))
    _found.update(dict.fromkeys(tuple(one) for one in told.get("found", [])))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    told = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["leaks"] = {"known": _known, "logs": [str(log) for log in _logs], "found": [*_found]}
        return
    for log in sorted(_logs):
        if log.exists():
            text = _WELCOME.sub(b"", log.read_bytes()).decode(errors="replace")
            _output.append((f"{log.parent.name}/{log.name}", text))
    for place, text in _output:
        search(place, text)
    if _found and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for line in _told():
        terminalreporter.write_line(line, red=True)


def _told() -> Iterator[str]:
    if _found:
        yield "Secrets turned up:"
    for what, place in _found:
        yield f"  {what}: in {place}"
