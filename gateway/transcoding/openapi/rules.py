"""Keywords of JSON Schema (2020-12) for the rules of buf.validate.

A rule that JSON Schema cannot say, or that has no meaning for the JSON form of
its field (bounds of a 64-bit integer, which is a string), gives no keyword; the
message of a CEL expression is text for the description.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from protobuf import (
    DescEnum,
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMap,
    DescMessage,
)
from protobuf import Message as ProtoMessage

from gateway.transcoding.fields import Json
from gateway.transcoding.gen.buf.validate.validate_pb import (
    FieldRules,
    Ignore,
    MessageRules,
    Rule,
    ext_field,
    ext_message,
    ext_oneof,
)

Keywords: TypeAlias = dict[str, Json]
_Given: TypeAlias = Mapping[str, Any]

_FORMATS: Final[Mapping[str, Keywords]] = {
    "email": {"format": "email"},
    "hostname": {"format": "hostname"},
    "ip": {"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
    "ipv4": {"format": "ipv4"},
    "ipv6": {"format": "ipv6"},
    "uri": {"format": "uri"},
    "uri_ref": {"format": "uri-reference"},
    "address": {"anyOf": [{"format": "hostname"}, {"format": "ipv4"}, {"format": "ipv6"}]},
    "uuid": {"format": "uuid"},
    "tuuid": {"pattern": "^[0-9a-fA-F]{32}$"},
    "ulid": {"pattern": "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$"},
}
_NEVER_EMPTY: Final = frozenset(_FORMATS) - {"uri_ref"} | {
    "ip_with_prefixlen",
    "ipv4_with_prefixlen",
    "ipv6_with_prefixlen",
    "ip_prefix",
    "ipv4_prefix",
    "ipv6_prefix",
    "host_and_port",
    "protobuf_fqn",
    "protobuf_dot_fqn",
}
_LONGER_THAN_EMPTY: Final = ("min_len", "len", "min_bytes", "len_bytes", "prefix", "suffix", "contains")
_CONTAINER_MINIMUM: Final[Mapping[str, str]] = {"repeated": "min_items", "map": "min_pairs"}
_ONLY_RE2: Final = re.compile(r"\(\?|\\[AzQEC]|\\x\{|\[\[:|\\[pP][A-Z]")
"""What RE2 has and ECMA-262, whose expressions JSON Schema uses, has not."""
_ECMA_SYNTAX: Final = re.compile(r"[\\^$.*+?()\[\]{}|/]")

_NESTED: Final = ("items", "additionalProperties", "properties", "@type")
"""Keywords whose schemas are merged in their turn, and the one property that rules speak of."""
_LONG: Final = frozenset({"int64", "uint64", "sint64", "fixed64", "sfixed64"})
_NUMBERS: Final = frozenset({"float", "double", "int32", "uint32", "sint32", "fixed32", "sfixed32"})


def field_rules(field: DescField) -> FieldRules | None:
    """The rules of a field that hold; None when it has none or ignores them."""
    options = field.proto.options
    if options is None or ext_field not in options:
        return None
    rules = options[ext_field]
    return None if rules.ignore == Ignore.ALWAYS else rules


def message_rules(message: DescMessage) -> MessageRules:
    """The rules of a message, empty when it has none."""
    options = message.proto.options
    return options[ext_message] if options is not None and ext_message in options else MessageRules()


def required_oneofs(message: DescMessage) -> frozenset[str]:
    """The oneofs of a message of which one member must be given."""
    found = set()
    for oneof in message.oneofs:
        options = oneof.proto.options
        if options is not None and ext_oneof in options and options[ext_oneof].required:
            found.add(oneof.name)
    return frozenset(found)


def explanations(rules: Iterable[Rule]) -> list[str]:
    """What the expressions among the rules ask for, as their authors put it."""
    return [rule.message for rule in rules if rule.message]


def keywords(rules: FieldRules, field: DescField) -> Keywords:
    """The keywords that a field's rules add to its schema."""
    kind: object = field.value
    match field.value:
        case DescFieldValueEnum(enum=enum):
            kind = enum
        case DescFieldValueList(element=element):
            kind = element
        case DescFieldValueMap(value=value):
            kind = value
        case _:
            pass
    return _keywords(rules, kind)


