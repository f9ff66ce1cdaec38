"""HTTP rules made ready: from google.api.http annotations, from outside, or by default.

A `Binding` is one HTTP method and path template of one RPC. It is what the
router finds and what a description of the API is generated from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from protobuf import (
    DescField,
    DescFieldValueMessage,
    DescMethod,
    DescService,
    Oneof,
    message_from_json_value,
)

from gateway.transcoding.errors import BindingError
from gateway.transcoding.fields import (
    ResolvedField,
    field_named,
    is_http_body,
    is_repeated,
    resolve,
    text_reader,
)
from gateway.transcoding.gen.google.api.annotations_pb import ext_http
from gateway.transcoding.gen.google.api.http_pb import CustomHttpPattern, Http, HttpRule
from gateway.transcoding.template import Template

WHOLE = "*"
"""As a body: every field that the path does not bind."""


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """One way to call one RPC over HTTP.

    `path_fields` are the fields that the template binds, in its order. `body`
    is ``*``, or empty when a body is refused, or else `body_field` is the field
    it fills. `response_field` is the one field that is the response body, or
    None for the whole message. `additional` tells a rule's additional_bindings
    from its main one.
    """

    http_method: str
    template: Template
    method: DescMethod
    path_fields: tuple[ResolvedField, ...]
    body: str
    body_field: ResolvedField | None
    response_field: DescField | None
    additional: bool

    def __str__(self) -> str:
        return f"{self.http_method} {self.template} ({method_name(self.method)})"

    @property
    def client_streaming(self) -> bool:
        """Whether the request is a stream of messages."""
        return self.method.method_kind in ("client_streaming", "bidi_streaming")

    @property
    def server_streaming(self) -> bool:
        """Whether the response is a stream of messages."""
        return self.method.method_kind in ("server_streaming", "bidi_streaming")

    @property
    def http_body_request(self) -> bool:
        """Whether the request body is raw bytes (google.api.HttpBody)."""
        if self.body == WHOLE:
            return is_http_body(self.method.input)
        return self.body_field is not None and _is_http_body_field(self.body_field.field)

    @property
    def http_body_response(self) -> bool:
        """Whether the response body is raw bytes (google.api.HttpBody)."""
        if self.response_field is None:
            return is_http_body(self.method.output)
        return _is_http_body_field(self.response_field)


def method_name(method: DescMethod) -> str:
    """``package.Service.Method``, as selectors write it."""
    return f"{method.parent.type_name}.{method.name}"


def service_bindings(
    services: Iterable[DescService], *, rules: Sequence[HttpRule] = (), default_bindings: bool = False
) -> tuple[Binding, ...]:
    """The bindings of every method, in the order of the descriptors.

    `rules` override the annotations of the methods that they select; a selector
    is ``package.Service.Method`` or ``package.Service.*``, and the last one
    that fits a method holds. Raises BindingError and TemplateError.
    """
    methods = [method for service in services for method in service.methods]
    chosen: dict[str, HttpRule] = {}
    for rule in rules:
        selected = [method_name(method) for method in methods if _selects(rule.selector, method_name(method))]
        if not selected:
            message = f"the rule's selector {rule.selector!r} selects no method"
            raise BindingError(message)
        chosen.update(dict.fromkeys(selected, rule))
    return tuple(_bindings(methods, chosen, default_bindings=default_bindings))


def parse_service_config(config: Mapping[str, object]) -> tuple[HttpRule, ...]:
    """The HTTP rules of a gRPC service configuration, as parsed from its YAML or JSON.

    Raises BindingError when ``http.rules`` is not of the form of google.api.Http.
    """
    try:
        http = message_from_json_value(Http, config.get("http", {}))  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        message = f"the service configuration's http section is malformed: {error}"
        raise BindingError(message) from error
    return tuple(http.rules)


def rule_bindings(method: DescMethod, rule: HttpRule) -> Iterator[Binding]:
    """The bindings of one rule: its own, then its additional ones. Raises BindingError, TemplateError."""
    yield compile_rule(method, rule, additional=False)
    for extra in rule.additional_bindings:
        if extra.additional_bindings:
            message = f"{method}: additional_bindings must not contain additional_bindings"
            raise BindingError(message)
        yield compile_rule(method, extra, additional=True)


def compile_rule(method: DescMethod, rule: HttpRule, *, additional: bool = False) -> Binding:
    """One rule without its additional_bindings. Raises BindingError, TemplateError."""
    http_method, text = _pattern(method, rule)
    template = Template.parse(text)
    body_field = None
    try:
        path_fields = tuple(_path_field(method, variable.field_path) for variable in template.variables)
        if rule.body not in ("", WHOLE):
            body_field = _body_field(method, rule.body)
        response_field = _response_field(method, rule.response_body) if rule.response_body else None
        _check_paths_against_body(path_fields, body_field)
    except BindingError as error:
        message = f"{method}: {error}"
        raise BindingError(message) from None
    return Binding(
        http_method=http_method,
        template=template,
        method=method,
        path_fields=path_fields,
        body=rule.body,
        body_field=body_field,
        response_field=response_field,
        additional=additional,
    )


def _bindings(
    methods: Iterable[DescMethod], chosen: Mapping[str, HttpRule], *, default_bindings: bool
) -> Iterator[Binding]:
    for method in methods:
        rule = chosen.get(method_name(method)) or _annotation(method)
        if rule is None and default_bindings:
            path = f"/{method.parent.type_name}/{method.name}"
            pattern: Oneof[Literal["post"], str] = Oneof("post", path)
            rule = HttpRule(pattern=pattern, body=WHOLE)
        if rule is not None:
            yield from rule_bindings(method, rule)


def _annotation(method: DescMethod) -> HttpRule | None:
    options = method.proto.options
    return options[ext_http] if options is not None and ext_http in options else None


def _selects(selector: str, name: str) -> bool:
    if selector.endswith(".*"):
        return name.startswith(selector[:-1])
    return selector in (name, WHOLE)


def _pattern(method: DescMethod, rule: HttpRule) -> tuple[str, str]:
    pattern = rule.pattern
    if pattern is None:
        message = f"{method}: the rule has no pattern"
        raise BindingError(message)
    value: str | CustomHttpPattern = pattern.value
    if isinstance(value, str):
        return pattern.field.upper(), value
    if not value.kind:
        message = f"{method}: the custom pattern has no kind"
        raise BindingError(message)
    return value.kind, value.path


def _path_field(method: DescMethod, path: str) -> ResolvedField:
    resolved = resolve(method.input, path)
    if is_repeated(resolved.field) or text_reader(resolved.field) is None:
        message = f"path variable {path!r} must be a singular field with a text form"
        raise BindingError(message)
    return resolved


def _body_field(method: DescMethod, path: str) -> ResolvedField:
    resolved = resolve(method.input, path)
    if len(resolved.steps) > 1 and not _is_http_body_field(resolved.field):
        message = f"body {path!r} must name a field of the request message itself"
        raise BindingError(message)
    return resolved


def _response_field(method: DescMethod, name: str) -> DescField:
    field = field_named(method.output, name)
    if field is None:
        message = f"response_body: {method.output} has no field {name!r}"
        raise BindingError(message)
    return field


def _check_paths_against_body(paths: Sequence[ResolvedField], body: ResolvedField | None) -> None:
    for path in paths:
        if body is not None and (path.path == body.path or _is_http_body_field(body.field)):
            inside = path.path == body.path or path.path.startswith(f"{body.path}.")
            if inside:
                message = f"path variable {path.path!r} is also the body"
                raise BindingError(message)


def _is_http_body_field(field: DescField) -> bool:
    return isinstance(field.value, DescFieldValueMessage) and is_http_body(field.value.message)
