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


def run(directory: Path, *tests: str, workers: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a suite of tests, each of one line; with several processes, each in a file of its own."""
    (directory / "conftest.py").write_text(CONFTEST)
    made = [f"\ndef test_{number}():\n    {line}\n" for number, line in enumerate(tests)]
    files = {"test_it.py": made} if not workers else {f"test_{n}.py": [test] for n, test in enumerate(made)}
    for name, content in files.items():
        (directory / name).write_text(PRELUDE + "".join(content))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(directory)]
    command += ["-p", "xdist", "-n", str(workers), "--dist", "loadfile"]
    return subprocess.run(
        [*command, str(directory)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
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


def test_a_secret_of_one_process_turns_up_in_what_another_puts_out(tmp_path: Path) -> None:
    make = "made = new_key().key; Path('made').write_text(made); Path('made').rename('told')"
    wait = "exec('while not Path(\"told\").exists(): pass')"
    leaking = [
        make,
        f"{wait}; print(Path('told').read_text())",
        "Path('p.log').write_text(SECRET); leaks.search_log(Path('p.log').absolute())",
        "leaks.search('an answer', 'message: ' + SECRET)",
    ]
    ended = run(tmp_path, *leaking, workers=2)
    assert ended.returncode == 1, ended.stdout
    assert "4 passed" in ended.stdout
    assert "an API key: in captured stdout call of test_1.py::test_1" in ended.stdout
    assert "/p.log" in ended.stdout
    assert "a password: in an answer" in ended.stdout


def test_what_dev_tells_on_purpose_is_no_leak_and_what_follows_is(tmp_path: Path) -> None:
    welcome = r"'\nn8n-gateway serves (after 1 s)\nTOKEN=' + SECRET + '\nCtrl-C stops everything;\n'"
    told = f"log = Path('dev.log'); log.write_text({welcome}); leaks.search_log(log)"
    harmless = "print(SecretStr(SECRET), new_key().public_id, repr(new_key()))"
    ended = run(tmp_path, told, harmless)
    assert ended.returncode == 0, ended.stdout
    ended = run(tmp_path, f"{told}; log.write_text(log.read_text() + SECRET)")
    assert ended.returncode == 1
    assert "a password: in /dev.log" in ended.stdout
