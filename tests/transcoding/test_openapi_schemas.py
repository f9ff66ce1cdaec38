"""Schemas of an OpenAPI document: each rule of how fields and messages become JSON Schema."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.transcoding import Options
from tests.transcoding.describing import describe, operation, validate


def request_field(field: str, extra: str = "", options: Options | None = None) -> Any:
    """The schema of the field `f` of a request, that of the request, and the document."""
    body = f"""
        service S {{ rpc Do(In) returns (Out) {{ option (google.api.http) = {{post: "/do" body: "*"}}; }} }}
        message In {{ {field} }}
        message Out {{}}
        {extra}
    """
    document = describe(body, options=options)
    schema = document["components"]["schemas"]["In"]
    return schema["properties"]["f"], schema, document


SCALARS = [
    ("bool", {"type": "boolean"}),
    ("string", {"type": "string"}),
    ("int32", {"type": "integer", "format": "int32"}),
    ("sfixed32", {"type": "integer", "format": "int32"}),
    ("uint32", {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 4294967295}),
    ("int64", {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}),
    ("fixed64", {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"}),
    ("bytes", {"type": "string", "contentEncoding": "base64"}),
    (
        "double",
        {
            "anyOf": [
                {"type": "number", "format": "double"},
                {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]},
            ]
        },
    ),
    ("google.protobuf.Timestamp", {"type": "string", "format": "date-time"}),
    ("google.protobuf.Struct", {"type": "object"}),
    ("google.protobuf.Value", {}),
    ("google.protobuf.ListValue", {"type": "array", "items": {}}),
    ("google.protobuf.Int64Value", {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}),
    ("google.protobuf.BoolValue", {"type": "boolean"}),
    ("google.protobuf.NullValue", {"type": "null"}),
    (
        "google.protobuf.Any",
        {"type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"]},
    ),
]


@pytest.mark.parametrize(("proto_type", "expected"), SCALARS, ids=[name for name, _ in SCALARS])
def test_value_has_its_json_form(proto_type: str, expected: dict[str, Any]) -> None:
    field, _, _ = request_field(f"{proto_type} f = 1;")
    assert field == expected


def test_duration_and_field_mask_are_strings() -> None:
    duration, _, _ = request_field("google.protobuf.Duration f = 1;")
    mask, _, _ = request_field("google.protobuf.FieldMask f = 1;")
    assert duration["type"] == mask["type"] == "string"


def test_repeated_and_map() -> None:
    items, _, _ = request_field("repeated int64 f = 1;")
    assert items["type"] == "array"
    assert items["items"]["format"] == "int64"
    table, _, _ = request_field("map<int32, string> f = 1;")
    assert table["additionalProperties"] == {"type": "string"}
    assert table["propertyNames"] == {"pattern": "^-?[0-9]+$"}
    flags, _, _ = request_field("map<bool, string> f = 1;")
    assert flags["propertyNames"] == {"enum": ["true", "false"]}
    names, _, _ = request_field("map<string, In> f = 1;")
    assert names == {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/In"}}


ENUM = """
    // A colour.
    enum Colour {
      COLOUR_UNSPECIFIED = 0;
      // Like blood.
      COLOUR_RED = 1;
    }
