"""The client's address on every door, with and without trusted proxies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

import grpc
import pytest

from gateway.chain.address import ClientAddress, Network
from gateway.doors.grpc import Connections
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
from tests.doors.conftest import EXECUTIONS, Doors, serve
from tests.doors.wire import connect, frame

EXECUTE = f"/{EXECUTIONS.type_name}/Execute"
MESSAGE = ExecuteRequest(workflow_id="echo").to_binary()
FORGED = {"x-forwarded-for": "198.51.100.7, 192.0.2.1", "forwarded": "for=198.51.100.7, for=192.0.2.1"}
REQUESTS = {
    "rest": ("/api/v1/execute", "application/json", b'{"workflow_id": "echo"}'),
    "connect": (EXECUTE, "application/proto", MESSAGE),
    "grpc-web": (EXECUTE, "application/grpc-web+proto", frame(MESSAGE)),
}


@asynccontextmanager
async def doors_that_trust(*networks: Network) -> AsyncIterator[Doors]:
    async with serve(Connections(), ClientAddress(networks)) as doors:
        yield doors


async def seen(doors: Doors, door: str, header: str) -> str:
    """The address that the service sees of a call with a forwarded header, its lines sent one by one."""
    doors.forget()
    values = FORGED[header].split(", ")
    if door == "grpc":
        async with grpc.aio.insecure_channel(doors.grpc_address) as channel:
            metadata = [(header, value) for value in values]
            await channel.unary_unary(EXECUTE)(MESSAGE, metadata=metadata, timeout=10)
    else:
        path, content_type, body = REQUESTS[door]
        async with connect(doors.http_port) as connection:
            lines = f"\r\n{header}: ".join(values)
            answer = await connection.request(
                "POST", path, {"content-type": content_type, header: lines}, body
            )
            assert answer.status == 200
    [call] = doors.service.calls
    return call.address


@pytest.mark.parametrize("header", FORGED)
async def test_a_forged_header_is_believed_of_a_trusted_peer_alone(header: str) -> None:
    every_door = ("grpc", *REQUESTS)
    async with doors_that_trust() as doors:
        assert {door: await seen(doors, door, header) for door in every_door} == dict.fromkeys(
            every_door, "127.0.0.1"
        )
    async with doors_that_trust(ip_network("127.0.0.0/8")) as doors:
        assert {door: await seen(doors, door, header) for door in every_door} == dict.fromkeys(
            every_door, "192.0.2.1"
        )
