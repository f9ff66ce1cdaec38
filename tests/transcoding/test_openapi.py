"""Operations of an OpenAPI document, and the document as a whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.transcoding import Options, service_bindings
from gateway.transcoding.openapi import About, openapi_document
from tests.transcoding.describing import describe, operation, parameters, services, validate

SHELVES = """
    // Keeps books.
    service Shelves {
      // Returns a book. Or an error.
      rpc Get(GetRequest) returns (Book) {
        option idempotency_level = NO_SIDE_EFFECTS;
        option (google.api.http) = {
          get: "/v1/{name=shelves/*/books/*}"
          additional_bindings {get: "/v1/all/{name=**}:read"}
          additional_bindings {get: "/v1/*/first"}
        };
      }
      rpc List(ListRequest) returns (ListResponse) {
        option (google.api.http) = {
          get: "/v1/shelves/{shelf.id}/books"
          additional_bindings {get: "/v1/shelves/{shelf.id}/titles" response_body: "titles"}
        };
      }
      rpc Update(UpdateRequest) returns (UpdateRequest) {
        option (google.api.http) = {
          patch: "/v1/{book.name=shelves/*/books/*}" body: "book" response_body: "book"
        };
      }
      rpc Create(CreateRequest) returns (google.protobuf.Empty) {
        option (google.api.http) = {post: "/v1/{parent=shelves/*}/books" body: "book"};
      }
      rpc Move(MoveRequest) returns (Book) {
        option deprecated = true;
        option (google.api.http) = {post: "/v1/books/{id}:move" body: "*"};
      }
    }
    message GetRequest { string name = 1; }
    // A book.
    message Book {
      // Its name.
      string name = 1;
      // Its title.
      string display_title = 2 [(google.api.field_behavior) = REQUIRED];
      Author author = 3;
    }
    message Author {
      string full_name = 1 [(buf.validate.field).string.min_len = 1];
      repeated Author heirs = 2;
    }
    message Shelf { string id = 1; int32 room = 2; Shelf above = 3; }
    message ListRequest {
      Shelf shelf = 1;
      // How many.
      int32 page_size = 2 [(buf.validate.field).int32.lte = 9];
      repeated string tags = 3;
      google.protobuf.Timestamp since = 4;
      google.protobuf.FieldMask read_mask = 5;
      map<string, string> labels = 6;
      repeated Book books = 7;
      google.protobuf.Struct extra = 8;
      string token = 9 [(google.api.field_behavior) = REQUIRED, deprecated = true];
      string seen = 10 [(google.api.field_behavior) = OUTPUT_ONLY];
    }
    message ListResponse { repeated string titles = 1; Book first = 2; optional int32 total = 3; }
    message UpdateRequest { Book book = 1; google.protobuf.FieldMask update_mask = 2; }
    message CreateRequest { string parent = 1; Book book = 2; string request_id = 3; }
    message MoveRequest { int64 id = 1; string to = 2 [(google.api.field_behavior) = REQUIRED]; }
