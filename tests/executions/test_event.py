"""Events of nodes are printed from their parts: as their messages would be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gateway.adapters.n8n.pieces import Node
from gateway.executions.event import AtNode, Moment, NodeEvent
from gateway.gen.n8ngateway.v1.execution_event_pb import ExecutionEvent

if TYPE_CHECKING:
    from gateway.executions.event import NodeField

RUN = "01936f5e-7c00-7000-8000-000000000001"
NODES = [
    Node("id-1", "Agent", 0, 0),
    Node("id-1", 'Käse "7"\n', 3, 2**31 - 1),
    Node("", "", 0, 128),
]
TEXTS = ["", "x", "1.0, 2.0]", 'ü "☃" \\ \x00 \U0001f600\n', "x" * 70_000]
TIMES = [0, 1795299897827000000, 1795299897827000001, 1795299897000000000]


def same(event: NodeEvent) -> None:
    message = event.message()
    assert ExecutionEvent.from_binary(event.to_binary()) == message
    for names in (True, False):
        for defaults in (True, False):
            printed = event.to_json(use_proto_field_name=names, always_emit_implicit=defaults)
            expected = message.to_json(use_proto_field_name=names, always_emit_implicit=defaults)
            assert json.loads(printed) == json.loads(expected)


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_is_printed_as_its_message(node: Node, text: str) -> None:
    same(NodeEvent(RUN, 1, Moment.now(), AtNode("chunk", node, text)))


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("field", ["node_started", "node_finished"])
def test_begin_and_end_are_printed_as_their_messages(node: Node, field: NodeField) -> None:
    same(NodeEvent(RUN, 127, Moment.now(), AtNode(field, node)))


@pytest.mark.parametrize("nanoseconds", TIMES)
@pytest.mark.parametrize("sequence", [1, 127, 128, 16_383, 16_384, 2**31 - 1])
def test_times_and_sequences_are_printed_as_their_messages(nanoseconds: int, sequence: int) -> None:
    same(NodeEvent(RUN, sequence, Moment(nanoseconds), AtNode("chunk", NODES[0], "x")))
