from __future__ import annotations

import pytest
from protobuf.wkt import FieldMask

from gateway.gen.n8ngateway.v1.organization_pb import Organization
from gateway.gen.n8ngateway.v1.workflow_pb import Workflow
from gateway.rpc.errors import InvalidArgument
from gateway.services.update_mask import changes, masked_fields


def test_without_a_mask_what_is_set_and_can_change() -> None:
    workflow = Workflow(id="7", organization_id="8", name="a", is_active=True, is_idempotent=False)
    for mask in (None, FieldMask()):
        assert masked_fields(workflow, mask) == ["name", "is_idempotent"]


def test_a_star_is_all_that_can_change() -> None:
    names = masked_fields(Workflow(), FieldMask(paths=["*"]))
    assert {"name", "is_idempotent", "timeout_seconds"} < set(names)
    assert not {"id", "organization_id", "is_active", "created_at", "updated_at", "archived_at"} & set(names)


def test_a_mask_names_each_field_once() -> None:
    mask = FieldMask(paths=["name", "rate_limit.requests", "name", "rate_limit.period_seconds"])
    assert masked_fields(Organization(), mask) == ["name", "rate_limit"]


@pytest.mark.parametrize(
    "path",
    ["id", "created_at", "archived_at", "organization_id", "is_active", "nope", "", "name.first", "Name",
     "webhookPath", "*", "name\0", "x" * 1_000_000],
)  # fmt: skip
def test_what_cannot_change_is_named(path: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        masked_fields(Workflow(name="a"), FieldMask(paths=["name", path]))
    assert raised.value.fields["update_mask"].startswith(path[:64])
    assert len(raised.value.message) < 200


def test_changes_hold_values_and_what_is_to_be_cleared() -> None:
    workflow = Workflow(name="a", credits_per_execution=0, is_idempotent=False)
    assert changes(workflow, ["name", "is_idempotent", "credits_per_execution", "description"]) == {
        "name": "a",
        "is_idempotent": False,
        "credits_per_execution": None,
        "description": None,
    }
