"""Strict ProtoJSON decoding.

On top of the runtime's decoder: two keys of one name, a field under both of
its spellings, two members of a oneof, nesting beyond a limit, and integers
that are only integers in Python (``"1_000"``) are refused, and every refusal
names the field or the place in the text. The input is never quoted.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple, TypeVar

import orjson
from protobuf import (
    DescEnum,
    DescField,
    DescFieldValueEnum,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescMessage,
    Message,
    Registry,
    ScalarType,
    message_from_json_value,
)

from gateway.transcoding.fields import WELL_KNOWN, Json, expected, unknown
from gateway.transcoding.json_check import JsonError, MessageCheck, join_path, message_check, plain, shown

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_TOKEN = re.compile(rb"[\[\]{}]|" + _STRING.pattern, re.DOTALL)
_STEP = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_NEWLINE = b"\n"
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")
_ESCAPED_COLON = b"\\u003"
_GOOD_KEYS = {ScalarType.STRING: "", ScalarType.BOOL: "true"}
_TOO_DEEP = "the JSON is nested too deeply"

_Item = TypeVar("_Item")

DECODE_ERRORS = (ValueError, TypeError, OverflowError, RecursionError)
"""What the runtime's decoder raises for JSON that does not fit."""


class JsonLimits(NamedTuple):
    """How much one JSON text may hold: levels of nesting, and values and keys together.

    They are counted by the brackets that open, the commas and the colons. Each value takes microseconds to
    decode, check and print, and nothing else runs meanwhile.
    Within a google.protobuf.Value there are no more than MAX_VALUE_DEPTH levels.
    """

    depth: int = 100
    values: int = 50_000


def parse_json(text: bytes, limits: JsonLimits) -> Json:
    """The value of a JSON text (RFC 8259). Raises JsonError, with line and column for wrong syntax."""
    try:
        value: Json = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        problem = f"invalid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        raise JsonError("", problem) from None
    if is_deeper(text, limits.depth):
        problem = f"the JSON is nested deeper than {limits.depth} levels at {_place(text, limits.depth)}"
        raise JsonError("", problem)
    if len(text) > limits.values and _marks(text) > limits.values:
        _check_count(text, limits.values)
    if not _keeps_all_keys(text, value):
        _check_keys(text)
    return value


def _marks(text: bytes) -> int:
    """How many brackets open, commas and colons there are, those within strings among them."""
    return text.count(b",") + text.count(b":") + text.count(b"[") + text.count(b"{")


def _check_count(text: bytes, limit: int) -> None:
    if _marks(_STRING.sub(b"", text)) > limit:
        problem = f"the JSON has more than {limit} values"
        raise JsonError("", problem)


def _keeps_all_keys(text: bytes, value: object) -> bool:
    """Whether no key replaced an earlier one; False also when that is not known.

    Each key has one colon. So none is lost if there are no more colons than keys in the value and
    right below it; else if the value, printed, has as many, for a colon inside a string prints as
    one colon too, unless it was written as an escape.
    """
    colons = text.count(b":")
    if type(value) is dict:
        keys = len(value)
        for member in value.values():
            if type(member) is dict:
                keys += len(member)
        if keys == colons:
            return True
    if text.find(_ESCAPED_COLON) >= 0:
        return False
    try:
        return colons == orjson.dumps(value).count(b":")
    except orjson.JSONEncodeError:
        return False


def is_deeper(text: bytes, levels: int) -> bool:
    """Whether the objects and arrays of a valid JSON text are nested deeper than that."""
    if text.count(b"[") + text.count(b"{") <= levels:
        return False
    brackets = _STRING.sub(b"", text).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(array("b", brackets)), default=0) > levels


def _place(text: bytes, levels: int) -> str:
    """Where a text, nested deeper, gets to the level after these."""
    depth = at = 0
    for token in _TOKEN.finditer(text):
        at = token.start()
        depth += _STEP.get(token[0], 0)
        if depth > levels:
            break
    line = text.count(_NEWLINE, 0, at) + 1
    return f"line {line}, column {at - text.rfind(_NEWLINE, 0, at)}"


