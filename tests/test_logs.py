"""Log lines of a real process, because to configure logging is to configure the process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

import pytest

SECRET = "hunter2"


def standard_error(script: str, *, level: str = "INFO", form: str = "json", **environment: str) -> str:
    """What a process that logs leaves on standard error; it must end well."""
    program = f"from gateway import logs\nlogs.configure({level!r}, {form!r})\n{script}"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""
    return ended.stderr


def lines(script: str, **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in standard_error(script, **options).splitlines()]


OWN = "import structlog\nlog = structlog.get_logger('gateway.part')\n"
LIBRARY = "import logging\nlog = logging.getLogger('some.library')\n"


def test_a_line_is_one_json_object_with_level_logger_and_time() -> None:
    [line] = lines(OWN + "log.info('served', n=1, text='a\\nb \u2603', nothing=None, l=[1])")
    moment = datetime.fromisoformat(line.pop("timestamp"))
    assert moment.utcoffset() == timedelta(0)
    assert line == {
        "event": "served", "level": "info", "logger": "gateway.part",
        "n": 1, "text": "a\nb \u2603", "nothing": None, "l": [1],
    }  # fmt: skip


def test_a_library_s_line_has_the_same_form() -> None:
    own, library = lines(OWN + "log.warning('a b')\n" + LIBRARY + "log.warning('%s b', 'a')")
    assert library.keys() == own.keys()
    assert (library["event"], library["level"], library["logger"]) == ("a b", "warning", "some.library")


@pytest.mark.parametrize("source", [OWN, LIBRARY])
def test_the_level_is_a_bound(source: str) -> None:
    told = lines(source + "log.debug('d'); log.info('i'); log.warning('w'); log.error('e')", level="WARNING")
    assert [line["event"] for line in told] == ["w", "e"]


FAILING = """
def fail():
    password = "hunter2"
    try:
        raise ValueError("inner")
    except ValueError as error:
        raise RuntimeError("outer") from error
try:
    fail()
except RuntimeError:
    log.exception("it broke", request_id="r-1")
"""


def test_an_exception_is_told_whole_but_for_its_locals() -> None:
    [line] = lines(OWN + FAILING)
    assert (line["event"], line["level"], line["request_id"]) == ("it broke", "error", "r-1")
    kinds = [(error["exc_type"], error["exc_value"]) for error in line["exception"]]
    assert kinds == [("RuntimeError", "outer"), ("ValueError", "inner")]
    assert line["exception"][0]["frames"][-1]["name"] == "fail"
    assert SECRET not in json.dumps(line)


def test_so_is_that_of_a_library() -> None:
    failing = FAILING.replace(', request_id="r-1"', "")
    [line] = lines(LIBRARY + failing)
    assert [error["exc_type"] for error in line["exception"]] == ["RuntimeError", "ValueError"]
    assert SECRET not in json.dumps(line)


@pytest.mark.parametrize("source", [OWN, LIBRARY])
def test_text_tells_the_same_without_locals_and_colours(source: str) -> None:
    text = standard_error(source + FAILING.replace(', request_id="r-1"', ""), form="text")
    assert "it broke" in text
    assert "RuntimeError: outer" in text
    assert "ValueError: inner" in text
    assert f'"{SECRET}"' not in re.sub(r'    password = "hunter2"', "", text)
    assert "\x1b" not in text


def test_text_tells_names_and_values() -> None:
    text = standard_error(OWN + "log.info('served', n=1, who='me')", form="text")
    for part in ("served", "gateway.part", "n=1", "who=me", "info"):
        assert part in text


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "value", ["'\\ud800'", "2**70", "{1: 'x', (2,): 3}", "object()", "b'\\xff'", "float('nan')", "Bad()"]
)
def test_no_value_keeps_a_line_from_being_written(form: str, value: str) -> None:
    bad = "class Bad:\n    def __repr__(self):\n        raise RuntimeError\n"
    text = standard_error(f"{OWN}{bad}log.info('odd', value={value})\nlog.info('next')", form=form)
    first, second = text.splitlines()
    assert "odd" in first or "line lost" in first
    assert "next" in second
    if form == "json":
        assert all(json.loads(line) for line in (first, second))


def test_a_warning_of_python_is_a_line_like_any_other() -> None:
    [line] = lines("import warnings\nwarnings.warn('old', UserWarning, stacklevel=1)")
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "UserWarning: old" in line["event"]


def test_an_error_that_a_task_left_behind_is_a_line_too() -> None:
    script = """
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
    [line] = lines(script)
    assert (line["level"], line["logger"]) == ("error", "asyncio")
    assert line["exception"][0]["exc_value"] == "left behind"


def test_logging_goes_on_when_standard_error_is_gone() -> None:
    assert standard_error(OWN + "import os\nos.close(2)\nlog.info('nobody hears')\nos._exit(0)") == ""
