"""Path, query and body into one request message, and what is refused on the way."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protobuf import DescMethod, DescService, Oneof
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from gateway.transcoding import Code, Options, StatusError, encode_request, rule_bindings
from gateway.transcoding.gen.google.api.http_pb import HttpRule
from gateway.transcoding.json_check import MessageCheck
from gateway.transcoding.request import RequestDecoder
from tests.transcoding.asgi import call
from tests.transcoding.library import Library

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture
def library(library_set: bytes) -> Library:
    return Library(library_set)


@pytest.fixture(scope="module")
def values_method(vectors_set: bytes) -> DescMethod:
    service = FileDescriptorSet.from_binary(vectors_set).to_registry().service("transcoding.vectors.Vectors")
    assert isinstance(service, DescService)
    return next(method for method in service.methods if method.name == "Values")


def decoder(method: DescMethod, path: str, **rule: Any) -> RequestDecoder:
    (binding,) = rule_bindings(method, HttpRule(pattern=Oneof("post", path), **rule))
    checks: dict[str, MessageCheck] = {}
    return RequestDecoder(binding, Options(), checks)


PATH = "/v1/shelves/1/books"

REFUSED: list[tuple[str, str, str | None, str]] = [
    # (method, target, body, the field that is named)
    ("GET", f"{PATH}?nope=1", None, "nope"),
    ("GET", f"{PATH}?=1", None, '""'),
    ("GET", f"{PATH}?page_size=x", None, "page_size"),
    ("GET", f"{PATH}?page_size=1&page_size=2", None, "page_size"),
    ("GET", f"{PATH}?page_size=1&pageSize=1", None, "pageSize"),
    ("GET", f"{PATH}?page_size=99999999999", None, "page_size"),
    ("GET", f"{PATH}?page_size=", None, "page_size"),
    ("GET", f"{PATH}?page_size=1_0", None, "page_size"),
    ("GET", f"{PATH}?shelf=2", None, "shelf"),
    ("GET", f"{PATH}?filter=x", None, "filter"),
    ("GET", f"{PATH}?filter.nope=x", None, "filter.nope"),
    ("GET", f"{PATH}?filter.genre=x", None, "filter.genre"),
    ("GET", f"{PATH}?filter.genre=99999999999", None, "filter.genre"),
    ("GET", f"{PATH}?filter.author.x=1", None, "filter.author.x"),
    ("GET", f"{PATH}?tags.x=1", None, "tags.x"),
    ("GET", f"{PATH}?filter.{'nested.' * 120}author=x", None, f'"filter.{"nested." * 8}n..."'),
    ("GET", f"{PATH}?filter.{'nested.' * 3000}author=x", None, ""),
    ("GET", f"{PATH}?a%0Ab=1", None, '"a\\nb"'),
    ("POST", f"{PATH}?book.name=x", "{}", "book.name"),
    ("POST", f"{PATH}?nope=x", "{}", "nope"),
    ("POST", f"{PATH}?request_id=a&request_id=b", "{}", "request_id"),
    ("POST", PATH, '{"name":1}', "book.name"),
    ("POST", PATH, '{"person":"a","company":"b"}', "book.company"),
    ("POST", PATH, "[1]", "book"),
    ("PUT", "/v1/shelves/1/books/2", '{"name":"other"}', "name"),
    ("PUT", "/v1/shelves/1/books/2", '{"name":5}', "name"),
    ("PUT", "/v1/shelves/1/books/2?tags=x", "{}", "tags"),
    ("PUT", "/v1/shelves/1/books/2", "5", ""),
    ("PATCH", "/v1/shelves/1/books/2", '{"name":"other"}', "book.name"),
    ("PATCH", "/v1/shelves/1/books/2", "[]", "book"),
    ("PATCH", "/v1/shelves/1/books/2?update_mask=a&updateMask=b", "{}", "updateMask"),
    ("GET", "/v1/shelves/1/books/2", "{}", ""),
    ("GET", f"{PATH}?page_size=%zz", None, ""),
    ("GET", f"{PATH}?page_size=%ff", None, ""),
    ("GET", f"{PATH}?%ff", None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target", "body", "field"), REFUSED)
async def test_refused(library: Library, method: str, target: str, body: str | None, field: str) -> None:
    answer = await call(library.app, method, target, body)
    assert answer.status in {400, 414}
    assert answer.json()["code"] == Code.INVALID_ARGUMENT
    assert answer.violations == ([field] if field else [])
    assert library.requests == []


async def test_the_raw_query_must_be_utf8(library: Library) -> None:
    answer = await call(library.app, "GET", PATH.encode() + b"?page_size=\xff")
    assert (answer.status, answer.json()["message"]) == (400, "the query string is not UTF-8")


async def test_path_query_and_body_come_together(library: Library) -> None:
    target = "/v1/shelves/a%2Fb/books?tags=x&tags=y%26z&pageSize=5&filter.author=A+B&filter.nested.genre=1&&"
    assert (await call(library.app, "GET", target)).status == 200
    (request,) = library.requests
    assert (request.shelf, request.tags, request.page_size) == ("a/b", ["x", "y&z"], 5)
    assert (request.filter.author, request.filter.nested.genre) == ("A B", 1)


@pytest.mark.parametrize("target", [f"{PATH}?shelf=1", f"{PATH}?shelf=%31"])
async def test_the_same_value_twice_is_fine(library: Library, target: str) -> None:
    assert (await call(library.app, "GET", target)).status == 200
    assert library.requests[0].shelf == "1"


@pytest.mark.parametrize("body", ['{"name":"shelves/1/books/2"}', '{"name":null}', "{}", ""])
async def test_the_path_fills_the_body(library: Library, body: str) -> None:
    assert (await call(library.app, "PUT", "/v1/shelves/1/books/2", body)).status == 200
    assert (await call(library.app, "PATCH", "/v1/shelves/1/books/2", body)).status == 200
    assert [getattr(request, "book", request).name for request in library.requests] == [
        "shelves/1/books/2"
    ] * 2


async def test_a_null_body_of_a_field_is_no_message(library: Library) -> None:
    assert (await call(library.app, "POST", PATH, "null")).status == 200
    assert library.requests[0].book is None


async def test_bytes_of_a_nested_field_beside_other_fields(vectors_set: bytes) -> None:
    service = FileDescriptorSet.from_binary(vectors_set).to_registry().service("transcoding.vectors.Vectors")
    assert service is not None
    method = next(method for method in service.methods if method.name == "EchoBody")
    raw = decoder(method, "/x", body="nested.content")
    decoded: Any = raw.decode({}, b"arg=a&nested.content.content_type=b", b"data", "text/plain")
    assert (decoded.arg, decoded.nested.content.content_type) == ("a", "text/plain")
    assert decoded.nested.content.data == b"data"


def test_values_are_compared_as_the_field_means_them(values_method: DescMethod) -> None:
    numbers = decoder(values_method, "/{int64_value}/{nested.timestamp}", body="*")
    body = b'{"int64Value":5,"nested":{"timestamp":"2021-01-01T01:00:00+01:00"}}'
    variables = {"int64_value": "5", "nested.timestamp": "2021-01-01T00:00:00Z"}
    decoded: Any = numbers.decode(variables, b"", body, "")
    assert (decoded.int64_value, decoded.nested.timestamp.seconds) == (5, 1609459200)
    with pytest.raises(StatusError, match="int64_value: differs from the value in the path"):
        numbers.decode(variables | {"int64_value": "6"}, b"", body, "")
    with pytest.raises(StatusError, match="nested: expected a JSON object"):
        numbers.decode(variables, b"", b'{"nested":5}', "")
    with pytest.raises(StatusError, match=r"int64_value: (differs|expected)"):
        numbers.decode(variables, b"", b'{"int64_value":"x"}', "")


FORMS: list[tuple[str, Any]] = [
    ("bool_value=true", {"bool_value": True}),
    ("double_value=-1.5e3&float_value=1", {"double_value": -1500, "float_value": 1}),
    ("double_value=-Infinity", {"double_value": "-Infinity"}),
    (
        "uint64_value=18446744073709551615&uint32_value=007",
        {"uint64_value": 18446744073709551615, "uint32_value": 7},
    ),
    ("int32_value=1e3", {"int32_value": 1000}),
    ("bytes_value=YWJj-_8", {"bytes_value": "YWJj+/8="}),
    ("bytes_value=YWJj%2B%2F8%3D", {"bytes_value": "YWJj+/8="}),
    ("duration=1.5s", {"duration": "1.5s"}),
    ("field_mask=a_b,c.dE", {"field_mask": "aB,c.dE"}),
    (
        "int64_value_wrapper=5&bool_value_wrapper=false",
        {"int64_value_wrapper": "5", "bool_value_wrapper": False},
    ),
    ("bytes_value_wrapper=YQ", {"bytes_value_wrapper": "YQ=="}),
    ("enum_list=ENUM_VALUE&enum_list=0&enumList=-1", {"enum_list": [1, 0, -1]}),
    ("double_list=1&double_list=2.5", {"double_list": [1, 2.5]}),
    ("optional_value=0", {"optional_value": 0}),
    ("null_value=null&oneof_null_value=NULL_VALUE", {"null_value": None, "oneof_null_value": "NULL_VALUE"}),
    ("string_value=%00%F0%9F%8E%89=", {"string_value": "\0🎉="}),
    ("string_value", {"string_value": ""}),
]


@pytest.mark.parametrize(("query", "expected"), FORMS)
def test_forms_of_query_parameters(values_method: DescMethod, query: str, expected: Any) -> None:
    decoded = decoder(values_method, "/x").decode({}, query.encode(), b"", "")
    assert decoded == values_method.input.type.from_json(json.dumps(expected))


def test_nan_is_a_number(values_method: DescMethod) -> None:
    decoded: Any = decoder(values_method, "/x").decode({}, b"float_value=NaN", b"", "")
    assert math.isnan(decoded.float_value)


@pytest.mark.parametrize(
    "query",
    [
        "bool_value=1", "bool_value=True", "bool_value=", "double_value=1_0", "double_value=inf",
        "double_value=1e999", "bytes_value=!", "bytes_value=Y", "duration=1", "timestamp=now",
        "enum_value=enum_value", "enum_value=1.0", "enum_value=99999999999", "uint32_value=-1",
        "uint64_value=18446744073709551616", "float_value=1e39", "string_map.a=1", "string_map=1",
        "nested=1", "recursive_list=1", "struct_value=1", "struct_value.a=1", "any_value=1",
        "int64_value_wrapper=x", "int64_value_wrapper.value=1", "timestamp.seconds=1",
        "oneof_double_value=1&oneof_enum_value=1", "nested.oneof_double_value=1&nested.oneof_enum_value=1",
        "null_value=1.5", "int32_value=" + "9" * 5000, "double_value=" + "9" * 5000,
    ],
)  # fmt: skip
def test_wrong_forms_of_query_parameters(values_method: DescMethod, query: str) -> None:
    with pytest.raises(StatusError, match=query.rpartition("=")[0].split("&")[-1].split(".")[0]) as caught:
        decoder(values_method, "/x").decode({}, query.encode(), b"", "")
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert len(str(caught.value)) < 200


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
INT64 = st.integers(-(2**63), 2**63 - 1)
LEAVES = {
    "string_value": TEXTS,
    "int32_value": st.integers(-(2**31), 2**31 - 1),
    "int64_value": INT64.map(str),
    "uint64_value": st.integers(0, 2**64 - 1).map(str),
    "bool_value": st.booleans(),
    "double_value": st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["NaN", "Infinity"]),
    "bytes_value": st.sampled_from(["", "YQ==", "+/8="]),
    "enum_value": st.sampled_from(["ENUM_VALUE", 0, 7]),
    "timestamp": st.sampled_from(["2021-01-01T00:00:00Z", "1970-01-01T00:00:00.000001Z"]),
    "duration": st.sampled_from(["1s", "-0.5s"]),
    "field_mask": st.sampled_from(["a", "aB.c,d"]),
    "string_value_wrapper": TEXTS,
    "int64_value_wrapper": INT64.map(str),
    "bool_value_wrapper": st.booleans(),
    "repeated_value": st.lists(TEXTS, max_size=3),
    "double_list": st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    "enum_list": st.lists(st.sampled_from(["ENUM_VALUE", 0]), max_size=3),
    "oneof_double_value": st.floats(allow_nan=False, allow_infinity=False),
    "optional_value": st.integers(0, 5),
}
MESSAGES = st.recursive(
    st.fixed_dictionaries({}, optional=LEAVES),
    lambda inner: st.fixed_dictionaries({}, optional=LEAVES | {"nested": inner}),
    max_leaves=3,
)


@given(MESSAGES)
def test_encoding_and_decoding_a_query_are_inverse(values_method: DescMethod, fields: dict[str, Any]) -> None:
    (binding,) = rule_bindings(values_method, HttpRule(pattern=Oneof("get", "/x")))
    message = values_method.input.type.from_json(json.dumps(fields))
    query = encode_request(binding, message).target.partition("?")[2]
    decoded = RequestDecoder(binding, Options(), {}).decode({}, query.encode(), b"", "")
    # A message without any field that is set has no parameter, and so is not set either.
    assert _pruned(decoded.to_json()) == _pruned(message.to_json())


def _pruned(text: str) -> Any:
    def prune(members: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in members.items() if value != {}}

    return json.loads(text, object_hook=prune)


@given(st.integers(0, 2**31 - 1), MESSAGES.map(lambda fields: fields | {"string_value": "s"}))
def test_encoding_and_decoding_a_request_are_inverse(
    values_method: DescMethod, number: int, fields: dict[str, Any]
) -> None:
    rules = [
        HttpRule(pattern=Oneof("post", "/x/{int32_value}:v"), body="*"),
        HttpRule(pattern=Oneof("post", "/x/{int32_value}/{string_value=**}"), body="nested"),
    ]
    message: Any = values_method.input.type.from_json(json.dumps(fields))
    message.int32_value = number
    for rule in rules:
        (binding,) = rule_bindings(values_method, rule)
        encoded = encode_request(binding, message)
        path, _, query = encoded.target.partition("?")
        variables = {"int32_value": str(number), "string_value": "s"}
        assert path.startswith(f"/x/{number}")
        decoded = RequestDecoder(binding, Options(), {}).decode(
            variables, query.encode(), encoded.body or b"", ""
        )
        assert _pruned(decoded.to_json()) == _pruned(message.to_json())


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("page_sise=3", "page_sise: unknown query parameter; did you mean page_size?"),
        ("filter.autor=x", "filter.autor: unknown query parameter; did you mean filter.author?"),
        ("xyz=x", "xyz: unknown query parameter; known here: shelf, page_size, tags, filter"),
        (f"{'page_size' * 9}=x", "unknown query parameter; known here: shelf, page_size, tags, filter"),
    ],
)
async def test_of_what_is_unknown_the_nearest_is_told(library: Library, query: str, told: str) -> None:
    answer = await call(library.app, "GET", f"{PATH}?{query}")
    assert (answer.status, json.loads(answer.body)["message"].endswith(told)) == (400, True)


async def test_what_is_unknown_can_be_ignored(library_set: bytes) -> None:
    library = Library(library_set, Options(ignore_unknown_parameters=True, ignore_unknown_fields=True))
    assert (await call(library.app, "GET", f"{PATH}?nope=1&filter.nope=2&page_size=3&a.b=c")).status == 200
    assert library.requests[0].page_size == 3
    assert (await call(library.app, "PUT", "/v1/shelves/1/books/2?nope=1", '{"nope":1}')).status == 200
    assert (await call(library.app, "GET", f"{PATH}?filter=x")).violations == ["filter"]


@pytest.mark.parametrize(
    ("body", "mask"),
    [
        ('{"displayTitle":"x","page_count":null}', ["display_title", "page_count"]),
        ('{"tags":[],"ratings":{"a":1},"sequels":[{"name":"x"}]}', ["ratings", "sequels", "tags"]),
        ('{"extra":{"a":{"b":1},"c":[1]}}', ["extra.a.b", "extra.c"]),
        ('{"extra":{"a":{"camelKey":1},"b":{}}}', ["extra.a", "extra.b"]),
        ('{"extra":{"a b":1}}', ["extra"]),
        (
            '{"extra":null,"published":"2021-01-01T00:00:00Z","anything":{"a":1}}',
            ["anything", "extra", "published"],
        ),
        ("{}", []),
        ("", []),
        ("null", []),
    ],
)
async def test_a_patch_implies_its_mask(library: Library, body: str, mask: list[str]) -> None:
    assert (await call(library.app, "PATCH", "/v1/shelves/1/books/2", body)).status == 200
    assert library.requests[0].update_mask.paths == mask


async def test_a_mask_that_is_given_holds(library: Library) -> None:
    target = "/v1/shelves/1/books/2?update_mask=display_title,tags"
    assert (await call(library.app, "PATCH", target, '{"page_count":3}')).status == 200
    assert library.requests[0].update_mask.paths == ["display_title", "tags"]


def test_a_mask_is_implied_only_where_it_can_be(library_set: bytes) -> None:
    service = FileDescriptorSet.from_binary(library_set).to_registry().service("transcoding.library.Library")
    assert service is not None
    methods = {method.name: method for method in service.methods}

    def decoded(name: str, kind: str, **rule: Any) -> Any:
        (binding,) = rule_bindings(methods[name], HttpRule(pattern=Oneof(kind, "/x"), **rule))  # type: ignore[arg-type]
        return RequestDecoder(binding, Options(), {}).decode({}, b"", b"{}", "")

    assert decoded("UpdateBook", "put", body="book").update_mask is None
    assert decoded("UpdateBook", "patch", body="*").update_mask is None
    assert decoded("CreateBook", "patch", body="book").book is not None


@pytest.mark.parametrize("body", ["[1]", "3", '"x"', '{"a":1}', "null"])
async def test_any_json_can_be_the_whole_request(library: Library, body: str) -> None:
    answer = await call(library.app, "POST", "/v1/echo", body)
    assert (answer.status, answer.body.decode()) == (200, body)


async def test_the_whole_request_can_be_empty(library: Library) -> None:
    assert (await call(library.app, "POST", "/v1/ping")).status == 200
    assert (await call(library.app, "POST", "/v1/ping", "{}")).status == 200
    assert (await call(library.app, "POST", "/v1/ping", '{"a":1}')).violations == ["a"]
    assert (await call(library.app, "POST", "/v1/ping?a=1", "{}")).violations == ["a"]
