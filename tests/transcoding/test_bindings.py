"""Rules: from annotations, from outside, by default; and what is wrong with them, at start."""

from __future__ import annotations

import re
from typing import Any

import pytest
from protobuf import DescService, Oneof
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from gateway.transcoding import (
    BindingError,
    Options,
    RouteConflict,
    TemplateError,
    Transcoder,
    TranscodingError,
    encode_request,
    parse_service_config,
    rule_bindings,
    service_bindings,
)
from gateway.transcoding.gen.google.api.http_pb import CustomHttpPattern, HttpRule
from tests.transcoding.asgi import call
from tests.transcoding.library import Library

LIBRARY = "transcoding.library.Library"


@pytest.fixture(scope="module")
def service(library_set: bytes) -> DescService:
    found = FileDescriptorSet.from_binary(library_set).to_registry().service(LIBRARY)
    assert found is not None
    return found


def method(service: DescService, name: str) -> Any:
    return next(method for method in service.methods if method.name == name)


async def echo(method: Any, _request: Any, _metadata: Any) -> Any:
    return method.output.type()


def test_every_binding_can_be_walked(service: DescService) -> None:
    bindings = service_bindings([service])
    assert str(bindings[0]) == f"GET /v1/{{name=shelves/*/books/*}} ({LIBRARY}.GetBook)"
    assert [str(binding.template) for binding in bindings if binding.method.name == "GetBook"] == [
        "/v1/{name=shelves/*/books/*}",
        "/v1/books/{name}",
    ]
    assert [binding.additional for binding in bindings[:3]] == [False, True, False]
    update = next(binding for binding in bindings if binding.method.name == "UpdateBook")
    assert [field.path for field in update.path_fields] == ["book.name"]
    assert update.body_field is not None
    assert update.body_field.path == update.body == "book"
    streams = {
        binding.method.name: (binding.client_streaming, binding.server_streaming) for binding in bindings
    }
    assert streams["GetBook"] == (False, False)
    assert streams["WatchBooks"] == (False, True)
    assert streams["AddNotes"] == (True, False)
    assert streams["Talk"] == (True, True)
    raw = {binding.method.name for binding in bindings if binding.http_body_request}
    assert raw == {"UploadCover", "UploadText", "ImportRaw"}
    assert {binding.method.name for binding in bindings if binding.http_body_response} == {
        "ExportBooks",
        "StreamExport",
    }


def test_methods_without_a_rule_are_left_out_or_get_one(service: DescService) -> None:
    assert all(binding.method.name != "Hidden" for binding in service_bindings([service]))
    (hidden,) = [
        binding
        for binding in service_bindings([service], default_bindings=True)
        if binding.method.name == "Hidden"
    ]
    assert (hidden.http_method, str(hidden.template), hidden.body) == ("POST", f"/{LIBRARY}/Hidden", "*")


async def test_default_bindings_serve(library_set: bytes) -> None:
    library = Library(library_set, Options(default_bindings=True))
    answer = await call(library.app, "POST", f"/{LIBRARY}/Hidden", b'{"name":"x"}')
    assert answer.status == 200
    assert library.requests[0].name == "x"


def test_rules_from_outside_override_annotations(service: DescService) -> None:
    rules = parse_service_config(
        {
            "name": "library.example.com",
            "http": {
                "rules": [
                    {"selector": f"{LIBRARY}.*", "get": "/all/{name}"},
                    {
                        "selector": f"{LIBRARY}.GetBook",
                        "get": "/one/{name}",
                        "additional_bindings": [{"get": "/two/{name}"}],
                    },
                ]
            },
        }
    )
    get_book = [
        binding
        for binding in service_bindings([service], rules=rules[1:])
        if binding.method.name == "GetBook"
    ]
    assert [str(binding.template) for binding in get_book] == ["/one/{name}", "/two/{name}"]
    with pytest.raises(BindingError, match="has no field 'name'"):
        service_bindings([service], rules=rules)


@pytest.mark.parametrize("config", [{"http": {"rules": [{"nope": 1}]}}, {"http": []}, {"http": {"rules": 1}}])
def test_a_malformed_service_config_is_an_error(config: dict[str, object]) -> None:
    with pytest.raises(BindingError, match="service configuration"):
        parse_service_config(config)


def test_a_service_config_without_rules_has_none() -> None:
    assert parse_service_config({"name": "x"}) == ()


