"""An OpenAPI 3.1 document for bindings and, if wanted, for the Connect protocol."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

import orjson
from protobuf import DescMessage, DescMethod, DescService

from gateway.transcoding.binding import Binding
from gateway.transcoding.fields import Json
from gateway.transcoding.gen.google.rpc.status_pb import Status
from gateway.transcoding.openapi.comments import Comments, summary
from gateway.transcoding.openapi.connect import ConnectOperations, tag_of
from gateway.transcoding.openapi.errors import (
    CONNECT_ERROR,
    STANDARD_DETAILS,
    connect_error_schema,
    connect_response,
    status_response,
    status_schema,
)
from gateway.transcoding.openapi.names import Form, Names, Role
from gateway.transcoding.openapi.paths import Place, places
from gateway.transcoding.openapi.rest import RestOperations
from gateway.transcoding.openapi.schemas import Schemas
from gateway.transcoding.openapi.values import Schema
from gateway.transcoding.options import Options

Security: TypeAlias = Sequence[Mapping[str, Sequence[str]]]
"""Alternatives, each of schemes with their scopes (OpenAPI, Security Requirement Object)."""

_FIXED_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_ANY_METHOD: Final = ("delete", "get", "patch", "post", "put")
"""The operations of a rule for every HTTP method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a document says beside what the descriptors say.

    `security_schemes` are Security Scheme Objects by name, and `security` the
    requirements of a method; an empty sequence is for a method that is open,
    and without the function nothing is said. `request_headers` are Parameter
    Objects for what a method reads beside its message. `error_details` are the
    types that errors may carry beside the standard ones.
    """

    title: str
    version: str
    description: str = ""
    security_schemes: Mapping[str, Schema] = field(default_factory=dict)
    security: Callable[[DescMethod], Security] | None = None
    request_headers: Callable[[DescMethod], Sequence[Schema]] | None = None
    error_details: Sequence[DescMessage] = ()


def openapi_document(
    bindings: Iterable[Binding],
    about: About,
    *,
    options: Options | None = None,
    comments: Comments | None = None,
    connect: Iterable[DescService] = (),
) -> Schema:
    """The document for `bindings` as a transcoder with `options` serves them.

    `comments` become summaries and descriptions. The services in `connect` are
    described at their Connect paths too. The same arguments give the same
    document, in the same order: paths, methods and components by name, fields
    as they are declared.
    """
    return _Document(
        list(bindings), list(connect), about, options or Options(), comments or Comments()
    ).made()


def openapi_json(document: Schema) -> bytes:
    """A document as indented JSON; the same bytes for the same document."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


