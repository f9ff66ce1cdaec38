"""The gateway under attack: a clear answer, memory in bounds, and others are served meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.attacks.attacks import ATTACKS
from tests.attacks.measure import measure, start
from tests.conftest import RunningDev, stop_dev

MOST_MB = 64
"""By which an attack may let the gateway grow. Each would take more if it took what it asks for."""

# The server may say GOAWAY or just go: what it says last does not always arrive.
ENDED = r"(GOAWAY ENHANCE_YOUR_CALM|closed)"
ANSWERS = {
    "header injection (CR, LF, NUL, folding)": "400, closed",
    "two Authorization headers": "400",
    "tokens of 60 and 64 KB, 101 calls": r"401 \(100\), 431 \(1\)",
    "3,000 forged X-Forwarded-For and Forwarded": "401",
    "request smuggling, 14 shapes": "400, closed",
    "slowloris: 200 slow heads": "408, closed",
    "slowloris: 200 slow bodies": "408, closed",
    "600 connections where 300 may be": r"503 \(30[01]\), closed \((299|300)\)",
    "HTTP/2 rapid reset, 20,000 streams": f"(goes on|{ENDED})",
    "HTTP/2, 5,000 streams without a message": "goes on, refused beyond 1000",
    "HTTP/2 SETTINGS flood, 50,000 frames": f"(goes on|{ENDED})",
    "HTTP/2 PING flood, 50,000 frames": ENDED,
    "HTTP/2 CONTINUATION flood, 64 MB": f"(UNAVAILABLE|RESOURCE_EXHAUSTED|{ENDED})",
    "HPACK bomb, 20 of 46 MB": "RESOURCE_EXHAUSTED",
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDev]:
    dev = start(tmp_path_factory.mktemp("attacked"))
    yield dev
    stop_dev(dev)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_answered_and_others_are_served(attacked: RunningDev, name: str) -> None:
    cost = measure(attacked, name)
    assert re.fullmatch(ANSWERS[name], cost.answer)
    assert cost.served
    assert cost.grown < MOST_MB
    assert attacked.process.poll() is None


def test_attacks_that_are_repeated_take_no_more_memory(attacked: RunningDev) -> None:
    names = ["HTTP/2 rapid reset, 20,000 streams", "HTTP/2, 5,000 streams without a message"]
    for name in names:
        measure(attacked, name)
    assert sum(measure(attacked, name).grown for name in names) < MOST_MB / 4
