from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

_START = """
import logging, os, sys
import structlog
from gateway import logs
log = structlog.get_logger("gateway.test")
logs.configure({level!r}, {form!r})
"""


def run(code: str, *, level: str = "INFO", form: str = "json", stderr: int = subprocess.PIPE) -> str:
    """What a process that runs `code` writes to standard error."""
    program = _START.format(level=level, form=form) + code + "\nprint('done')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
    return done.stderr or ""


def lines(code: str, **how: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code, **how).splitlines()]


def test_a_line_says_when_who_and_how_grave() -> None:
    (line,) = lines('log.warning("call", ms=1.5, tenant=None)')
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
    assert line == {"event": "call", "ms": 1.5, "tenant": None, "level": "warning", "logger": "gateway.test"}


def test_libraries_write_in_the_same_form() -> None:
    own, library = lines('log.info("one"); logging.getLogger("library").error("two %s", 2)')
    assert own.keys() == library.keys()
    assert (library["event"], library["level"], library["logger"]) == ("two 2", "error", "library")


def test_lines_below_the_level_are_left_out() -> None:
    code = 'log.info("own"); logging.getLogger("library").info("theirs"); log.error("kept")'
    assert [line["event"] for line in lines(code, level="WARNING")] == ["kept"]


_FAULT = """
def check(token):
    raise ValueError("no good")
try:
    check("hunter2")
except ValueError as error:
    log.error("one", exc_info=error)
    log.exception("two")
    logging.getLogger("library").exception("three")
"""


def test_tracebacks_show_where_and_never_with_what() -> None:
    written = lines(_FAULT)
    assert [line["event"] for line in written] == ["one", "two", "three"]
    for line in written:
        (fault,) = line["exception"]
        assert (fault["exc_type"], fault["exc_value"]) == ("ValueError", "no good")
        assert [frame["name"] for frame in fault["frames"]] == ["<module>", "check"]
        assert "exc_info" not in line
        assert "hunter2" not in json.dumps(line)


def test_text_is_for_people() -> None:
    text = run('log.info("started", port=1); logging.getLogger("library").warning("slow")', form="text")
    assert "started" in text
    assert "slow" in text
    assert len(text.splitlines()) == 2


def test_text_has_plain_tracebacks() -> None:
    text = run(_FAULT, form="text")
    assert text.count("ValueError: no good") == 3
    assert "token = " not in text


_ODD = r"""
class Odd:
    def __str__(self):
        raise RuntimeError("hunter2")
log.info("surrogate", value="\ud800")
log.info("big", value=1 << 80)
log.info("keys", value={1: "one"})
log.info("object", value=object)
log.info("odd", value=Odd())
log.info("after")
"""


def test_no_value_breaks_the_code_that_logs_it() -> None:
    surrogate, big, keys, plain, odd, after = lines(_ODD)
    assert surrogate["value"] == "\ud800"
    assert big["value"] == 1 << 80
    assert keys["value"] == {"1": "one"}
    assert plain["value"] == "<class 'object'>"
    assert odd == {"event": "line lost", "level": "error", "error": "RuntimeError"}
    assert after["event"] == "after"
    assert len(run(_ODD, form="text").splitlines()) == 6


def test_a_standard_error_that_is_gone_breaks_nothing() -> None:
    run('os.close(2)\nlog.error("lost")\nlogging.getLogger("library").error("lost")')
    run('sys.stderr.close()\nlog.error("lost")')


def test_a_full_standard_error_breaks_nothing() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        run('for _ in range(100):\n    log.error("lost", text="x" * 1000)', stderr=full)
    finally:
        os.close(full)


def test_text_that_nobody_sees_in_a_terminal_has_no_colours() -> None:
    assert "\x1b" not in run(_FAULT, form="text")


def test_causes_are_told_too() -> None:
    code = """
try:
    try:
        raise ValueError("inner")
    except ValueError as error:
        raise RuntimeError("outer") from error
except RuntimeError:
    log.exception("both")
"""
    (line,) = lines(code)
    assert [fault["exc_value"] for fault in line["exception"]] == ["outer", "inner"]


def test_a_warning_of_python_is_a_line_like_any_other() -> None:
    (line,) = lines("import warnings\nwarnings.warn('old', UserWarning, stacklevel=1)")
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "UserWarning: old" in line["event"]


def test_an_error_that_a_task_left_behind_is_a_line_too() -> None:
    code = """
import asyncio, gc
async def fail():
    raise RuntimeError("left behind")
async def main():
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    del task
    gc.collect()
asyncio.run(main())
"""
    (line,) = lines(code)
    assert (line["level"], line["logger"]) == ("error", "asyncio")
    assert line["exception"][0]["exc_value"] == "left behind"
