"""What a JSON body may hold, what is refused, and which place every refusal names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protobuf import DescMessage, Oneof, Registry
from protobuf.wkt.google.protobuf import struct_pb
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from gateway.transcoding import Options, json_encoder
from gateway.transcoding.fields import field_named
from gateway.transcoding.json_check import JsonError
from gateway.transcoding.json_decoder import JsonDecoder, JsonLimits
from gateway.transcoding.json_encoder import json_value_encoder


@pytest.fixture(scope="module")
def registry(library_set: bytes) -> Registry:
    return FileDescriptorSet.from_binary(library_set).to_registry()


@pytest.fixture(scope="module")
def values_registry(vectors_set: bytes) -> Registry:
    return FileDescriptorSet.from_binary(vectors_set).to_registry()


def message(registry: Registry, name: str) -> DescMessage:
    found = registry.message(name)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def book(registry: Registry) -> JsonDecoder:
    return JsonDecoder(message(registry, "transcoding.library.Book"), registry=registry)


@pytest.fixture(scope="module")
def values(values_registry: Registry) -> JsonDecoder:
    return JsonDecoder(message(values_registry, "transcoding.vectors.Values"))


REFUSED = [
    # (body, field, part of the problem)
    ("", "", "line 1, column 1"),
    ("{", "", "line 1, column 2"),
    ('{\n "name": }', "", "line 2, column 10"),
    ("[]", "", "expected a JSON object"),
    ("null", "", "expected a JSON object"),
    ('"x"', "", "expected a JSON object"),
    ('{"name":1}', "name", "a string"),
    ('{"name":NaN}', "", "line 1, column 9"),
    ('{"name":"\\ud800"}', "", "line 1"),
    (b'{"name":"\xff"}', "", "line 1"),
    (b'\xef\xbb\xbf{"name":"x"}', "", "line 1, column 1"),
    ('{"name":"a"} x', "", "line 1, column 14"),
    ("{'name':1}", "", "line 1, column 2"),
    ('{"name":"a",}', "", "line 1, column 12"),
    ('{"nope":1}', "nope", "unknown field"),
    ('{"displayTitel":1}', "displayTitel", "unknown field; did you mean display_title?"),
    ('{"sequels":[{"weigth":1}]}', "sequels[0].weigth", "unknown field; did you mean weight?"),
    ('{"a b\\n":1}', '"a b\\n"', "unknown field"),
    (json.dumps({"x" * 500: 1}), '"' + "x" * 64 + '..."', "unknown field"),
    ('{"name":"a","name":"b"}', "", 'the key "name" twice'),
    ('{"name":"a","na\\u006de":"b"}', "", 'the key "name" twice'),
    ('{"extra":{"a":1,"b":{"c":1,"c":2}}}', "", 'the key "c" twice'),
    ('{"extra":{"a:b":":","c":1,"c":2}}', "", 'the key "c" twice'),
    ('{"display_title":"a","displayTitle":"b"}', "display_title", "both of its names"),
    ('{"person":"a","company":"b"}', "company", "another member of the oneof 'owner'"),
    ('{"sequels":[{},{"person":"a","company":"b"}]}', "sequels[1].company", "another member"),
    ('{"page_count":"1_000"}', "page_count", "an integer in the range of int32"),
    ('{"page_count":"٣"}', "page_count", "an integer"),
    ('{"page_count":" 1"}', "page_count", "an integer"),
    ('{"page_count":1.5}', "page_count", "an integer"),
    ('{"page_count":2147483648}', "page_count", "an integer"),
    ('{"page_count":true}', "page_count", "an integer"),
    ('{"page_count":[1]}', "page_count", "an integer"),
    ('{"copies_sold":9223372036854775808}', "copies_sold", "an integer in the range of int64"),
    ('{"copies_sold":"9223372036854775808"}', "copies_sold", "an integer"),
    ('{"copies_sold":1e400}', "", "line 1"),
    ('{"copies_sold":' + "1" * 5000 + "}", "", "line 1"),
    ('{"copies_sold":"' + "1" * 5000 + '"}', "copies_sold", "an integer"),
    ('{"weight":"1e400"}', "weight", "a number"),
    ('{"weight":"inf"}', "weight", "a number"),
    ('{"weight":{}}', "weight", "a number"),
    ('{"genre":"GENRE_NOPE"}', "genre", "GENRE_UNSPECIFIED or GENRE_NOVEL"),
    ('{"genre":99999999999}', "genre", "GENRE_UNSPECIFIED or GENRE_NOVEL"),
    ('{"genres":["GENRE_NOVEL","GENRE_NOPE"]}', "genres[1]", "GENRE_UNSPECIFIED or GENRE_NOVEL"),
    ('{"cover":"!!"}', "cover", "base64"),
    ('{"cover":5}', "cover", "base64"),
    ('{"published":"yesterday"}', "published", "an RFC 3339 timestamp"),
    ('{"published":5}', "published", "an RFC 3339 timestamp"),
    ('{"tags":"a"}', "tags", "a JSON array"),
    ('{"tags":["a",1]}', "tags[1]", "a string"),
    ('{"tags":["a",null]}', "tags[1]", "a string"),
    ('{"chapters":[1,2,"3x"]}', "chapters[2]", "an integer"),
    ('{"chapters":[1,2,1.5,4]}', "chapters[2]", "an integer"),
    ('{"ratings":[]}', "ratings", "a JSON object"),
    ('{"ratings":{"a":1,"b":"x"}}', 'ratings["b"]', "an integer"),
    ('{"ratings":{"a":1,"b":1.5}}', 'ratings["b"]', "an integer"),
    ('{"flags":{"true":"a","maybe":"b"}}', "flags", 'the key "maybe" is not true or false'),
    ('{"flags":{"true":1}}', 'flags["true"]', "a string"),
    ('{"editions":{"1":{"name":1}}}', 'editions["1"].name', "a string"),
    ('{"editions":{"1":{},"x":{}}}', "editions", 'the key "x" is not an integer'),
    ('{"editions":{"1":null}}', 'editions["1"]', "a JSON object"),
    ('{"sequels":{}}', "sequels", "a JSON array"),
    ('{"sequels":[{},{"sequels":[{"nope":1}]}]}', "sequels[1].sequels[0].nope", "unknown field"),
    ('{"sequels":[{},5]}', "sequels[1]", "a JSON object"),
    ('{"extra":5}', "extra", "a JSON object"),
    ('{"extra":[]}', "extra", "a JSON object"),
    ('{"attachment":{"@type":"type.googleapis.com/no.such.Type"}}', "attachment", "@type that is known"),
    ('{"attachment":{"a":1}}', "attachment", "@type that is known"),
    ("[" * 10_000, "", "line 1"),
    ('{"a":' * 10_000, "", "line 1"),
    ('{"extra":' + "[" * 500 + "]" * 500 + "}", "", "nested deeper than 100 levels"),
    ('{"extra":{"a":"[[[\\"",' + '"b":{' * 99 + "}" * 99 + "}}", "", "nested deeper than 100 levels"),
    ("{" + '"sequels":[{' * 50 + "}]" * 50 + "}", "", "nested deeper than 100 levels"),
    ('{"extra":{\n"[":' + "[" * 99 + "]" * 99 + "}}", "", "deeper than 100 levels at line 2, column 103"),
    ('{"extra":' + '{"a":' * 31 + "1" + "}" * 31 + "}", "extra", "JSON nested deeper than 30 levels"),
    ('{"anything":' + "[" * 31 + "]" * 31 + "}", "anything", "JSON nested deeper than 30 levels"),
    ('{"sequels":[{"extra":{"a":' + "[" * 30 + "]" * 30 + "}}]}", "sequels[0].extra", "than 30 levels"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "field", "problem"), REFUSED)
def test_refused(book: JsonDecoder, body: str | bytes, field: str, problem: str) -> None:
    with pytest.raises(JsonError) as caught:
        book.decode(body.encode() if isinstance(body, str) else body)
    assert caught.value.field == field
    assert problem in caught.value.problem
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "body",
    [
        '{"name":null,"person":null,"company":"b","extra":null,"sequels":null,"ratings":null}',
        '{"page_count":"12"}',
        '{"page_count":1e2,"copies_sold":"1.0"}',
        '{"copies_sold":9223372036854775807}',
        '{"copies_sold":"-9223372036854775808"}',
        '{"cover":"YWJj-_","weight":"NaN","genre":7}',
        '{"displayTitle":"a","extra":{"a":[1,null,{"b":[]}]}}',
        '{"anything":null}',
        '{"anything":[[[1]]]}',
        '{"attachment":{"@type":"type.googleapis.com/transcoding.library.Book","name":"x"}}',
        '{"name":"a\\\\\\":[{","tags":["\\u003a",":"]}',
        '{"editions":{"1":{"name":"a"},"-2":{}},"flags":{"true":"a"}}',
        '{"extra":' + '{"a":' * 30 + "1" + "}" * 30 + "}",
        '{"anything":' + "[" * 30 + "1" + "]" * 30 + "}",
        " {} ",
    ],
)
def test_accepted(book: JsonDecoder, body: str) -> None:
    book.decode(body.encode())


def test_null_is_a_value_of_null_values_only(values: JsonDecoder) -> None:
    decoded: Any = values.decode(b'{"null_value":null,"enum_value":null,"any_value":null}')
    assert decoded.any_value.kind.field == "null_value"
    with pytest.raises(JsonError, match="oneof_null_value: another member of the oneof 'choice'"):
        values.decode(b'{"oneof_double_value":1,"oneof_null_value":null}')


@pytest.mark.parametrize(
    ("mask", "paths"),
    [
        ("a,b.c", ["a", "b.c"]),
        ("displayTitle", ["display_title"]),
        ("display_title,a_b.c_d", ["display_title", "a_b.c_d"]),
    ],
)
def test_field_masks_in_either_spelling(values: JsonDecoder, mask: str, paths: list[str]) -> None:
    decoded: Any = values.decode(json.dumps({"field_mask": mask}).encode())
    assert decoded.field_mask.paths == paths


def test_unknown_fields_can_be_ignored(registry: Registry) -> None:
    desc = message(registry, "transcoding.library.Book")
    decoder = JsonDecoder(desc, ignore_unknown_fields=True)
    decoded: Any = decoder.decode(b'{"nope":{"deep":1},"name":"x","sequels":[{"nope":1}]}')
    assert decoded.name == "x"
    with pytest.raises(JsonError, match=r"sequels\[0\]\.name: expected a string"):
        decoder.decode(b'{"nope":1,"sequels":[{"nope":1,"name":1}]}')


def test_the_place_in_a_larger_body_is_named(book: JsonDecoder) -> None:
    with pytest.raises(JsonError) as caught:
        book.from_value({"person": "a", "company": "b"}, "book")
    assert caught.value.field == "book.company"


def test_the_wrong_one_of_many_is_found_quickly(book: JsonDecoder) -> None:
    chapters: list[object] = [1] * 40_000
    chapters[23_456] = 1.5
    with pytest.raises(JsonError) as caught:
        book.decode(json.dumps({"chapters": chapters}).encode())
    assert caught.value.field == "chapters[23456]"


def test_breadth_is_not_depth(book: JsonDecoder) -> None:
    book.decode(json.dumps({"extra": {"a": [[]] * 200}}).encode())
    book.decode(b'{"name":"' + b"[" * 200 + b'"}')


def test_a_tree_without_end_is_refused(book: JsonDecoder) -> None:
    tree: Any = {}
    for _ in range(5000):
        tree = {"sequels": [tree]}
    with pytest.raises(JsonError, match="book: the JSON is nested too deeply"):
        book.from_value(tree, "book")


def test_depth_has_an_end_even_without_a_limit(registry: Registry) -> None:
    decoder = JsonDecoder(message(registry, "transcoding.library.Book"), limits=JsonLimits(depth=100_000))
    for depth in (120, 300, 500):
        with pytest.raises(JsonError, match="nested too deeply"):
            decoder.decode(b'{"sequels":[' * depth + b"{}" + b"]}" * depth)


def test_the_number_of_values_has_an_end(registry: Registry) -> None:
    decoder = JsonDecoder(message(registry, "transcoding.library.Book"), limits=JsonLimits(values=10))
    decoder.decode(b'{"name":"' + b",:" * 50 + b'"}')
    decoder.decode(b'{"tags":[' + b",".join([b'"[{"'] * 8) + b"]}")
    many, nested = b",".join([b'""'] * 9), b"[" * 9 + b"]" * 9
    for text in (b'{"tags":[' + many + b"]}", b'{"extra":{"a":' + nested + b"}}"):
        with pytest.raises(JsonError, match="more than 10 values"):
            decoder.decode(text)


def refusal(decoder: JsonDecoder, body: bytes) -> JsonError | None:
    try:
        decoder.decode(body)
    except JsonError as error:
        return error
    return None


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_refused(book: JsonDecoder, body: bytes) -> None:
    error = refusal(book, body)
    assert error is None or len(str(error)) < 400


NAMES = [
    "name", "displayTitle", "display_title", "page_count", "copies_sold", "genre", "tags", "ratings", "extra",
    "published", "person", "company", "sequels", "attachment", "flags", "anything", "cover", "weight",
    "editions", "chapters", "genres", "@type", "nope",
]  # fmt: skip
TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(
        ["GENRE_NOVEL", "2021-01-01T00:00:00Z", "12", "YQ==", "type.googleapis.com/google.protobuf.Duration"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=10,
)


@given(TREES)
def test_any_json_is_a_message_or_refused(book: JsonDecoder, registry: Registry, tree: object) -> None:
    encode = json_encoder(message(registry, "transcoding.library.Book"), Options(registry=registry))
    body = json.dumps(tree).encode()
    if refusal(book, body) is None:
        printed = encode(book.decode(body))
        assert encode(book.decode(printed)) == printed


@pytest.mark.parametrize(
    ("extra", "printed"),
    [
        ('{"a":1}', '{"a":1}'),
        ('{"a":1.0,"b":-3,"c":0,"d":-0.0}', '{"a":1,"b":-3,"c":0,"d":0}'),
        ('{"a":1.5}', '{"a":1.5}'),
        ('{"a":"1.0,","b":"x.0"}', '{"a":"1.0,","b":"x.0"}'),
        ('{"a":[1,[2.0,{"b":3}],null,true]}', '{"a":[1,[2,{"b":3}],null,true]}'),
        ('{"a":9007199254740992}', '{"a":9007199254740992}'),
        ('{"a":1e300,"b":1}', '{"a":1e+300,"b":1}'),
    ],
)
def test_whole_numbers_in_structs_print_whole(
    book: JsonDecoder, registry: Registry, extra: str, printed: str
) -> None:
    encode = json_encoder(message(registry, "transcoding.library.Book"), Options(emit_defaults=False))
    decoded = book.decode(f'{{"extra":{extra}}}'.encode())
    assert encode(decoded).decode() == f'{{"extra":{printed}}}'


def test_numbers_outside_of_structs_stay_as_they_are(book: JsonDecoder, registry: Registry) -> None:
    encode = json_encoder(message(registry, "transcoding.library.Book"), Options(emit_defaults=False))
    inner = b'"editions":{"1":{"extra":{"a":4}}}'
    body = b'{"weight":2,"anything":[2],"sequels":[{"weight":3,"anything":3,%b}]}' % inner
    assert encode(book.decode(body)) == (
        b'{"sequels":[{"anything":3,"weight":3.0,%b}],"anything":[2],"weight":2.0}' % inner
    )


def test_structs_as_whole_answers() -> None:
    desc = struct_pb.Value.desc()
    encode = json_encoder(desc, Options())
    assert encode(struct_pb.Value(kind=Oneof("number_value", 3.0))) == b"3"
    with pytest.raises(ValueError, match="exactly one"):
        encode(struct_pb.Value())


def test_how_names_defaults_and_enums_print(registry: Registry) -> None:
    desc = message(registry, "transcoding.library.ListBooks")
    some: Any = desc.type(page_size=3)
    assert json_encoder(desc, Options())(some) == b'{"shelf":"","page_size":3,"tags":[]}'
    plain = Options(proto_names=False, emit_defaults=False)
    assert json_encoder(desc, plain)(some) == b'{"pageSize":3}'
    book_desc = message(registry, "transcoding.library.Book")
    book: Any = book_desc.type(genre=1)
    numbers = Options(enums_as_numbers=True, emit_defaults=False)
    assert json_encoder(book_desc, numbers)(book) == b'{"genre":1}'


def test_one_field_as_the_answer(registry: Registry) -> None:
    desc = message(registry, "transcoding.library.Books")
    options = Options(emit_defaults=False)
    books: Any = desc.type(total=3, ids=[1, 2])

    def encoded(name: str, given: Any = books) -> bytes:
        field = field_named(desc, name)
        assert field is not None
        return json_value_encoder(field, options)(given)

    assert encoded("total") == b"3"
    assert encoded("ids") == b'["1","2"]'
    assert encoded("first") == b"null"
    assert encoded("books", desc.type()) == b"[]"
    assert encoded("total", desc.type()) == b"0"
    summary = JsonDecoder(desc).decode(b'{"summary":{"a":1},"first":{"name":"x"}}')
    assert encoded("summary", summary) == b'{"a":1}'
    assert encoded("first", summary) == b'{"name":"x"}'
