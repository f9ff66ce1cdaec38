"""docs/permissions.md says what the matrix of test_isolation shows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.supabase.test_isolation import FUNCTIONS, MEMBERS_OF_A, NO_INVITATION, OK

PERMISSIONS = Path(__file__).parents[2] / "docs" / "permissions.md"


def test_the_documented_permissions_are_these() -> None:
    rows = re.findall(
        r"^\| [^|]+ \| `(\w+)` \| ([\w ]+)", PERMISSIONS.read_text(encoding="utf-8"), re.MULTILINE
    )
    documented = {function: role.strip() for function, role in rows}
    assert documented.keys() == FUNCTIONS.keys()
    for function, role in documented.items():
        call = FUNCTIONS[function]
        allowed = [caller.removesuffix(" of A") for caller in MEMBERS_OF_A if call.expected(caller) == OK]
        if role == "the platform":
            assert (allowed, call.service) == ([], OK), function
        elif role == "the invited user":
            assert (len(allowed), call.stranger) == (len(MEMBERS_OF_A), NO_INVITATION), function
        else:
            assert allowed[-1] == (role if role in allowed else "viewer"), function
            assert (call.stranger == OK) == role.startswith("any"), function
            assert (call.expected("key of A") == OK) == (role in {"member", "viewer", "any caller"}), function