def refuses_zero(rules: FieldRules, field: DescField) -> bool:
    """Whether a field without presence must be given, because its zero value is against its rules."""
    if field.presence.name != "IMPLICIT" or rules.ignore == Ignore.IF_ZERO_VALUE or rules.type is None:
        return False
    kind = rules.type.field
    given = _given(rules.type.value)
    if kind in _CONTAINER_MINIMUM:
        return bool(given.get(_CONTAINER_MINIMUM[kind]))
    if kind == "string":
        return any(given.get(name) for name in _NEVER_EMPTY) or _refuses_empty(given, "")
    if kind == "bytes":
        return _refuses_empty(given, b"")
    return _refuses(given, 0) or _out_of_bounds(given)


def _refuses_empty(given: _Given, empty: str | bytes) -> bool:
    if any(given.get(name) for name in _LONGER_THAN_EMPTY) or _refuses(given, empty):
        return True
    try:
        return "pattern" in given and re.search(given["pattern"], "") is None
    except re.error:
        return False


def _refuses(given: _Given, zero: object) -> bool:
    allowed: Sequence[object] = given.get("in", ())
    if allowed and zero not in allowed:
        return True
    return zero in given.get("not_in", ()) or given.get("const", zero) != zero


def _out_of_bounds(given: _Given) -> bool:
    low, high = given.get("gte", given.get("gt")), given.get("lte", given.get("lt"))
    try:
        too_low = low is not None and (low > 0 or ("gt" in given and low == 0))
        too_high = high is not None and (high < 0 or ("lt" in given and high == 0))
    except TypeError:  # bounds of a duration or a timestamp, which have presence
        return False
    if low is not None and high is not None and high < low:
        return too_low and too_high
    return too_low or too_high


def _keywords(rules: FieldRules, kind: object) -> Keywords:
    if rules.type is None or rules.ignore == Ignore.ALWAYS:
        return {}
    name = rules.type.field
    given = _given(rules.type.value)
    if name in _NUMBERS:
        return _bounds(given) | _choice(given, _same)
    if name in _LONG:
        return _choice(given, str)
    if name == "enum":
        return _choice(given, _enum_name(kind)) if isinstance(kind, DescEnum) else {}
    if name in ("repeated", "map"):
        return _repeated(given, kind) if name == "repeated" else _map(given, kind)
    make = _BY_TYPE.get(name)
    return {} if make is None else make(given)


def _given(rules: ProtoMessage) -> _Given:
    return {field.name: rules[field] for field in rules.desc().fields if field in rules}