class _Document:
    def __init__(
        self,
        bindings: list[Binding],
        connect: list[DescService],
        about: About,
        options: Options,
        comments: Comments,
    ) -> None:
        self._bindings = bindings
        self._connect = connect
        self._about = about
        self._comments = comments
        self._details = (*STANDARD_DETAILS, *about.error_details)
        methods = [binding.method for binding in bindings]
        methods += [method for service in connect for method in service.methods]
        names = Names(methods, (*self._details, Status.desc()))
        self._schemas = Schemas(
            names,
            comments,
            enums_as_numbers=options.enums_as_numbers,
            closed=not options.ignore_unknown_fields,
        )
        self._form = Form(Role.OUTPUT, proto_names=options.proto_names, defaults=options.emit_defaults)
        self._status = names.message(Status.desc(), self._form)
        self._ids = _OperationIds(methods)

    def made(self) -> Schema:
        about = self._about
        info: Schema = {"title": about.title, "version": about.version}
        if about.description:
            info["description"] = about.description
        paths = self._paths()
        document: Schema = {
            "openapi": "3.1.0",
            "info": info,
            "servers": [{"url": "/"}],
            "tags": list(self._tags()),
            "paths": paths,
            "components": self._components(),
        }
        return document

    def _paths(self) -> Schema:
        items: dict[str, Schema] = {}
        rest = RestOperations(self._schemas, self._comments, self._form, self._status)
        for place in places(self._bindings):
            item = items.setdefault(place.path, {})
            for name, operation in self._rest_operations(place, rest):
                _put(item, name, operation)
        described = ConnectOperations(self._schemas, self._comments)
        for method in (method for service in self._connect for method in service.methods):
            item = items.setdefault(f"/{method.parent.type_name}/{method.name}", {})
            for name, operation in described.operations(method).items():
                suffix = "Get" if name == "get" else ""
                self._finish(operation, method, f"Connect{suffix}")
                _put(item, name, operation)
        return {path: _sorted(items[path]) for path in sorted(items)}

    def _rest_operations(self, place: Place, rest: RestOperations) -> Iterator[tuple[str, Schema]]:
        binding = place.binding
        kind = binding.http_method
        for name in _ANY_METHOD if kind == "*" else (kind,):
            operation = rest.operation(place)
            self._finish(operation, binding.method, name.title() if kind == "*" else "")
            yield name, operation

    def _finish(self, operation: Schema, method: DescMethod, variant: str) -> None:
        operation["operationId"] = self._ids.of(method, variant)
        headers = self._about.request_headers(method) if self._about.request_headers is not None else ()
        if headers:
            known = cast("list[Json]", operation.get("parameters", []))
            operation["parameters"] = [*known, *headers]
        if self._about.security is not None:
            operation["security"] = [
                {name: list(scopes) for name, scopes in one.items()} for one in self._about.security(method)
            ]

    def _tags(self) -> Iterator[Schema]:
        tags: dict[str, str] = {}
        for binding in self._bindings:
            service = binding.method.parent
            tags.setdefault(service.name, self._comments.of(service.type_name))
        for service in self._connect:
            for method in service.methods[:1]:
                text = summary(self._comments.of(service.type_name))
                tags.setdefault(tag_of(method), text)
        for name in sorted(tags):
            yield {"name": name, "description": tags[name]} if tags[name] else {"name": name}

    def _components(self) -> Schema:
        schemas = self._schemas.components
        responses: Schema = {}
        if self._bindings:
            responses["Error"] = status_response(self._status)
            schemas[self._status] = status_schema(self._details, self._schemas, self._form)
        if self._connect:
            responses["ConnectError"] = connect_response()
            schemas[CONNECT_ERROR] = connect_error_schema()
        components: Schema = {"responses": _sorted(responses), "schemas": _sorted(schemas)}
        if self._about.security_schemes:
            components["securitySchemes"] = {
                name: self._about.security_schemes[name] for name in sorted(self._about.security_schemes)
            }
        return components


class _OperationIds:
    """``Service_Method``, with a number for every further binding of a method."""

    def __init__(self, methods: Iterable[DescMethod]) -> None:
        services = {method.parent.type_name: method.parent.name for method in methods}
        self._shared = {name for name, count in Counter(services.values()).items() if count > 1}
        self._given: Counter[str] = Counter()

    def of(self, method: DescMethod, variant: str) -> str:
        service = method.parent.name
        if service in self._shared:
            service = method.parent.type_name.replace(".", "_")
        name = "_".join(part for part in (service, method.name, variant) if part)
        self._given[name] += 1
        return name if self._given[name] == 1 else f"{name}_{self._given[name]}"


def _put(item: Schema, name: str, operation: Schema) -> None:
    """Put an operation into its path item; for HTTP methods that OpenAPI 3.1 lacks, as 3.2 does."""
    if name.lower() in _FIXED_METHODS:
        item.setdefault(name.lower(), operation)
        return
    others = item.setdefault("x-additionalOperations", {})
    assert isinstance(others, dict)  # noqa: S101 (made by the line above)
    others[name] = operation


def _sorted(members: Mapping[str, Json]) -> Schema:
    return {name: members[name] for name in sorted(members)}