"""


def test_enum_lists_its_names_and_comments() -> None:
    field, _, document = request_field("Colour f = 1;", ENUM)
    assert field == {"$ref": "#/components/schemas/Colour"}
    colour = document["components"]["schemas"]["Colour"]
    assert colour["enum"] == ["COLOUR_UNSPECIFIED", "COLOUR_RED"]
    assert colour["description"] == "A colour.\n\n- `COLOUR_RED`: Like blood."


def test_enum_lists_numbers_when_they_are_printed() -> None:
    _, _, document = request_field("Colour f = 1;", ENUM, Options(enums_as_numbers=True))
    assert document["components"]["schemas"]["Colour"]["enum"] == [0, 1]


RULES = [
    ("string", "string.min_len = 2", {"minLength": 2}),
    ("string", "string = {len: 3}", {"minLength": 3, "maxLength": 3}),
    ("string", "string.max_len = 9", {"maxLength": 9}),
    ("string", "string = {min_bytes: 5 max_bytes: 8}", {"minLength": 2, "maxLength": 8}),
    ("string", 'string.pattern = "^[a-z]+$"', {"pattern": "^[a-z]+$"}),
    ("string", 'string.pattern = "(?i)a"', {}),
    ("string", 'string.prefix = "a.b"', {"pattern": r"^a\.b"}),
    (
        "string",
        'string = {prefix: "a" suffix: "b" not_contains: "c"}',
        {"pattern": "^a", "allOf": [{"pattern": "b$"}], "not": {"pattern": "c"}},
    ),
    ("string", 'string.const = "x"', {"const": "x"}),
    ("string", 'string = {in: ["a", "b"]}', {"enum": ["a", "b"]}),
    ("string", 'string = {not_in: ["a"]}', {"not": {"enum": ["a"]}}),
    ("string", "string.uuid = true", {"format": "uuid"}),
    ("string", "string.email = true", {"format": "email"}),
    ("string", "string.hostname = true", {"format": "hostname"}),
    ("string", "string.ip = true", {"anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
    ("string", "string.uri_ref = true", {"format": "uri-reference"}),
    ("int32", "int32 = {gte: 1 lt: 5}", {"minimum": 1, "exclusiveMaximum": 5}),
    ("int32", "int32 = {gt: 5 lt: 1}", {"anyOf": [{"exclusiveMinimum": 5}, {"exclusiveMaximum": 1}]}),
    ("int32", "int32 = {in: [1, 2]}", {"enum": [1, 2]}),
    ("int64", "int64 = {gte: 1 in: [7]}", {"enum": ["7"]}),
    ("bool", "bool.const = true", {"const": True}),
    ("bytes", "bytes = {min_len: 4 max_len: 4}", {"minLength": 6, "maxLength": 8}),
    ("Colour", "enum = {not_in: [0]}", {"not": {"enum": ["COLOUR_UNSPECIFIED"]}}),
    ("Colour", "enum.const = 1", {"const": "COLOUR_RED"}),
    ("repeated int32", "repeated = {min_items: 1 max_items: 3 unique: true}",
     {"minItems": 1, "maxItems": 3, "uniqueItems": True}),
    ("repeated string", "repeated = {items: {string: {max_len: 4}}}",
     {"items": {"type": "string", "maxLength": 4}}),
    ("map<string, int32>",
     "map = {min_pairs: 1 max_pairs: 2 keys: {string: {min_len: 1}} values: {int32: {gte: 0}}}",
     {"minProperties": 1, "maxProperties": 2, "propertyNames": {"minLength": 1},
      "additionalProperties": {"type": "integer", "format": "int32", "minimum": 0}}),
    ("google.protobuf.StringValue", "string.max_len = 3", {"maxLength": 3}),
    ("google.protobuf.Any", 'any = {in: ["a/b"]}',
     {"properties": {"@type": {"type": "string", "enum": ["a/b"]}}}),
    ("string", "ignore = IGNORE_ALWAYS, (buf.validate.field).string.min_len = 2", {}),
]  # fmt: skip


@pytest.mark.parametrize(("proto_type", "rule", "expected"), RULES, ids=[rule for _, rule, _ in RULES])
def test_validation_rule_has_its_keyword(proto_type: str, rule: str, expected: dict[str, Any]) -> None:
    plain, _, _ = request_field(f"{proto_type} f = 1;", ENUM)
    field, _, _ = request_field(f"{proto_type} f = 1 [(buf.validate.field).{rule}];", ENUM)
    assert field == {**plain, **expected}


REQUIRED = [
    ("string f = 1 [(google.api.field_behavior) = REQUIRED];", True),
    ("Other f = 1 [(buf.validate.field).required = true];", True),
    ("string f = 1 [(buf.validate.field).string.min_len = 1];", True),
    ("string f = 1 [(buf.validate.field).string.uuid = true];", True),
    ('string f = 1 [(buf.validate.field).string.pattern = "^a"];', True),
    ('string f = 1 [(buf.validate.field).string.pattern = "^a*$"];', False),
    ('string f = 1 [(buf.validate.field).string = {in: ["", "a"]}];', False),
    ("string f = 1 [(buf.validate.field) = {string: {uuid: true} ignore: IGNORE_IF_ZERO_VALUE}];", False),
    ("optional string f = 1 [(buf.validate.field).string.min_len = 1];", False),
    ("bytes f = 1 [(buf.validate.field).bytes.min_len = 1];", True),
    ("int32 f = 1 [(buf.validate.field).int32.gt = 0];", True),
    ("int32 f = 1 [(buf.validate.field).int32.gte = 0];", False),
    ("int32 f = 1 [(buf.validate.field).int32 = {lt: -3}];", True),
    ("int32 f = 1 [(buf.validate.field).int32 = {gt: 5 lt: 1}];", False),
    ("bool f = 1 [(buf.validate.field).bool.const = true];", True),
    ("repeated string f = 1 [(buf.validate.field).repeated.min_items = 1];", True),
    ("map<string, string> f = 1 [(buf.validate.field).map.min_pairs = 1];", True),
    ("google.protobuf.Duration f = 1 [(buf.validate.field).duration.gt.seconds = 1];", False),
]  # fmt: skip


@pytest.mark.parametrize(("field", "expected"), REQUIRED, ids=[field for field, _ in REQUIRED])
def test_field_is_required_where_its_absence_is_refused(field: str, *, expected: bool) -> None:
    _, schema, document = request_field(field, "message Other {}")
    assert ("f" in schema.get("required", [])) is expected
    assert operation(document, "/do", "post")["requestBody"].get("required", False) is expected


def test_request_takes_no_other_members_unless_they_are_ignored() -> None:
    assert request_field("string f = 1;")[1]["additionalProperties"] is False
    options = Options(ignore_unknown_fields=True)
    assert "additionalProperties" not in request_field("string f = 1;", "", options)[1]


def test_behaviours_and_deprecation() -> None:
    field, _, _ = request_field("string f = 1 [(google.api.field_behavior) = OUTPUT_ONLY];")
    assert field["readOnly"] is True
    field, _, _ = request_field("string f = 1 [(google.api.field_behavior) = INPUT_ONLY, deprecated = true];")
    assert field["writeOnly"] is field["deprecated"] is True


def test_required_string_is_not_empty() -> None:
    field, _, _ = request_field("string f = 1 [(google.api.field_behavior) = REQUIRED];")
    assert field["minLength"] == 1
    field, _, _ = request_field("optional string f = 1 [(google.api.field_behavior) = REQUIRED];")
    assert "minLength" not in field


def test_expressions_are_described_in_their_own_words() -> None:
    field, schema, _ = request_field("""
        option (buf.validate.message).cel = {id: "a" message: "not both" expression: "true"};
        // A name.
        string f = 1 [(buf.validate.field).cel = {id: "b" message: "no spaces" expression: "true"}];
    """)
    assert field["description"] == "A name.\n\n- no spaces"
    assert schema["description"] == "- not both"


def accepts(schema: dict[str, Any], names: set[str]) -> bool:
    """Whether the oneOf of a schema holds for an object with these members."""

    def holds(part: dict[str, Any]) -> bool:
        if "not" in part:
            return not any(holds(inner) for inner in part["not"]["anyOf"])
        return set(part["required"]) <= names

    return sum(holds(part) for part in schema["oneOf"]) == 1


def test_oneof_has_at_most_one_member() -> None:
    _, schema, _ = request_field("oneof o { string f = 1; int32 g = 2; bool h = 3; } optional string i = 4;")
    assert accepts(schema, set())
    assert accepts(schema, {"g", "i"})
    assert not accepts(schema, {"f", "h"})


def test_required_oneof_has_exactly_one_member() -> None:
    _, schema, document = request_field(
        "oneof o { option (buf.validate.oneof).required = true; string f = 1; int32 g = 2; }"
    )
    assert not accepts(schema, set())
    assert accepts(schema, {"f"})
    assert operation(document, "/do", "post")["requestBody"]["required"] is True


def test_two_oneofs_and_a_rule_for_one_hold_together() -> None:
    _, schema, _ = request_field("""
        option (buf.validate.message).oneof = {fields: ["x", "y"], required: true};
        oneof o { string f = 1; int32 g = 2; }
        oneof p { string h = 3; int32 i = 4; }
        string x = 5;
        string y = 6;
    """)
    others = schema["allOf"]
    assert [len(part["oneOf"]) for part in (schema, *others)] == [3, 3, 2]


def test_all_of_it_together_is_valid() -> None:
    fields = [f"{proto_type} a{number} = {number};" for number, (proto_type, _) in enumerate(SCALARS, 1)]
    fields += [
        f"{proto_type} b{number} = {number} [(buf.validate.field).{rule}];"
        for number, (proto_type, rule, _) in enumerate(RULES, 100)
    ]
    _, _, document = request_field("\n".join(["string f = 99;", *fields]), ENUM)
    validate(document)