"""


@pytest.fixture(scope="module")
def shelves() -> dict[str, Any]:
    document: dict[str, Any] = describe(SHELVES, connect=True)
    return document


def test_every_binding_is_an_operation(shelves: dict[str, Any]) -> None:
    rest = {path: sorted(item) for path, item in shelves["paths"].items() if not path.startswith("/test.v1.")}
    assert rest == {
        "/v1/all/{name}:read": ["get"],
        "/v1/books/{id}:move": ["post"],
        "/v1/shelves/{shelf.id}/books": ["get"],
        "/v1/shelves/{shelf.id}/titles": ["get"],
        "/v1/{name}": ["get", "patch"],
        "/v1/{parent}/books": ["post"],
        "/v1/{segment1}/first": ["get"],
    }
    ids = [found["operationId"] for item in shelves["paths"].values() for found in item.values()]
    assert len(set(ids)) == len(ids)
    assert operation(shelves, "/v1/{name}", "get")["operationId"] == "Shelves_Get"


def test_variable_of_segments_is_a_parameter_with_a_pattern(shelves: dict[str, Any]) -> None:
    name = parameters(operation(shelves, "/v1/{name}", "get"))["name"]
    assert name["required"] is True
    assert name["schema"] == {"type": "string", "pattern": "^shelves/[^/]+/books/[^/]+$"}
    parent = parameters(operation(shelves, "/v1/{parent}/books", "post"))["parent"]
    assert parent["schema"]["pattern"] == "^shelves/[^/]+$"
    moved = parameters(operation(shelves, "/v1/books/{id}:move", "post"))["id"]
    assert moved["schema"]["format"] == "int64"


def test_path_parameter_has_one_name_for_all_operations_of_its_path(shelves: dict[str, Any]) -> None:
    name = parameters(operation(shelves, "/v1/{name}", "patch"))["name"]
    assert name["description"] == "Its name."


def test_path_fields_are_left_out_of_query_and_body(shelves: dict[str, Any]) -> None:
    listed = parameters(operation(shelves, "/v1/shelves/{shelf.id}/books", "get"))
    assert listed["shelf.id"]["in"] == "path"
    moved = operation(shelves, "/v1/books/{id}:move", "post")
    schema = moved["requestBody"]["content"]["application/json"]["schema"]
    assert list(schema["properties"]) == schema["required"] == ["to"]
    patched = operation(shelves, "/v1/{name}", "patch")
    schema = patched["requestBody"]["content"]["application/json"]["schema"]
    assert list(schema["properties"]) == ["display_title", "author"]


def test_query_has_every_field_with_a_text_form(shelves: dict[str, Any]) -> None:
    listed = parameters(operation(shelves, "/v1/shelves/{shelf.id}/books", "get"))
    assert list(listed) == ["shelf.id", "shelf.room", "page_size", "tags", "since", "read_mask", "token"]
    assert listed["page_size"] == {
        "name": "page_size",
        "in": "query",
        "description": "How many.",
        "schema": {"type": "integer", "format": "int32", "maximum": 9},
    }
    assert listed["tags"]["schema"] == {"type": "array", "items": {"type": "string"}}
    assert listed["since"]["schema"]["format"] == "date-time"
    assert listed["token"]["required"] is listed["token"]["deprecated"] is True


def test_query_spells_names_as_the_options_say() -> None:
    document = describe(SHELVES, options=Options(proto_names=False))
    listed = parameters(operation(document, "/v1/shelves/{shelf.id}/books", "get"))
    assert {"pageSize", "readMask", "shelf.room"} <= set(listed)


def test_patch_requires_nothing_of_its_resource(shelves: dict[str, Any]) -> None:
    patched = operation(shelves, "/v1/{name}", "patch")
    schema = patched["requestBody"]["content"]["application/json"]["schema"]
    assert "required" not in schema
    assert "update_mask" in parameters(patched)
    schemas = shelves["components"]["schemas"]
    assert schema["properties"]["author"]["$ref"] == "#/components/schemas/AuthorPatch"
    assert "required" not in schemas["AuthorPatch"]
    assert (
        schemas["AuthorPatch"]["properties"]["heirs"]["items"]["$ref"] == "#/components/schemas/AuthorInput"
    )
    assert schemas["AuthorInput"]["required"] == ["full_name"]
    assert "minLength" not in schemas["Author"]["properties"]["full_name"]


def test_response_has_every_field_that_is_always_printed(shelves: dict[str, Any]) -> None:
    assert shelves["components"]["schemas"]["ListResponse"]["required"] == ["titles"]
    document = describe(SHELVES, options=Options(emit_defaults=False))
    assert "required" not in document["components"]["schemas"]["ListResponse"]


def test_response_body_is_the_field(shelves: dict[str, Any]) -> None:
    def schema_of(path: str, method: str) -> Any:
        found = operation(shelves, path, method)
        return found["responses"]["200"]["content"]["application/json"]["schema"]

    assert schema_of("/v1/shelves/{shelf.id}/titles", "get") == {"type": "array", "items": {"type": "string"}}
    assert schema_of("/v1/{name}", "patch") == {"$ref": "#/components/schemas/Book"}
    assert schema_of("/v1/{parent}/books", "post") == {"$ref": "#/components/schemas/Empty"}


def test_comments_become_summaries_and_descriptions(shelves: dict[str, Any]) -> None:
    got = operation(shelves, "/v1/{name}", "get")
    assert (got["summary"], got["description"]) == ("Returns a book", "Returns a book. Or an error.")
    assert shelves["components"]["schemas"]["Book"]["description"] == "A book."
    assert {"name": "Shelves", "description": "Keeps books."} in shelves["tags"]
    assert operation(shelves, "/v1/books/{id}:move", "post")["deprecated"] is True


def test_safe_get_has_an_etag_and_can_be_not_modified(shelves: dict[str, Any]) -> None:
    got = operation(shelves, "/v1/{name}", "get")
    assert "304" in got["responses"]
    assert "ETag" in got["responses"]["200"]["headers"]
    assert "If-None-Match" in parameters(got)
    assert "304" not in operation(shelves, "/v1/shelves/{shelf.id}/books", "get")["responses"]


def test_headers_that_a_handler_reads_are_parameters() -> None:
    header = {"name": "X-Reason", "in": "header", "schema": {"type": "string"}}
    document = describe(
        SHELVES, connect=True, request_headers=lambda method: [header] if method.name == "Move" else []
    )
    validate(document)
    moved = operation(document, "/v1/books/{id}:move", "post")
    assert moved["parameters"][-1] == header
    assert "X-Reason" in parameters(operation(document, "/test.v1.Shelves/Move", "post"))
    assert "X-Reason" not in parameters(operation(document, "/v1/{name}", "get"))


def test_every_operation_may_answer_with_a_status_and_its_details(shelves: dict[str, Any]) -> None:
    got = operation(shelves, "/v1/{name}", "get")
    assert got["responses"]["default"] == {"$ref": "#/components/responses/Error"}
    error = shelves["components"]["responses"]["Error"]
    assert "- 503: UNAVAILABLE" in error["description"]
    assert error["content"]["application/json"]["schema"]["$ref"] == "#/components/schemas/Status"
    details = shelves["components"]["schemas"]["Status"]["properties"]["details"]["items"]["anyOf"]
    assert {"$ref": "#/components/schemas/details.BadRequest"} in [part["allOf"][0] for part in details[:-1]]
    assert len(details[-1]["properties"]["@type"]["not"]["enum"]) == len(details) - 1


def test_connect_has_a_post_for_each_method_and_a_get_for_safe_ones(shelves: dict[str, Any]) -> None:
    item = shelves["paths"]["/test.v1.Shelves/Get"]
    assert sorted(item) == ["get", "post"]
    assert sorted(shelves["paths"]["/test.v1.Shelves/Update"]) == ["post"]
    message = parameters(item["get"])["message"]
    assert message["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/connect.GetRequest"
    }
    assert parameters(item["get"])["encoding"]["schema"]["const"] == "json"
    assert item["post"]["responses"]["default"] == {"$ref": "#/components/responses/ConnectError"}
    book = shelves["components"]["schemas"]["connect.Book"]
    assert list(book["properties"]) == ["name", "displayTitle", "author"]
    assert "required" not in book


STREAMS = """
    service Streams {
      rpc Watch(Empty) returns (stream Event) { option (google.api.http) = {get: "/watch"}; }
      rpc Send(stream Event) returns (Empty) { option (google.api.http) = {post: "/send" body: "*"}; }
      rpc Upload(File) returns (Empty) { option (google.api.http) = {post: "/files/{name}" body: "data"}; }
      rpc Download(Empty) returns (google.api.HttpBody) { option (google.api.http) = {get: "/file"}; }
      rpc Export(Empty) returns (stream google.api.HttpBody) { option (google.api.http) = {get: "/export"}; }
    }
    message Empty {}
    message Event { int32 sequence = 1; }
    message File { string name = 1; google.api.HttpBody data = 2; }
