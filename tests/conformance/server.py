"""The server under test: `python -m tests.conformance.server DESCRIPTORS SOCKET`.

For each `launcher` that connects to SOCKET a process of its own reads from the launcher's standard input
which door to open, and tells its port on the launcher's standard output. Both messages come behind their
length, four bytes in network order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import uvloop
from protobuf import Message, Registry
from protobuf.wkt import FileDescriptorSet

from gateway import logs
from gateway.doors.connect import ConnectDoor
from gateway.doors.grpc import GrpcDoor
from gateway.doors.http import HttpServer, http_application
from gateway.doors.rest import RestDoor
from gateway.doors.tls import Tls, TlsFiles
from gateway.rpc.call import Call
from gateway.rpc.chain import Chain, Encoded
from gateway.rpc.errors import RpcError
from gateway.rpc.methods import MethodTable
from gateway.transcoding import Outgoing
from tests.conformance.service import PACKAGE, ConformanceService

HOST = "127.0.0.1"
UNLIMITED = 4 << 20
GRPC = 2
"""Protocol.PROTOCOL_GRPC"""


class PlainChain(Chain):
    """The chain, with the details of errors as the suite counts them: those of the service alone."""

    async def unary(self, call: Call, encode: Callable[[Message], Encoded]) -> Encoded:
        try:
            return await super().unary(call, encode)
        except RpcError as error:
            error.reason = ""
            raise

    async def stream(
        self, call: Call, encode: Callable[[Outgoing], Encoded]
    ) -> AsyncGenerator[list[Encoded], None]:
        try:
            async with aclosing(super().stream(call, encode)) as batches:
                async for batch in batches:
                    yield batch
        except RpcError as error:
            error.reason = ""
            raise


def listen(address: str, registry: Registry) -> None:
    """Serve each launcher that comes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while True:
            launcher, _ = listener.accept()
            if os.fork() == 0:
                _, files, _, _ = socket.recv_fds(launcher, 1, 3)
                for standard, file in enumerate(files):
                    os.dup2(file, standard)
                    os.close(file)
                uvloop.run(serve(registry, launcher))
            launcher.close()


async def serve(registry: Registry, launcher: socket.socket) -> None:
    """Serve one configuration until the runner ends the launcher, and this process with it."""
    wanted = _read(registry, "ServerCompatRequest")
    service = ConformanceService(registry)
    methods = MethodTable([(service.descriptor, service)])
    chain = PlainChain(_no_context, guards=[_decode], observers=[], timeout=30)
    limit = wanted.message_receive_limit or UNLIMITED
    tls = _tls(wanted.server_creds) if wanted.use_tls else None
    if int(wanted.protocol) == GRPC:
        door = GrpcDoor(methods, chain, max_message_bytes=limit)
        port = await door.start(HOST, 0, tls.grpc() if tls else None)
    else:
        application = http_application(
            ConnectDoor(methods, chain, max_message_bytes=limit),
            RestDoor(methods, chain, max_message_bytes=limit).application,
            services=[service.descriptor.type_name],
            cors_origins=[],
        )
        port = await HttpServer(application, grace=1, tls=tls.http if tls else None).start(HOST, 0)
    certificate = wanted.server_creds.cert if tls else b""
    _write(_make(registry, "ServerCompatResponse", host=HOST, port=port, pem_cert=certificate))
    launcher.setblocking(False)
    await asyncio.get_running_loop().sock_recv(launcher, 1)
    os._exit(0)


def _tls(credentials: Any) -> Tls:
    """The certificate that the suite wants to see."""
    with tempfile.TemporaryDirectory() as directory:
        files = TlsFiles(Path(directory, "cert.pem"), Path(directory, "key.pem"))
        files.certificate.write_bytes(credentials.cert)
        files.key.write_bytes(credentials.key)
        return Tls(files)


async def _no_context(_call: Call) -> None:
    """No request id, which would be one more detail of errors."""


async def _decode(call: Call) -> None:
    call.request = call.decode()


def _make(registry: Registry, name: str, /, **fields: Any) -> Any:
    descriptor = registry.message(f"{PACKAGE}.{name}")
    assert descriptor is not None
    return descriptor.type(**fields)


def _read(registry: Registry, name: str) -> Any:
    length = int.from_bytes(sys.stdin.buffer.read(4), "big")
    return type(_make(registry, name)).from_binary(sys.stdin.buffer.read(length))


def _write(message: Message) -> None:
    body = message.to_binary()
    sys.stdout.buffer.write(len(body).to_bytes(4, "big") + body)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    logs.configure("WARNING", "text")
    descriptors = FileDescriptorSet.from_binary(Path(sys.argv[1]).read_bytes())
    listen(sys.argv[2], descriptors.to_registry())
