from __future__ import annotations

import re
from pathlib import Path

import pytest
from protobuf import Message
from protobuf.wkt import Struct

from gateway.chain.validate import IN_WORDS, Validate
from gateway.gen.n8ngateway.v1 import organization_service_pb, workflow_service_pb
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
from gateway.gen.n8ngateway.v1.n8n_instance_pb import N8nInstance
from gateway.gen.n8ngateway.v1.organization_service_pb import SetN8nInstanceRequest
from gateway.gen.n8ngateway.v1.workflow_pb import UnknownOutcomePolicy, Workflow
from gateway.gen.n8ngateway.v1.workflow_service_pb import RegisterWorkflowRequest
from gateway.rpc.call import Call
from gateway.rpc.errors import InvalidArgument
from gateway.rpc.methods import MethodTable
from tests.calls import EXECUTIONS, call_of

METHODS = MethodTable(
    [
        (EXECUTIONS, None),
        (workflow_service_pb.desc().services[0], None),
        (organization_service_pb.desc().services[0], None),
    ]
)
VALIDATE = Validate(METHODS)
UUID = "0190c8a6-0000-7000-8000-00000000000a"


def execute(request: Message) -> Call:
    return call_of(METHODS["/n8ngateway.v1.ExecutionService/Execute"], request)


def register(workflow: Workflow) -> Call:
    method = METHODS["/n8ngateway.v1.WorkflowService/RegisterWorkflow"]
    return call_of(method, RegisterWorkflowRequest(workflow=workflow))


async def refused(call: Call) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        await VALIDATE(call)
    assert caught.value.reason == "INVALID_FIELD"
    assert call.request is None
    return caught.value


async def test_a_request_that_keeps_the_rules_is_decoded() -> None:
    request = ExecuteRequest(workflow_id=UUID, metadata={"k": "v"})
    call = execute(request)
    await VALIDATE(call)
    assert call.request == request


async def test_a_field_is_named() -> None:
    error = await refused(execute(ExecuteRequest(workflow_id="no-uuid")))
    assert list(error.fields) == ["workflow_id"]
    assert error.message == f"workflow_id: {error.fields['workflow_id']}"


async def test_every_field_is_named_by_its_path() -> None:
    workflow = Workflow(id="x", name="x" * 101, webhook_path="../up", credits_per_execution=-1)
    error = await refused(register(workflow))
    assert set(error.fields) == {
        "workflow.id", "workflow.name", "workflow.webhook_path", "workflow.credits_per_execution",
    }  # fmt: skip
    assert all(error.fields.values())


def test_every_pattern_has_words() -> None:
    """And nothing has words that is no pattern."""
    protos = Path(__file__).parents[2] / "proto" / "n8ngateway" / "v1"
    text = "".join(path.read_text() for path in protos.glob("*.proto"))
    patterns = {found.replace("\\\\", "\\") for found in re.findall(r'pattern: "([^"]*)"', text)}
    assert patterns == IN_WORDS.keys()


async def test_what_is_allowed_is_told_in_words() -> None:
    instance = N8nInstance(base_url="https://n8n.example.com", internal_secret="with spaces in it")
    request = SetN8nInstanceRequest(organization_id=UUID, n8n_instance=instance)
    error = await refused(call_of(METHODS["/n8ngateway.v1.OrganizationService/SetN8nInstance"], request))
    assert error.fields == {
        "n8n_instance.internal_secret": "must be ASCII characters that can be printed, without spaces"
    }


async def test_the_key_of_a_map_is_part_of_the_path() -> None:
    error = await refused(execute(ExecuteRequest(metadata={"k": "v" * 100_000})))
    assert list(error.fields) == ['metadata["k"]']


async def test_all_that_is_wrong_with_a_field_is_told() -> None:
    error = await refused(register(Workflow(name="ok", webhook_path="/" * 300)))
    problems = error.fields["workflow.webhook_path"].split("; ")
    assert len(problems) == 2
    assert error.message == f"workflow.webhook_path: {problems[0]}"


async def test_a_rule_of_the_whole_message_names_no_field() -> None:
    error = await refused(execute(ExecuteRequest(data=Struct(), payload=Struct())))
    assert error.message == "data and payload are two names of one field: give at most one"
    assert error.fields == {}


async def test_what_is_missing_is_named_by_its_path() -> None:
    error = await refused(register(Workflow(id=UUID)))
    assert error.message == "workflow.name: is required"
    assert error.fields == {"workflow.name": "is required", "workflow.webhook_path": "is required"}
    nothing = call_of(METHODS["/n8ngateway.v1.WorkflowService/RegisterWorkflow"], RegisterWorkflowRequest())
    assert (await refused(nothing)).fields == {"workflow": "is required"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("https://n8n.example.com/webhook/summarise", "summarise"),
        ("http://localhost:5678/webhook/6f1c/do.it?x=1#top", "6f1c/do.it"),
        ("http://localhost:5678/webhook-test/6f1c/", "6f1c"),
        ("https://n8n.example.com/hooks/6f1c", "hooks/6f1c"),
        ("/webhook/summarise", "summarise"),
        ("/summarise", "summarise"),
        ("https://n8n.example.com/webhook/../rest", ""),
        ("https://n8n.example.com", ""),
        ("https://n8n.example.com/webhook/a b", ""),
        ("../rest", ""),
        ("//host", ""),
    ],
)
async def test_of_a_webhooks_url_its_path_is_named(given: str, meant: str) -> None:
    problem = (await refused(register(Workflow(name="w", webhook_path=given)))).fields[
        "workflow.webhook_path"
    ]
    allowed = "must be letters, digits, _ ~ and -, in parts joined by single dots and slashes"
    assert problem == (f"{allowed}: give {meant}" if meant else allowed)


async def test_a_rule_of_a_nested_message_names_the_field() -> None:
    workflow = Workflow(
        name="w",
        webhook_path="w",
        unknown_outcome_policy=UnknownOutcomePolicy.RETRY,
        is_idempotent=False,
    )
    error = await refused(register(workflow))
    needs = "unknown_outcome_policy RETRY needs is_idempotent"
    assert error.fields == {"workflow.is_idempotent": needs, "workflow": needs}


async def test_what_cannot_be_decoded_is_refused_without_a_word_of_it() -> None:
    def fail() -> Message:
        raise InvalidArgument("The message is no ExecuteRequest.", reason="MALFORMED_MESSAGE")

    call = execute(ExecuteRequest())
    call.decode = fail
    with pytest.raises(InvalidArgument) as caught:
        await VALIDATE(call)
    assert caught.value.reason == "MALFORMED_MESSAGE"


async def test_another_field_s_rule_does_not_change_what_is_handed_on() -> None:
    call = execute(ExecuteRequest(credits=0))
    await VALIDATE(call)
    assert isinstance(call.request, ExecuteRequest)
    assert call.request.has_field("credits")
