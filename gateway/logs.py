"""Logging: structured lines on standard error, as JSON or for people.

The gateway's own lines take a short way: one function makes the whole line and writes
it. Records of libraries come out of the standard library's logging in the same form.
A line that cannot be made or written never becomes an error of the code that logs.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False),  # locals hold tokens and secrets
)
_add_time = structlog.processors.TimeStamper(fmt="iso")
_OPTIONS = orjson.OPT_UTC_Z
_SHORT = ("info", "warning", "error")
"""The levels that take the short way."""


def configure(level: str, form: str) -> None:
    """Send every log line of the process to standard error, from `level` up, in `form` (json or text)."""
    renderer: Processor
    if form == "json":
        traceback, renderer = [_TRACEBACKS], _json_record
        own: list[Processor] = [_json_line]
    else:
        traceback = []
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        own = [_text_line(renderer)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _add_time],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *traceback, renderer],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    file = sys.stderr.fileno()
    structlog.configure(
        processors=own,
        wrapper_class=_bound_logger(level),
        logger_factory=lambda name="": _Logger(name, file),
        cache_logger_on_first_use=True,
    )


class _Shortcut(structlog.BoundLoggerBase):
    """Hands an event to the processors without copying it at every step."""

    is_enabled_for: Callable[[int], bool]

    def _proxy_to_logger(self, method_name: str, event: str | None = None, **event_kw: Any) -> None:
        event_kw["event"] = event
        self._log(method_name, event_kw)

    def _log(self, method: str, event: EventDict) -> None:
        line: Any = {**self._context, **event} if self._context else event
        try:
            for process in self._processors:
                line = process(self._logger, method, line)
        except structlog.DropEvent:
            return
        self._logger.write(line)

    def info_lines(self) -> InfoLines | None:
        is_wanted = self.is_enabled_for(logging.INFO) and self._processors == [_json_line]
        return InfoLines(self._logger) if is_wanted else None


def _bound_logger(level: str) -> type[structlog.BoundLoggerBase]:
    """The logger of structlog for lines from `level` up, with less between a call and its line."""
    whole = structlog.make_filtering_bound_logger(level)
    lowest = logging.getLevelNamesMapping()[level]
    names = [name for name in _SHORT if logging.getLevelNamesMapping()[name.upper()] >= lowest]
    return type("Logger", (_Shortcut, whole), {name: _short(name, getattr(whole, name)) for name in names})


def _short(name: str, whole: Callable[..., None]) -> Callable[..., None]:
    """The method of a level, for lines that have no values to be put into their event."""

    def log(self: _Shortcut, event: str, *values: Any, **fields: Any) -> None:
        if values:
            whole(self, event, *values, **fields)
        else:
            fields["event"] = event
            self._log(name, fields)

    return log


class _Logger:
    """Writes the finished lines of one logger."""

    def __init__(self, name: str, file: int) -> None:
        self.name = name
        self._file = file

    def write(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
            while written < len(line):
                line = line[written:]
                written = os.write(self._file, line)
        except OSError:  # standard error is full or gone: there is nobody left to tell
            return


class InfoLines:
    """Writes the JSON lines of level info of one logger of which most comes again and again."""

    def __init__(self, logger: _Logger) -> None:
        self._logger = logger

    def render(self, event: str, fields: Mapping[str, Any]) -> bytes:
        """What lines have in common."""
        return _dump({"event": event, **fields, "level": "info", "logger": self._logger.name})[:-1]

    def write(self, rendered: bytes, own: EventDict) -> None:
        """Write one line of a rendered part and fields of its own."""
        own["timestamp"] = datetime.now(UTC)
        self._logger.write(b"%b,%b\n" % (rendered, _dump(own)[1:]))


def info_lines(name: str) -> InfoLines | None:
    """Those of a logger; None where its lines of level info are no JSON, or left out."""
    logger = structlog.get_logger(name).bind()
    return logger.info_lines() if isinstance(logger, _Shortcut) else None


def _json_line(logger: _Logger, method: str, event: EventDict) -> bytes:
    try:
        event["level"] = method
        event["logger"] = logger.name
        event["timestamp"] = datetime.now(UTC)
        if "exc_info" in event:
            _TRACEBACKS(logger, method, event)
        return _dump(event) + b"\n"
    except Exception as error:  # noqa: BLE001 - whatever a value's own methods raise
        return b'{"event":"line lost","level":"error","error":"%b"}\n' % type(error).__name__.encode()


def _text_line(renderer: Processor) -> Processor:
    def line(logger: _Logger, method: str, event: EventDict) -> bytes:
        try:
            event["level"] = method
            event["logger"] = logger.name
            text = str(renderer(logger, method, _add_time(logger, method, event)))
        except Exception as error:  # noqa: BLE001 - whatever a value's own methods raise
            text = f"line lost: {type(error).__name__}"
        return f"{text}\n".encode(errors="backslashreplace")

    return line


def _json_record(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _dump(event).decode()


def _dump(event: EventDict) -> bytes:
    try:
        return orjson.dumps(event, default=str, option=_OPTIONS)
    except TypeError:
        return _dump_anything(event)


def _dump_anything(event: EventDict) -> bytes:
    """Keys that are no text cost all lines twice as much, so they come second."""
    try:
        return orjson.dumps(event, default=str, option=_OPTIONS | orjson.OPT_NON_STR_KEYS)
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits
        return json.dumps(event, default=str, skipkeys=True).encode()