def test_a_rule_that_selects_nothing_is_an_error(service: DescService) -> None:
    with pytest.raises(BindingError, match=re.escape("'transcoding.library.Library.Nope' selects no method")):
        service_bindings([service], rules=[HttpRule(selector=f"{LIBRARY}.Nope", pattern=Oneof("get", "/x"))])


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("GetBook", {}, "has no pattern"),
    ("GetBook", {"custom": {"path": "/x"}}, "no kind"),
    ("GetBook", {"get": "/{nope}"}, "no field 'nope'"),
    ("GetBook", {"get": "/{name.x}"}, "leads nowhere"),
    ("ListBooks", {"get": "/{tags}"}, "must be a singular field with a text form"),
    ("ListBooks", {"get": "/{filter}"}, "must be a singular field with a text form"),
    ("ListBooks", {"get": "/{filter.nested.nope}"}, "no field 'nope'"),
    ("ReplaceBook", {"get": "/{ratings}"}, "must be a singular field with a text form"),
    ("ReplaceBook", {"get": "/{sequels.name}"}, "leads nowhere"),
    ("ReplaceBook", {"get": "/{extra}"}, "must be a singular field with a text form"),
    ("CreateBook", {"post": "/x", "body": "nope"}, "no field 'nope'"),
    ("CreateBook", {"post": "/x", "body": "book.name"}, "must name a field of the request message itself"),
    ("CreateBook", {"post": "/{shelf}", "body": "shelf"}, "is also the body"),
    ("UploadCover", {"post": "/{file.content_type}", "body": "file"}, "is also the body"),
    ("GetBook", {"get": "/x", "response_body": "nope"}, "response_body: message transcoding.library.Book"),
    (
        "GetBook",
        {"get": "/x", "additional_bindings": [{"get": "/y", "additional_bindings": [{"get": "/z"}]}]},
        "must not contain additional_bindings",
    ),
]


@pytest.mark.parametrize(("name", "rule", "problem"), WRONG)
def test_a_rule_that_does_not_fit_is_an_error(
    service: DescService, name: str, rule: dict[str, Any], problem: str
) -> None:
    parsed = HttpRule(**_fields(rule))
    with pytest.raises(BindingError) as caught:
        list(rule_bindings(method(service, name), parsed))
    assert problem in str(caught.value)
    assert f"{LIBRARY}.{name}" in str(caught.value)


def _fields(rule: dict[str, Any]) -> dict[str, Any]:
    fields = dict(rule)
    for kind in ("get", "post"):
        if kind in fields:
            fields["pattern"] = Oneof(kind, fields.pop(kind))
    if "custom" in fields:
        fields["pattern"] = Oneof("custom", CustomHttpPattern(**fields.pop("custom")))
    extra = fields.pop("additional_bindings", [])
    return fields | {"additional_bindings": [HttpRule(**_fields(inner)) for inner in extra]}


def test_a_template_outside_the_grammar_is_an_error(service: DescService) -> None:
    with pytest.raises(TemplateError, match="column 2"):
        list(rule_bindings(method(service, "GetBook"), HttpRule(pattern=Oneof("get", "//"))))


def test_two_rules_for_the_same_requests_stop_the_start(service: DescService) -> None:
    clash = [HttpRule(selector=f"{LIBRARY}.Hidden", pattern=Oneof("get", "/v1/books/{name=*}"))]
    with pytest.raises(RouteConflict) as caught:
        Transcoder([service], echo, rules=clash)
    assert f"{LIBRARY}.GetBook" in str(caught.value)
    assert f"{LIBRARY}.Hidden" in str(caught.value)
    Transcoder([service], echo, Options(on_conflict="first"), rules=clash)


def test_a_descriptor_set_must_be_whole(library_set: bytes) -> None:
    files = FileDescriptorSet.from_binary(library_set).file
    alone = FileDescriptorSet(file=[file for file in files if file.name == "library.proto"]).to_binary()
    for serialized, problem in ((b"\xff", "varint"), (alone, "google/api/annotations.proto")):
        with pytest.raises(TranscodingError, match=f"not a FileDescriptorSet with its imports: .*{problem}"):
            Transcoder.from_descriptor_set(serialized, echo)


async def test_bindings_can_be_given_ready(service: DescService) -> None:
    (binding,) = rule_bindings(method(service, "Hidden"), HttpRule(pattern=Oneof("get", "/ready/{name}")))
    app = Transcoder([binding], echo)
    assert app.bindings == (binding,)
    assert (await call(app, "GET", "/ready/1")).status == 200
    assert (await call(app, "GET", "/v1/books/1")).status == 404


def test_what_a_binding_cannot_carry_cannot_be_encoded(service: DescService) -> None:
    book: Any = method(service, "GetBook").output.type
    cases: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
        ("UploadCover", {"post": "/x", "body": "file"}, {}, "bytes or a stream"),
        ("AddNotes", {"post": "/x", "body": "*"}, {}, "bytes or a stream"),
        (
            "Echo",
            {"post": "/x", "body": "*"},
            {"kind": Oneof("number_value", 1.0)},
            "not written as a JSON object",
        ),
        ("GetBook", {"get": "/x/{name}"}, {}, "does not fit"),
        ("ListBooks", {"get": "/x/{filter.author}"}, {}, "does not fit"),
        ("ReplaceBook", {"get": "/x"}, {"sequels": [book()]}, "have no text form"),
        ("ReplaceBook", {"get": "/x"}, {"ratings": {"a": 1}}, "have no text form"),
    ]
    for name, rule, fields, problem in cases:
        (binding,) = rule_bindings(method(service, name), HttpRule(**_fields(rule)))
        with pytest.raises(ValueError, match=problem):
            encode_request(binding, binding.method.input.type(**fields))
