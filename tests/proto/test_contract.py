"""What holds for every RPC, message and field of n8ngateway.v1, read from the generated descriptors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import protovalidate
import pytest
from protobuf import (
    DescField,
    DescFieldValueList,
    DescFieldValueMap,
    DescFieldValueMessage,
    DescFieldValueScalar,
    DescMessage,
    DescMethod,
    Message,
    ScalarType,
)
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorProto, FileDescriptorSet, MethodOptions

import gateway.gen
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
from gateway.gen.n8ngateway.v1.organization_service_pb import CreateOrganizationRequest
from gateway.gen.n8ngateway.v1.workflow_service_pb import RegisterWorkflowRequest, UpdateWorkflowRequest
from gateway.transcoding.gen.buf.validate.validate_pb import ext_field
from gateway.transcoding.gen.google.api.annotations_pb import ext_http
from gateway.transcoding.gen.google.api.field_behavior_pb import FieldBehavior, ext_field_behavior
from gateway.transcoding.gen.google.api.http_pb import HttpRule

PACKAGE = "n8ngateway.v1"
FILES = FileDescriptorSet.from_binary(Path(gateway.gen.__file__).with_name("descriptors.binpb").read_bytes())
REGISTRY = FILES.to_registry()
OWN: list[FileDescriptorProto] = [file for file in FILES.file if file.package == PACKAGE]
SERVICES = [REGISTRY.service(f"{PACKAGE}.{service.name}") for file in OWN for service in file.service]
METHODS: list[DescMethod] = [method for service in SERVICES if service for method in service.methods]
FOUND = [REGISTRY.message(f"{PACKAGE}.{message.name}") for file in OWN for message in file.message_type]
MESSAGES: list[DescMessage] = [message for message in FOUND if message]
VALIDATOR = protovalidate.Validator()

# Text that is cut and cleaned by the service: n8n must not be refused for it.
FREE_TEXT = {"LogErrorRequest.error_message", "ReportProgressRequest.text"}

SEED_ROUTES = {
    "GET /api/v1/health",
    "GET /api/v1/health/ready",
    "GET /api/v1/health/live",
    "POST /api/v1/organizations",
    "GET /api/v1/organizations",
    "GET /api/v1/organizations/*",
    "PATCH /api/v1/organizations/*",
    "POST /api/v1/organizations/*/credentials",
    "DELETE /api/v1/organizations/*/credentials",
    "POST /api/v1/workflows",
    "GET /api/v1/workflows",
    "GET /api/v1/workflows/*",
    "PATCH /api/v1/workflows/*",
    "POST /api/v1/workflows/*/activate",
    "POST /api/v1/workflows/*/deactivate",
    "POST /api/v1/execute",
    "POST /api/v1/execute/stream",
    "POST /api/v1/internal/log-error",
}


def full_name(method: DescMethod) -> str:
    return f"{method.parent.name}.{method.name}"


def rule_of(method: DescMethod) -> HttpRule:
    assert method.proto.options is not None, f"{full_name(method)} has no options"
    return method.proto.options[ext_http]


def route(method: DescMethod) -> tuple[str, str]:
    """Return HTTP method and template."""
    pattern = rule_of(method).pattern
    assert pattern is not None, f"{full_name(method)} has no HTTP rule"
    assert isinstance(pattern.value, str)
    return pattern.field.upper(), pattern.value


def violations(message: Message[Any]) -> list[str]:
    """Return "path: rule id" of each rule that `message` breaks; rules that do not compile raise."""
    try:
        VALIDATOR.validate(message)
    except protovalidate.ValidationError as error:
        return [f"{path_of(violation)}: {violation.proto.rule_id}" for violation in error.violations]
    return []


def path_of(violation: protovalidate.Violation) -> str:
    field = violation.proto.field
    return ".".join(element.field_name for element in field.elements) if field else ""


def test_design_has_all_its_services() -> None:
    services = {method.parent.name for method in METHODS}
    assert len(FOUND) == len(MESSAGES)
    assert services == {
        f"{name}Service"
        for name in (
            "Organization",
            "ApiKey",
            "Credit",
            "Workflow",
            "Execution",
            "Webhook",
            "Internal",
            "Health",
        )
    }


@pytest.mark.parametrize("method", METHODS, ids=full_name)
def test_rpc_states_route_and_idempotency(method: DescMethod) -> None:
    verb, template = route(method)
    assert template.startswith("/api/v1/")
    assert method.proto.options is not None
    assert method.proto.options.has_field("idempotency_level")
    reads = method.idempotency is MethodOptions.IdempotencyLevel.NO_SIDE_EFFECTS
    assert reads == (verb == "GET")
    if verb in ("PUT", "PATCH", "DELETE"):
        assert method.idempotency is MethodOptions.IdempotencyLevel.IDEMPOTENT


@pytest.mark.parametrize("method", METHODS, ids=full_name)
def test_route_names_fields_that_exist(method: DescMethod) -> None:
    rule = rule_of(method)
    verb, template = route(method)
    for path in re.findall(r"\{([^}]+)\}", template):
        message = method.input
        *parents, last = path.split(".")
        for name in parents:
            value = field_of(message, name).value
            assert isinstance(value, DescFieldValueMessage)
            message = value.message
        value = field_of(message, last).value
        assert isinstance(value, DescFieldValueScalar)
        assert value.scalar is ScalarType.STRING
    if rule.body not in ("", "*"):
        assert field_of(method.input, rule.body)
    assert bool(rule.body) == (verb in ("POST", "PUT", "PATCH"))
    if rule.response_body:
        assert field_of(method.output, rule.response_body)


def field_of(message: DescMessage, name: str) -> DescField:
    return next(field for field in message.fields if field.name == name)


def test_routes_are_unique_and_hold_the_seeds() -> None:
    routes = [f"{verb} {re.sub(r'{[^}]+}', '*', template)}" for verb, template in map(route, METHODS)]
    assert len(set(routes)) == len(routes)
    assert set(routes) >= SEED_ROUTES


@pytest.mark.parametrize("method", [m for m in METHODS if route(m)[0] == "PATCH"], ids=full_name)
def test_patch_has_a_mask_beside_the_resource(method: DescMethod) -> None:
    assert field_of(method.input, "update_mask")
    assert field_of(method.input, rule_of(method).body)


@pytest.mark.parametrize("message", [m for m in MESSAGES if m.name.startswith("List")], ids=lambda m: m.name)
def test_lists_are_paged(message: DescMessage) -> None:
    fields = {field.name for field in message.fields}
    assert fields >= (
        {"page_size", "page_token"} if message.name.endswith("Request") else {"next_page_token"}
    )
    if message.name.endswith("Request"):
        assert "page_size: int32.gte_lte" in violations(message.type(page_size=201))
        assert "page_size: int32.gte_lte" in violations(message.type(page_size=-1))


def elements(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and source path of everything that has to have a comment."""
    for i, service in enumerate(file.service):
        yield service.name, (6, i)
        yield from (
            (f"{service.name}.{method.name}", (6, i, 2, j)) for j, method in enumerate(service.method)
        )
    for i, enum in enumerate(file.enum_type):
        yield enum.name, (5, i)
        yield from ((value.name, (5, i, 2, j)) for j, value in enumerate(enum.value))
    for i, message in enumerate(file.message_type):
        yield message.name, (4, i)
        yield from ((f"{message.name}.{field.name}", (4, i, 2, j)) for j, field in enumerate(message.field))
        for j, oneof in enumerate(message.oneof_decl):
            if not oneof.name.startswith("_"):
                yield f"{message.name}.{oneof.name}", (4, i, 8, j)


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.name)
def test_everything_has_a_comment(file: FileDescriptorProto) -> None:
    assert file.source_code_info is not None
    comments = {tuple(at.path): at.leading_comments.strip() for at in file.source_code_info.location}
    silent = [name for name, path in elements(file) if not comments.get(path, "").endswith(".")]
    assert silent == []


