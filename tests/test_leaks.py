"""The search for secrets, which has to be able to find one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECRET = "correct-horse-battery-staple"
CONFTEST = """
from tests import leaks

def pytest_configure(config):
    config.pluginmanager.register(leaks, "leaks")
"""
PRELUDE = f"""
import json, logging
from pathlib import Path
import structlog
from pydantic import SecretStr
from structlog.testing import capture_logs
from gateway.rpc.api_keys import new_key
from tests import leaks

SECRET = {SECRET!r}
leaks.remember("a password", SECRET)
"""


def run(directory: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run a suite of tests, each of one line."""
    (directory / "conftest.py").write_text(CONFTEST)
    made = [f"\ndef test_{number}():\n    {line}\n" for number, line in enumerate(tests)]
    (directory / "test_it.py").write_text(PRELUDE + "".join(made))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(directory)]
    return subprocess.run(
        [*command, str(directory)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_secret_that_turns_up_fails_the_run(tmp_path: Path) -> None:
    leaking = {
        "print('it is', SECRET)": "a password: in captured stdout call of test_it.py::test_0",
        "logging.getLogger().warning('%s', SECRET)": "a password: in captured log call of test_it.py::test_1",
        "print(json.dumps('é' + SECRET))": "a password: in captured stdout call of test_it.py::test_2",
        "print(new_key().key)": "an API key: in captured stdout call of test_it.py::test_3",
        "print(SecretStr('kept-in-a-setting').get_secret_value())": "a setting: in captured stdout call",
        "with capture_logs(): structlog.get_logger().info('x', it=SECRET)": "a password: in log event 'x'",
        "Path('p.log').write_text(SECRET); leaks.search_log(Path('p.log'))": "a password: in /p.log",
        "leaks.search('an answer', 'message: ' + SECRET)": "a password: in an answer",
    }
    ended = run(tmp_path, *leaking)
    assert ended.returncode == 1, ended.stdout
    assert f"{len(leaking)} passed" in ended.stdout
    for told in leaking.values():
        assert told in ended.stdout
    assert SECRET not in ended.stdout


def test_what_dev_tells_on_purpose_is_no_leak_and_what_follows_is(tmp_path: Path) -> None:
    welcome = r"'\nn8n-gateway serves (after 1 s)\nTOKEN=' + SECRET + '\nCtrl-C stops everything;\n'"
    told = f"log = Path('dev.log'); log.write_text({welcome}); leaks.search_log(log)"
    harmless = "print(SecretStr(SECRET), new_key().public_id, repr(new_key()))"
    ended = run(tmp_path, told, harmless)
    assert ended.returncode == 0, ended.stdout
    ended = run(tmp_path, f"{told}; log.write_text(log.read_text() + SECRET)")
    assert ended.returncode == 1
    assert "a password: in /dev.log" in ended.stdout
