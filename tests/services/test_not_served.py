from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.gen.n8ngateway.v1.organization_pb import Organization
from gateway.gen.n8ngateway.v1.rate_limit_pb import RateLimit
from gateway.gen.n8ngateway.v1.workflow_pb import CredentialMode, PricingMode, ResponseMode, Workflow
from gateway.rpc.errors import Unimplemented
from gateway.services.not_served import refuse_unserved

WORKFLOW = ("pricing_mode", "credits_per_unit", "response_mode", "credential_mode", "concurrency_limit")


@pytest.mark.parametrize(
    "message",
    [
        Workflow(),
        Workflow(name="n", webhook_path="p", credits_per_execution=5, timeout_seconds=9),
        Workflow(pricing_mode=PricingMode.UNSPECIFIED, response_mode=ResponseMode.UNSPECIFIED),
        Workflow(pricing_mode=PricingMode.FIXED, credential_mode=CredentialMode.NONE, concurrency_limit=0),
    ],
)
def test_what_asks_for_no_more_than_the_default_is_served(message: Workflow) -> None:
    refuse_unserved(message, WORKFLOW, within="workflow.")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Workflow(pricing_mode=PricingMode.PER_SECOND), "pricing_mode"),
        (Workflow(credits_per_unit=1), "credits_per_unit"),
        (Workflow(credential_mode=CredentialMode.HANDLE), "credential_mode"),
        (Workflow(concurrency_limit=1), "concurrency_limit"),
        (Workflow(pricing_mode=PricingMode(99)), "pricing_mode"),
    ],
)
def test_what_asks_for_more_is_refused_and_named(message: Workflow, field: str) -> None:
    with pytest.raises(Unimplemented) as caught:
        refuse_unserved(message, WORKFLOW, within="workflow.")
    assert list(caught.value.fields) == [f"workflow.{field}"]
    assert caught.value.message.startswith(f"workflow.{field} UNIMPLEMENTED")


def test_a_message_counts_when_it_is_there() -> None:
    with pytest.raises(Unimplemented) as caught:
        refuse_unserved(Organization(rate_limit=RateLimit()), ["name", "rate_limit"])
    assert list(caught.value.fields) == ["rate_limit"]


def test_a_default_that_a_proto_tells_of_is_the_first_named_value() -> None:
    """That is what the value 1 is taken for: the zero "behaves as" it."""
    protos = (Path(__file__).parents[2] / "proto/n8ngateway/v1").glob("*.proto")
    enums = [
        enum for proto in protos for enum in re.findall(r"enum \w+ {(.*?)\n}", proto.read_text(), re.DOTALL)
    ]
    told = [(match[1], enum) for enum in enums if (match := re.search(r"// Behaves as (\w+)\.", enum))]
    assert len(told) > 3
    assert all(f"{name} = 1;" in enum for name, enum in told)