def _check_keys(text: bytes) -> None:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) != len(pairs):
            (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            problem = f"the JSON has the key {shown(key)} twice in one object"
            raise JsonError("", problem)
        return members

    try:
        json.loads(text, object_pairs_hook=unique, parse_int=len, parse_float=len)
    except RecursionError:
        raise JsonError("", _TOO_DEEP) from None


_DEFAULT_LIMITS = JsonLimits()


class JsonDecoder:
    """Decodes ProtoJSON into one message type. Thread-safe; build once per type."""

    def __init__(
        self,
        message: DescMessage,
        *,
        ignore_unknown_fields: bool = False,
        limits: JsonLimits = _DEFAULT_LIMITS,
        registry: Registry | None = None,
        checks: dict[str, MessageCheck] | None = None,
    ) -> None:
        self._desc = message
        self._type = message.type
        self._ignore = ignore_unknown_fields
        self._limits = limits
        self._registry = registry
        self._check = message_check(message, {} if checks is None else checks)

    def decode(self, text: bytes) -> Message:
        """The message of a JSON text. Raises JsonError."""
        return self.from_value(parse_json(text, self._limits))

    def from_value(self, value: Json, field: str = "") -> Message:
        """The message of a parsed JSON value; `field` is where it stands. Raises JsonError.

        The value may be changed: it must not be used afterwards.
        """
        if self._check is not None:
            try:
                self._check(value)
            except JsonError as error:
                raise error.inside(field) from None
            except RecursionError:
                raise JsonError(field, _TOO_DEEP) from None
        try:
            return message_from_json_value(
                self._type, value, ignore_unknown_fields=self._ignore, registry=self._registry
            )
        except DECODE_ERRORS as error:
            raise self._located(value, field, error) from None

    def _located(self, value: Json, field: str, error: Exception) -> JsonError:
        if isinstance(error, RecursionError):
            return JsonError(field, _TOO_DEEP)
        return self._locate(self._desc, value, field) or JsonError(field, "is not valid here")

    def _locate(self, desc: DescMessage, value: Json, path: str) -> JsonError | None:
        """Find what the decoder refused, by decoding the parts; slow, and only after a failure."""
        if desc.type_name in WELL_KNOWN or not isinstance(value, dict):
            return JsonError(path, f"expected {expected(desc)}")
        fields = {field.json_name: field for field in desc.fields}
        fields |= {field.name: field for field in desc.fields}
        for key, member in value.items():
            field = fields.get(key)
            if field is None:
                if not self._ignore and not self._accepts(desc, {key: member}):
                    problem = unknown("unknown field", key, (field.name for field in desc.fields))
                    return JsonError(join_path(path, plain(key)), problem)
            elif not self._accepts(desc, {key: member}):
                return self._locate_field(desc, field, key, member, join_path(path, field.name))
        return None

    def _locate_field(
        self, desc: DescMessage, field: DescField, key: str, value: Json, path: str
    ) -> JsonError | None:
        match field.value:
            case DescFieldValueList(element=element):
                if not isinstance(value, list):
                    return JsonError(path, "expected a JSON array")
                index = _first_bad(value, lambda part: self._accepts(desc, {key: part}))
                return self._locate_element(element, value[index], f"{path}[{index}]")
            case DescFieldValueMap():
                if not isinstance(value, dict):
                    return JsonError(path, "expected a JSON object")
                return self._locate_entry(desc, field.value, key, value, path)
            case (
                DescFieldValueScalar(scalar=kind)
                | DescFieldValueEnum(enum=kind)
                | DescFieldValueMessage(message=kind)
            ):
                return self._locate_element(kind, value, path)

    def _locate_entry(
        self, desc: DescMessage, field: DescFieldValueMap, key: str, value: dict[str, Json], path: str
    ) -> JsonError | None:
        items = list(value.items())
        name, member = items[_first_bad(items, lambda part: self._accepts(desc, {key: dict(part)}))]
        good_name = _GOOD_KEYS.get(field.key, "0")
        if good_name and self._accepts(desc, {key: {good_name: member}}):
            return JsonError(path, f"the key {shown(name)} is not {expected(field.key)}")
        return self._locate_element(field.value, member, f"{path}[{shown(name)}]")

    def _locate_element(
        self, element: ScalarType | DescEnum | DescMessage, value: Json, path: str
    ) -> JsonError | None:
        if isinstance(element, DescMessage) and value is not None:
            return self._locate(element, value, path)
        return JsonError(path, f"expected {expected(element)}")

    def _accepts(self, desc: DescMessage, value: Json) -> bool:
        try:
            message_from_json_value(
                desc.type, value, ignore_unknown_fields=self._ignore, registry=self._registry
            )
        except DECODE_ERRORS:
            return False
        return True


def _first_bad(items: list[_Item], accepts: Callable[[list[_Item]], bool]) -> int:
    """The index of the first item that is refused, by halving."""
    low, high = 0, len(items)
    while high - low > 1:
        middle = (low + high) // 2
        if accepts(items[low:middle]):
            low = middle
        else:
            high = middle
    return low