"""


def test_server_stream_is_described_in_its_three_forms() -> None:
    document = describe(STREAMS)
    content = operation(document, "/watch", "get")["responses"]["200"]["content"]
    assert list(content) == ["application/json", "application/x-ndjson", "text/event-stream"]
    item = content["application/json"]["schema"]["items"]["anyOf"]
    assert item[0] == {"$ref": "#/components/schemas/Event"}
    assert item[1]["properties"]["error"] == {"$ref": "#/components/schemas/Status"}
    assert content["text/event-stream"]["schema"]["contentSchema"] == item[0]
    assert "id of an event" in content["text/event-stream"]["schema"]["description"]


def test_client_stream_is_an_array_or_lines() -> None:
    content = operation(describe(STREAMS), "/send", "post")["requestBody"]["content"]
    assert content["application/json"]["schema"] == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/EventInput"},
    }
    assert list(content) == ["application/json", "application/x-ndjson"]


def test_http_body_is_any_bytes() -> None:
    document = describe(STREAMS)
    upload = operation(document, "/files/{name}", "post")
    assert upload["requestBody"]["content"] == {"*/*": {}}
    for path in ("/file", "/export"):
        assert operation(document, path, "get")["responses"]["200"]["content"] == {"*/*": {}}


def test_connect_streams_are_enveloped() -> None:
    watch = operation(describe(STREAMS, connect=True), "/test.v1.Streams/Watch", "post")
    media_types = ["application/connect+json", "application/connect+proto"]
    assert list(watch["requestBody"]["content"]) == media_types
    assert list(watch["responses"]["200"]["content"]) == media_types


COLLIDING = """
    service S {
      rpc A(Named) returns (Named) { option (google.api.http) = {get: "/v1/{name=shelves/*}"}; }
      rpc B(Named) returns (Named) { option (google.api.http) = {get: "/v1/{name=desks/*/**}"}; }
      rpc C(Named) returns (Named) { option (google.api.http) = {get: "/v1/{other}"}; }
      rpc D(Named) returns (Named) { option (google.api.http) = {get: "/v1/{name=**}"}; }
      rpc E(Named) returns (Named) { option (google.api.http) = {custom: {kind: "PURGE" path: "/e"}}; }
      rpc F(Named) returns (Named) { option (google.api.http) = {custom: {kind: "*" path: "/f"} body: "*"}; }
    }
    message Named { string name = 1; string other = 2; }