def _string(given: _Given) -> Keywords:
    found: Keywords = _lengths(given.get("min_len"), given.get("max_len"), given.get("len"))
    if "max_bytes" in given or "len_bytes" in given:
        # A character has at least one byte.
        found.setdefault("maxLength", given.get("max_bytes", given.get("len_bytes")))
    least = given.get("min_bytes", given.get("len_bytes", 0))
    if least:
        found.setdefault("minLength", -(-least // 4))
    patterns = [given["pattern"]] if _is_ecma(given.get("pattern", "(?")) else []
    patterns += [f"^{_escaped(given['prefix'])}"] if "prefix" in given else []
    patterns += [f"{_escaped(given['suffix'])}$"] if "suffix" in given else []
    patterns += [_escaped(given["contains"])] if "contains" in given else []
    parts: list[Keywords] = [{"pattern": pattern} for pattern in patterns]
    parts += [{"not": {"pattern": _escaped(given["not_contains"])}}] if "not_contains" in given else []
    parts += [form for name, form in _FORMATS.items() if given.get(name)]
    parts.append(_choice(given, _same))
    return merged(found, *parts)


def _bytes(given: _Given) -> Keywords:
    """Lengths of the base64 text, with or without padding."""
    least = given.get("min_len", given.get("len", 0))
    most = given.get("max_len", given.get("len"))
    found: Keywords = {"minLength": -(-least * 4 // 3)} if least else {}
    if most is not None:
        found["maxLength"] = -(-most // 3) * 4
    return found


def _bounds(given: _Given) -> Keywords:
    names = {"gt": "exclusiveMinimum", "gte": "minimum", "lt": "exclusiveMaximum", "lte": "maximum"}
    found: Keywords = {keyword: given[name] for name, keyword in names.items() if name in given}
    low, high = given.get("gte", given.get("gt")), given.get("lte", given.get("lt"))
    if low is not None and high is not None and high < low:
        return {"anyOf": [{keyword: bound} for keyword, bound in found.items()]}
    return found


def _repeated(given: _Given, kind: object) -> Keywords:
    found: Keywords = {}
    if given.get("min_items"):
        found["minItems"] = given["min_items"]
    if "max_items" in given:
        found["maxItems"] = given["max_items"]
    if given.get("unique"):
        found["uniqueItems"] = True
    items = _keywords(given["items"], kind) if "items" in given else {}
    return found | ({"items": items} if items else {})


def _map(given: _Given, kind: object) -> Keywords:
    found: Keywords = {}
    if given.get("min_pairs"):
        found["minProperties"] = given["min_pairs"]
    if "max_pairs" in given:
        found["maxProperties"] = given["max_pairs"]
    keys: FieldRules | None = given.get("keys")
    # The names of a JSON object are strings, whatever the type of the keys.
    if keys is not None and keys.type is not None and keys.type.field == "string":
        found["propertyNames"] = _keywords(keys, None)
    values = _keywords(given["values"], kind) if "values" in given else {}
    return found | ({"additionalProperties": values} if values else {})


def _any(given: _Given) -> Keywords:
    choice = _choice(given, _same)
    return {"properties": {"@type": choice}} if choice else {}


_BY_TYPE: Final[Mapping[str, Callable[[_Given], Keywords]]] = {
    "string": _string,
    "bytes": _bytes,
    "bool": lambda given: {"const": given["const"]} if "const" in given else {},
    "any": _any,
}


def _lengths(least: int | None, most: int | None, exact: int | None) -> Keywords:
    if exact is not None:
        return {"minLength": exact, "maxLength": exact}
    found: Keywords = {"minLength": least} if least else {}
    return found if most is None else {**found, "maxLength": most}


def _choice(given: _Given, form: Callable[[Any], Json]) -> Keywords:
    found: Keywords = {"const": form(given["const"])} if "const" in given else {}
    if given.get("in"):
        found["enum"] = [form(value) for value in given["in"]]
    if given.get("not_in"):
        found["not"] = {"enum": [form(value) for value in given["not_in"]]}
    return found


def _same(value: Any) -> Json:
    return cast("Json", value)


def _enum_name(enum: DescEnum) -> Callable[[int], Json]:
    names = {value.number: value.name for value in reversed(enum.values)}
    return lambda number: names.get(int(number), int(number))


def _is_ecma(pattern: str) -> bool:
    return _ONLY_RE2.search(pattern) is None


def _escaped(text: str) -> str:
    return _ECMA_SYNTAX.sub(r"\\\g<0>", text)


def merged(schema: Keywords, *parts: Keywords) -> Keywords:
    """A schema that asks for all of these; what cannot be one keyword goes into allOf."""
    found = dict(schema)
    for part in parts:
        twice: Keywords = {}
        for name, value in part.items():
            present = found.get(name, value)
            if present == value:
                found[name] = value
            elif name in _NESTED and isinstance(present, dict) and isinstance(value, dict):
                found[name] = merged(present, value)
            else:
                twice[name] = value
        if twice:
            found["allOf"] = [*cast("list[Json]", found.get("allOf", [])), twice]
    return found
