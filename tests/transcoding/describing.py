"""Protos of a few lines, and the OpenAPI documents that are made of them."""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from openapi_spec_validator import OpenAPIV31SpecValidator
from protobuf import DescFile, DescService
from protobuf.wkt.google.protobuf import (
    any_pb,
    duration_pb,
    empty_pb,
    field_mask_pb,
    struct_pb,
    timestamp_pb,
    wrappers_pb,
)
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

from gateway.transcoding import Options, service_bindings
from gateway.transcoding.gen.buf.validate import validate_pb
from gateway.transcoding.gen.google.api import annotations_pb, field_behavior_pb, httpbody_pb
from gateway.transcoding.openapi import About, Comments, openapi_document, openapi_json

HEAD = """
syntax = "proto3";
package test.v1;
import "buf/validate/validate.proto";
import "google/api/annotations.proto";
import "google/api/field_behavior.proto";
import "google/api/httpbody.proto";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
"""


IMPORTS = (
    validate_pb,
    annotations_pb,
    field_behavior_pb,
    httpbody_pb,
    any_pb,
    duration_pb,
    empty_pb,
    field_mask_pb,
    struct_pb,
    timestamp_pb,
    wrappers_pb,
)


@lru_cache
def _dependencies() -> bytes:
    """The descriptors of what HEAD imports, so that no .proto file of it is needed."""
    files = {}

    def add(file: DescFile) -> None:
        for dependency in file.dependencies:
            add(dependency)
        files[file.name] = file.proto

    for module in IMPORTS:
        add(module.desc())
    return FileDescriptorSet(file=list(files.values())).to_binary()


def services(serialized: bytes) -> list[DescService]:
    registry = FileDescriptorSet.from_binary(serialized).to_registry()
    return [element for element in registry if isinstance(element, DescService)]


@lru_cache
def compiled(body: str) -> bytes:
    """What follows HEAD as a serialized FileDescriptorSet with comments."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        proto, output = directory / "test.proto", directory / "set.binpb"
        dependencies = directory / "dependencies.binpb"
        dependencies.write_bytes(_dependencies())
        proto.write_text(HEAD + body)
        options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={output}"]
        options += [f"--descriptor_set_in={dependencies}", f"-I{directory}"]
        assert protoc.main(["protoc", *options, str(proto)]) == 0
        return output.read_bytes()


def describe(body: str, *, options: Options | None = None, connect: bool = False, **about: Any) -> Any:
    """The document for a body, as JSON gives it back."""
    serialized = compiled(body)
    found = services(serialized)
    document = openapi_document(
        service_bindings(found),
        About(title="Test", version="1", **about),
        options=options,
        comments=Comments.from_descriptor_set(serialized),
        connect=found if connect else (),
    )
    return json.loads(openapi_json(document))


def validate(document: Any) -> None:
    """Raises what is wrong with a document."""
    OpenAPIV31SpecValidator(document).validate()


def operation(document: Any, path: str, method: str) -> Any:
    """One operation of a document."""
    return document["paths"][path][method]


def parameters(found: Any) -> dict[str, Any]:
    """The parameters of an operation by name."""
    return {parameter["name"]: parameter for parameter in found.get("parameters", [])}