def test_rules_that_name_a_field_by_their_id_name_one_that_there_is() -> None:
    """As `name.required` on the workflow of a request: the caller is told of `workflow.name`."""
    named = [
        (field.value, rule.id.removesuffix(".required"))
        for message in MESSAGES
        for field in message.fields
        if field.proto.options and (rules := field.proto.options[ext_field])
        for rule in rules.cel
        if rule.id.endswith(".required")
    ]
    assert len(named) > 10
    for value, name in named:
        assert isinstance(value, DescFieldValueMessage)
        assert name in {field.name for field in value.message.fields}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.name)
def test_rules_compile_and_numbers_print_as_numbers(message: DescMessage) -> None:
    violations(message.type())
    wide = {ScalarType.INT64, ScalarType.UINT64, ScalarType.SINT64, ScalarType.FIXED64, ScalarType.SFIXED64}
    for field in message.fields:
        if isinstance(field.value, DescFieldValueScalar):
            assert field.value.scalar not in wide, field.name


def string_inputs(message: DescMessage, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield the path of each string that a caller may send, and whether it is a list."""
    for field in message.fields:
        behaviors = field.proto.options[ext_field_behavior] if field.proto.options else []
        if FieldBehavior.OUTPUT_ONLY in behaviors:
            continue
        match field.value:
            case DescFieldValueScalar(scalar=ScalarType.STRING):
                yield (*path, field.name), False
            case DescFieldValueList(element=ScalarType.STRING):
                yield (*path, field.name), True
            case DescFieldValueMessage(message=child) if child.type_name.startswith(PACKAGE):
                yield from string_inputs(child, (*path, field.name))


STRINGS = [
    pytest.param(method.input, path, is_list, id=f"{method.input.name}.{'.'.join(path)}")
    for method in METHODS
    for path, is_list in string_inputs(method.input)
    if f"{method.input.name}.{'.'.join(path)}" not in FREE_TEXT
]


@pytest.mark.parametrize(("message", "path", "is_list"), STRINGS)
@pytest.mark.parametrize("text", ["a\0b", "x" * (1 << 20)], ids=["nul", "long"])
def test_text_that_cannot_be_stored_is_refused(
    message: DescMessage, path: tuple[str, ...], *, is_list: bool, text: str
) -> None:
    value: Any = [text] if is_list else text
    for name in reversed(path):
        value = {name: value}
    request = protobuf_message(message, value)
    assert any(line.startswith(f"{'.'.join(path)}:") for line in violations(request))


def protobuf_message(message: DescMessage, value: dict[str, Any]) -> Message[Any]:
    """Build a message from plain values; unlike JSON this carries any text."""
    arguments: dict[str, Any] = {}
    for name, content in value.items():
        field = field_of(message, name)
        if isinstance(field.value, DescFieldValueMessage):
            arguments[field.local_name] = protobuf_message(field.value.message, content)
        else:
            arguments[field.local_name] = content
    return message.type(**arguments)


def test_maps_are_bounded() -> None:
    unbounded = [
        f"{method.input.name}.{field.name}"
        for method in METHODS
        for field in method.input.fields
        if isinstance(field.value, DescFieldValueMap)
        and not any(
            line.startswith(f"{field.name}:")
            for line in violations(method.input.type(**{field.local_name: {f"k{n}": "v" for n in range(65)}}))
        )
    ]
    assert unbounded == []


@pytest.mark.parametrize("path", ["echo", "a/b", "3f1c-4d/chat", "v1.2/run", "~x_y"])
def test_webhook_path_accepts(path: str) -> None:
    assert violations(workflow_named("Echo", path)) == []


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/echo",
            "echo/",
            "a//b",
            "//host/x",
            "..",
            "../rest/x",
            "a/../b",
            "a/./b",
            "a..b",
            "http://host/x",
        ),
        *(
            "https:x",
            "echo?x=1",
            "echo#x",
            "a b",
            "a\tb",
            "a\n",
            "a\\b",
            "a%2fb",
            "a%b",
            "user@host",
            "é",
            "a\0",
        ),
    ],
)
def test_webhook_path_refuses(path: str) -> None:
    assert violations(workflow_named("Echo", path)) == ["workflow.webhook_path: string.pattern"]


def workflow_named(name: str, path: str) -> RegisterWorkflowRequest:
    request = RegisterWorkflowRequest.from_json('{"workflow": {}}')
    assert request.workflow is not None
    request.workflow.name = name
    request.workflow.webhook_path = path
    return request


@pytest.mark.parametrize("name", ["A", "Acme GmbH & Co. KG", "日本", "Zoë 👩‍🔬"])
def test_name_accepts(name: str) -> None:
    assert violations(organization_named(name)) == []


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("", "name.required"),
        (" A", "name.text"),
        ("A ", "name.text"),
        ("A\nB", "name.text"),
        ("A\u202eB", "name.text"),
        ("\u2066A", "name.text"),
        ("A\u2028B", "name.text"),
        ("A" * 101, "string.max_len"),
    ],
)
def test_name_refuses(name: str, rule: str) -> None:
    assert [line.split(": ")[1] for line in violations(organization_named(name))] == [rule]


def organization_named(name: str) -> CreateOrganizationRequest:
    request = CreateOrganizationRequest.from_json('{"organization": {}}')
    assert request.organization is not None
    request.organization.name = name
    return request


def test_an_update_may_send_a_part_only() -> None:
    identity = '"id": "01939f1e-7a2b-7c3d-8e4f-5a6b7c8d9e0f"'
    assert (
        violations(
            UpdateWorkflowRequest.from_json(f'{{"workflow": {{{identity}, "credits_per_execution": 3}}}}')
        )
        == []
    )
    assert violations(UpdateWorkflowRequest.from_json('{"workflow": {"credits_per_execution": 3}}')) == [
        "workflow: id.required"
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{}", []),
        ('{"data": {"a": 1}}', []),
        ('{"payload": {"a": 1}, "credits": 0, "metadata": {"source": "app"}}', []),
        ('{"data": {}, "payload": {}}', [": data.or_payload"]),
        ('{"credits": -1}', ["credits: int32.gte"]),
        ('{"workflow_id": "echo"}', ["workflow_id: string.uuid"]),
        ('{"metadata": {"a=b": "c"}}', ["metadata: string.pattern"]),
    ],
)
def test_execute_request(body: str, expected: list[str]) -> None:
    assert violations(ExecuteRequest.from_json(body)) == expected


def test_retry_needs_an_idempotent_workflow() -> None:
    request = workflow_named("Echo", "echo")
    assert request.workflow is not None
    request.workflow.unknown_outcome_policy = type(request.workflow.unknown_outcome_policy)["RETRY"]
    assert violations(request) == ["workflow: is_idempotent.required"]
    request.workflow.is_idempotent = True
    assert violations(request) == []
