"""Decoding, and the rules that the protos put on their fields (buf.validate)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protovalidate import Validator

from gateway.rpc.errors import InvalidArgument

if TYPE_CHECKING:
    from protovalidate import Violation

    from gateway.rpc.call import Call
    from gateway.rpc.methods import MethodTable

_LONGEST_KEY = 64
"""Of the key of a map, which may be as long as a message, as many characters are shown."""
_MOST_PROBLEMS = 10
"""More would not fit into the 8 KiB of trailers that gRPC clients take."""


class Validate:
    """Decodes the request and holds it against its rules.

    Raises InvalidArgument naming the fields that break one, the first of them if they are many.
    All rules of the methods' inputs are compiled when the gateway starts.
    """

    def __init__(self, methods: MethodTable) -> None:
        self._validator = Validator()
        for method in methods:
            self._validator.collect_violations(method.input())

    async def __call__(self, call: Call) -> None:
        """Set the call's request. Raises InvalidArgument."""
        request = call.decode() if call.request is None else call.request
        violations = self._validator.collect_violations(request)
        if violations:
            # A rule can be told twice, where it stands on a message within the request.
            problems = list(dict.fromkeys((_path(v), v.proto.message) for v in violations))[:_MOST_PROBLEMS]
            path, problem = problems[0]
            fields: dict[str, list[str]] = {}
            for field, wrong in problems:
                fields.setdefault(field, []).append(wrong)
            raise InvalidArgument(
                f"{path}: {problem}" if path else problem,
                reason="INVALID_FIELD",
                fields={field: "; ".join(wrongs) for field, wrongs in fields.items() if field},
            )
        call.request = request


def _path(violation: Violation) -> str:
    """The field's path in proto names, `workflow.webhook_path` or `metadata["key"]`."""
    path = ""
    if violation.proto.field is None:
        return path
    for element in violation.proto.field.elements:
        path += f".{element.field_name}" if path else element.field_name
        if element.subscript is not None:
            value = element.subscript.value
            path += f'["{value[:_LONGEST_KEY]}"]' if isinstance(value, str) else f"[{value}]"
    return path