"""


def test_bindings_that_openapi_cannot_tell_apart_have_places_of_their_own() -> None:
    paths = describe(COLLIDING)["paths"]
    assert sorted(paths) == [
        "/e",
        "/f",
        "/v1/desks/{name.1}/{name.2}",
        "/v1/shelves/{name.1}",
        "/v1/{other}",
        "/v1/{other}#D-2",
    ]
    part = parameters(paths["/v1/desks/{name.1}/{name.2}"]["get"])["name.1"]
    assert part["description"] == "A wildcard of `name` in `desks/*/**`."
    assert sorted(paths["/f"]) == ["delete", "get", "patch", "post", "put"]
    assert list(paths["/e"]["x-additionalOperations"]) == ["PURGE"]


def test_security_is_what_the_caller_says() -> None:
    document = describe(
        STREAMS,
        security_schemes={"token": {"type": "http", "scheme": "bearer"}},
        security=lambda method: [] if method.name == "Watch" else [{"token": []}],
    )
    assert document["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert operation(document, "/watch", "get")["security"] == []
    assert operation(document, "/file", "get")["security"] == [{"token": []}]


def test_types_with_one_short_name_keep_their_full_names() -> None:
    schemas = describe("""
        service S { rpc Do(Status) returns (Out) {
          option (google.api.http) = {post: "/do" body: "*"}; } }
        message Status { string a = 1; }
        message Out { Outer.Inner i = 1; BookInput j = 2; Book k = 3; }
        message Outer { message Inner {} }
        message Book {}
        message BookInput {}
    """)["components"]["schemas"]
    expected = {"test.v1.Status", "google.rpc.Status", "Outer.Inner", "test.v1.Book", "test.v1.BookInput"}
    assert expected <= set(schemas)


@pytest.mark.parametrize("body", [SHELVES, STREAMS, COLLIDING])
def test_document_is_valid(body: str) -> None:
    validate(describe(body, connect=True))


def bindings_in(document: dict[str, Any]) -> Iterator[str]:
    for item in document["paths"].values():
        yield from (found["operationId"] for found in item.values() if "operationId" in found)


@pytest.mark.parametrize("name", ["library", "vectors"])
def test_documents_of_whole_protos_are_valid_and_complete(name: str, request: pytest.FixtureRequest) -> None:
    serialized: bytes = request.getfixturevalue(f"{name}_set")
    found = services(serialized)
    bindings = service_bindings(found)
    document: Any = openapi_document(bindings, About(title=name, version="1"), connect=found)
    validate(document)
    written = set(bindings_in(document))
    for binding in bindings:
        method = binding.method
        assert any(one.startswith(f"{method.parent.name}_{method.name}") for one in written)


def test_document_is_the_same_bytes_in_every_process(tmp_path: Path, library_set: bytes) -> None:
    source = tmp_path / "set.binpb"
    source.write_bytes(library_set)
    program = f"""
import sys
from pathlib import Path
from protobuf import DescService
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet
from gateway.transcoding import service_bindings
from gateway.transcoding.openapi import About, Comments, openapi_document, openapi_json
serialized = Path({str(source)!r}).read_bytes()
registry = FileDescriptorSet.from_binary(serialized).to_registry()
services = [element for element in registry if isinstance(element, DescService)]
document = openapi_document(
    service_bindings(services), About(title="t", version="1"),
    comments=Comments.from_descriptor_set(serialized), connect=services,
)
sys.stdout.buffer.write(openapi_json(document))
"""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) > 1000
