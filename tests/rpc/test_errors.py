from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import gateway
from gateway.rpc import errors
from gateway.rpc.errors import BY_CODE, Code, RpcError
from gateway.transcoding.gen.google.rpc import code_pb

REASON = re.compile(r"[A-Z][A-Z0-9_]{1,61}[A-Z0-9]")
"""google.rpc.ErrorInfo.reason, as AIP-193 has it."""


def test_every_code_but_ok_has_one_class() -> None:
    assert set(BY_CODE) == set(Code) - {Code.OK}
    assert len({error.code for error in RpcError.__subclasses__()}) == len(RpcError.__subclasses__())


def test_codes_are_those_of_google_rpc() -> None:
    assert {code.name: code.value for code in Code} == {code.name: code.value for code in code_pb.Code}


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn = dict(re.findall(r"── (\w+) +([A-Z_]+)", errors.__doc__ or ""))
    assert drawn == {error.__name__: code.name for code, error in BY_CODE.items()}


@pytest.mark.parametrize("error", BY_CODE.values())
def test_the_code_is_the_reason_unless_one_is_given(error: type[RpcError]) -> None:
    assert error("m").reason == error.code.name
    assert error("m", reason="ANOTHER").reason == "ANOTHER"


def test_an_error_keeps_its_own_copies() -> None:
    metadata, fields = {"a": "b"}, {"f": "wrong"}
    error = BY_CODE[Code.INVALID_ARGUMENT]("m", metadata=metadata, fields=fields)
    metadata.clear()
    fields.clear()
    assert (error.metadata, error.fields) == ({"a": "b"}, {"f": "wrong"})
    assert str(error) == error.message == "m"


def test_every_reason_in_the_source_is_one_that_aip_193_allows() -> None:
    sources = Path(gateway.__file__).parent.rglob("*.py")
    nodes = (node for path in sources for node in ast.walk(ast.parse(path.read_text())))
    given = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "reason"]
    reasons = {value.value for value in given if isinstance(value, ast.Constant)}
    assert not [reason for reason in reasons if reason and not REASON.fullmatch(str(reason))]
    assert {"TOKEN_MISSING", "WORKFLOW_FAILED", "SHUTTING_DOWN"} <= reasons
