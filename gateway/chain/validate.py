"""Decoding, and the rules that the protos put on their fields (buf.validate)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from protovalidate import Validator

from gateway.rpc.errors import InvalidArgument

if TYPE_CHECKING:
    from protobuf import Message
    from protovalidate import Violation

    from gateway.rpc.call import Call
    from gateway.rpc.methods import MethodTable

_LONGEST_KEY = 64
"""Of the key of a map, which may be as long as a message, as many characters are shown."""
_MOST_PROBLEMS = 10
"""More would not fit into the 8 KiB of trailers that gRPC clients take."""


_WEBHOOK_PATH = r"^[A-Za-z0-9_~-]+([.][A-Za-z0-9_~-]+)*(/[A-Za-z0-9_~-]+([.][A-Za-z0-9_~-]+)*)*$"
_WEBHOOK_URL = re.compile(
    r"(?:https?://[^/?#]*)?/(?:webhook(?:-test)?/)?([^?#]{1,255}?)/?(?:[?#].*)?", re.DOTALL
)
_OF_A_FIELD = ".required"
"""How the ids of rules end that stand on a message and are about the field that they begin with."""

IN_WORDS = {
    r"^[A-Za-z0-9_-]*$": "letters, digits, _ and -",
    r"^[A-Za-z0-9_-]+$": "letters, digits, _ and -",
    r"^[A-Za-z0-9_.:|@-]*$": "letters, digits and _ . : | @ -",
    r"^[A-Za-z0-9_.:|@-]+$": "letters, digits and _ . : | @ -",
    _WEBHOOK_PATH: "letters, digits, _ ~ and -, in parts joined by single dots and slashes",
    r"^[A-Za-z][A-Za-z0-9_.-]*$": "a letter, then letters, digits, _ . and -",
    r"^[\x20-\x7e]*$": "ASCII characters that can be printed",
    r"^[\x21-\x7e]*$": "ASCII characters that can be printed, without spaces",
    r"^[\x21-\x7e]+$": "ASCII characters that can be printed, without spaces",
    r"^[^=\x00]{1,64}=[^\x00]*$": "name=value, with a name of 1 to 64 characters",
    r"^[^\x00-\x1f\x7f=]+$": "characters that can be printed, without =",
    r"^[^\x00]*$": "text without NUL",
    r"^[a-z0-9]+(-[a-z0-9]+)*$": "small letters and digits, in parts joined by single hyphens",
    r"^[a-z_]+:([a-z_]+|[*])$": "a scope, such as executions:write or executions:*",
    r"^https?://[^/?#@]+(/[^?#]*)?$": "an http or https URL without user, query and fragment",
    r"^https?://[^/?#@]+([/?][^#]*)?$": "an http or https URL without user and fragment",
}
"""What the patterns of the protos mean: a regular expression tells a caller little."""


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
        check(self._validator, request)
        call.request = request


def check(validator: Validator, request: Message) -> None:
    """Hold a request against its rules. Raises InvalidArgument."""
    try:
        violations = validator.collect_violations(request)
    except ValueError:
        # It parses the message anew, and counts the entries of maps and unknown groups as levels too.
        problem = f"The message is no {request.desc().type_name}: it is nested too deeply."
        raise InvalidArgument(problem, reason="MALFORMED_MESSAGE") from None
    if violations:
        # A rule can be told twice, where it stands on a message within the request.
        problems = list(dict.fromkeys((_path(v), _problem(v)) for v in violations))[:_MOST_PROBLEMS]
        path, problem = problems[0]
        fields: dict[str, list[str]] = {}
        for field, wrong in problems:
            fields.setdefault(field, []).append(wrong)
        raise InvalidArgument(
            f"{path}: {problem}" if path else problem,
            reason="INVALID_FIELD",
            fields={field: "; ".join(wrongs) for field, wrongs in fields.items() if field},
        )


def _problem(violation: Violation) -> str:
    rule = violation.proto.rule_id
    if rule == "required":
        return "is required"
    if rule.endswith(_OF_A_FIELD):
        return violation.proto.message.removeprefix(f"{rule.removesuffix(_OF_A_FIELD)} ")
    if rule == "string.pattern" and isinstance(violation.rule_value, str):
        words = IN_WORDS.get(violation.rule_value)
        if words is not None:
            meant = _meant(violation.field_value) if violation.rule_value == _WEBHOOK_PATH else ""
            return f"must be {words}" + (f": give {meant}" if meant else "")
    return violation.proto.message


def _meant(url: object) -> str:
    """The webhook path that a URL of n8n holds, or a path of such; empty for anything else."""
    found = _WEBHOOK_URL.fullmatch(str(url))
    return found[1] if found and re.fullmatch(_WEBHOOK_PATH, found[1]) else ""


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
    rule = violation.proto.rule_id
    return f"{path}.{rule.removesuffix(_OF_A_FIELD)}" if rule.endswith(_OF_A_FIELD) else path
