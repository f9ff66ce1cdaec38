from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from protobuf import DescService

from gateway.chain.context import establish_context
from gateway.gen.n8ngateway.v1 import organization_service_pb
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest, ExecuteResponse
from gateway.rpc.chain import Chain
from gateway.rpc.errors import Unimplemented
from gateway.rpc.methods import MethodTable, path_of
from tests.calls import EXECUTIONS, answers, call_of


def test_every_method_is_found_by_its_path_and_its_descriptor() -> None:
    table = MethodTable([(EXECUTIONS, None)])
    assert {method.path for method in table} == {
        f"/n8ngateway.v1.ExecutionService/{descriptor.name}" for descriptor in EXECUTIONS.methods
    }
    for descriptor in EXECUTIONS.methods:
        assert table.of(descriptor) is table[path_of(descriptor)]
    execute = table["/n8ngateway.v1.ExecutionService/Execute"]
    assert (execute.input, execute.output) == (ExecuteRequest, ExecuteResponse)
    assert (execute.service, execute.name) == ("n8ngateway.v1.ExecutionService", "Execute")
    assert [method.name for method in table if method.server_streaming] == ["ExecuteStream", "WatchExecution"]
    assert table.services == [EXECUTIONS]


def test_a_path_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        MethodTable([(EXECUTIONS, None)])["/n8ngateway.v1.ExecutionService/execute"]


async def test_a_method_is_the_service_s_coroutine_in_snake_case() -> None:
    class Service:
        async def get_n8n_instance(self, request: Any, _call: Any) -> Any:
            return request

    [descriptor] = organization_service_pb.desc().services
    table = MethodTable([(descriptor, Service())])
    found = table["/n8ngateway.v1.OrganizationService/GetN8nInstance"]
    assert await found.implementation("request", call_of(found)) == "request"


@pytest.mark.parametrize("name", ["Execute", "ExecuteStream"])
async def test_a_method_without_meaning_is_unimplemented_and_says_the_word(name: str) -> None:
    call = call_of(MethodTable([(EXECUTIONS, None)])[f"/n8ngateway.v1.ExecutionService/{name}"])
    with pytest.raises(Unimplemented) as caught:
        await answers(Chain(establish_context, [], [], timeout=60), call)
    word = f"UNIMPLEMENTED: n8ngateway.v1.ExecutionService.{name} "
    assert caught.value.message.startswith(word)


def test_client_streaming_is_left_out() -> None:
    streams = [SimpleNamespace(method_kind=kind) for kind in ("client_streaming", "bidi_streaming")]
    service = cast("DescService", SimpleNamespace(methods=[*streams, *EXECUTIONS.methods]))
    assert len(list(MethodTable([(service, None)]))) == len(EXECUTIONS.methods)
