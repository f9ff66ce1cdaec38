"""TLS on both ports, certificates that change, and clients that must show one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography.x509 import load_der_x509_certificate
from structlog.testing import capture_logs

from gateway.doors.grpc import Connections
from gateway.doors.tls import Tls, TlsError, TlsFiles
from gateway.gen.n8ngateway.v1.execution_service_pb import ExecuteRequest
from tests.doors.certificates import Authority, Pair
from tests.doors.conftest import EXECUTIONS, Doors, serve
from tests.doors.wire import SECONDS, connect, request_bytes

EXECUTE = f"/{EXECUTIONS.type_name}/Execute"
MESSAGE = ExecuteRequest(workflow_id="echo").to_binary()
LIVE = request_bytes("GET", "/api/v1/health/live", {})


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    return TlsFiles(*authority.issue().write(tmp_path))


def client_context(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.certificate.decode())


async def shown(port: int, authority: Authority) -> int:
    """The serial number of the certificate that a port shows."""
    context = client_context(authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with asyncio.timeout(SECONDS):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    with closing(writer):
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return load_der_x509_certificate(der).serial_number


async def ask(doors: Doors, authority: Authority, client: Pair | None = None) -> bytes:
    """A gRPC call over TLS, with or without a client's certificate."""
    credentials = grpc.ssl_channel_credentials(
        authority.certificate, client.key if client else None, client.certificate if client else None
    )
    async with grpc.aio.secure_channel(f"localhost:{doors.grpc_port}", credentials) as channel:
        answer: bytes = await channel.unary_unary(EXECUTE)(MESSAGE, timeout=5)
        return answer


async def test_both_ports_speak_tls(authority: Authority, files: TlsFiles) -> None:
    async with serve(Connections(), tls=Tls(files)) as doors:
        async with httpx.AsyncClient(verify=client_context(authority), http2=False) as client:
            answer = await client.get(f"https://127.0.0.1:{doors.http_port}/api/v1/health/live")
        assert (answer.status_code, answer.http_version) == (200, "HTTP/1.1")
        assert answer.headers["strict-transport-security"] == "max-age=31536000"
        assert b"echo" in await ask(doors, authority)


async def test_only_http1_is_offered_and_no_old_tls(authority: Authority, files: TlsFiles) -> None:
    async with serve(Connections(), tls=Tls(files)) as doors:
        context = client_context(authority)
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", doors.http_port, ssl=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.close()
        old = client_context(authority)
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.deprecated_call():
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", doors.http_port, ssl=old)


async def test_without_tls_there_is_no_promise_of_it() -> None:
    async with serve(Connections()) as doors, connect(doors.http_port) as connection:
        connection.writer.write(LIVE)
        assert "strict-transport-security" not in (await connection.answer()).headers


async def test_plain_callers_of_tls_ports_are_turned_away_and_others_served(
    authority: Authority, files: TlsFiles
) -> None:
    async with serve(Connections(), tls=Tls(files)) as doors:
        for port in (doors.http_port, doors.grpc_port):
            async with connect(port) as connection:
                connection.writer.write(LIVE)
                async with asyncio.timeout(SECONDS):
                    assert not (await connection.reader.read()).startswith(b"HTTP/1.1 2")
        assert b"echo" in await ask(doors, authority)
        assert await shown(doors.http_port, authority)


async def test_a_new_certificate_is_shown_without_a_restart(
    authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    tls = Tls(files, check_seconds=0.01)
    tls.start()
    async with serve(Connections(), tls=tls) as doors:
        before = {await shown(port, authority) for port in (doors.http_port, doors.grpc_port)}
        assert len(before) == 1
        async with grpc.aio.secure_channel(
            f"localhost:{doors.grpc_port}", grpc.ssl_channel_credentials(authority.certificate)
        ) as open_before:
            await open_before.unary_unary(EXECUTE)(MESSAGE, timeout=5)
            renewed = authority.issue()
            renewed.write(tmp_path)
            async with asyncio.timeout(SECONDS):
                for port in (doors.http_port, doors.grpc_port):
                    while await shown(port, authority) != renewed.serial:
                        pass
            await open_before.unary_unary(EXECUTE)(MESSAGE, timeout=5)
        assert b"echo" in await ask(doors, authority)
    await tls.close()


async def test_no_handshake_fails_while_certificates_change(
    authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    tls = Tls(files, check_seconds=0)
    tls.start()
    seen: set[int] = set()
    async with serve(Connections(), tls=tls) as doors:
        for _ in range(40):
            renewed = authority.issue()
            renewed.write(tmp_path)
            async with asyncio.timeout(SECONDS):
                while renewed.serial not in seen:
                    seen |= {*await asyncio.gather(*(shown(doors.http_port, authority) for _ in range(8)))}
    await tls.close()


async def test_files_that_cannot_be_used_leave_the_old_certificate(
    authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        tls = Tls(files, check_seconds=0.01)
        tls.start()
    async with serve(Connections(), tls=tls) as doors:
        before = await shown(doors.http_port, authority)
        with capture_logs() as logs:
            stray = tmp_path / "stray.key"
            stray.write_bytes(authority.issue().key)
            stray.replace(files.key)
            async with asyncio.timeout(SECONDS):
                while not logs:
                    assert await shown(doors.http_port, authority) == before
        assert logs[0]["event"].startswith("TLS files not taken")
        assert "is not the key of the certificate" in logs[0]["problem"]
        assert await shown(doors.http_port, authority) == before
        assert await shown(doors.grpc_port, authority) == before
        authority.issue().write(tmp_path)
        async with asyncio.timeout(SECONDS):
            while await shown(doors.http_port, authority) == before:
                pass
    await tls.close()


async def test_clients_of_grpc_show_a_certificate_where_a_ca_is_set(
    authority: Authority, files: TlsFiles, tmp_path: Path
) -> None:
    clients = Authority("Clients' CA")
    ca = tmp_path / "clients.pem"
    ca.write_bytes(clients.certificate)
    async with serve(Connections(), tls=Tls(TlsFiles(files.certificate, files.key, ca))) as doors:
        assert b"echo" in await ask(doors, authority, clients.issue("billing"))
        for stranger in (None, authority.issue("a server is no client"), Authority().issue("nobody")):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(doors, authority, stranger)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert doors.service.calls
        assert len(doors.service.calls) == 1
        assert await shown(doors.http_port, authority)


def problems(authority: Authority, directory: Path) -> Iterator[tuple[TlsFiles, str]]:
    """Files that cannot be used, and what is told of them."""
    certificate, key = authority.issue().write(directory)
    missing, nonsense = directory / "missing.pem", directory / "nonsense.pem"
    nonsense.write_bytes(b"-----BEGIN CERTIFICATE-----\nsecret nonsense\n-----END CERTIFICATE-----\n")
    _, other_key = authority.issue().write(directory, "other")
    _, sealed = authority.issue(passphrase="a passphrase").write(directory, "sealed")
    yield TlsFiles(missing, key), f"TLS_CERT_FILE {missing} cannot be read: No such file or directory"
    yield TlsFiles(certificate, missing), f"TLS_KEY_FILE {missing} cannot be read: No such file or directory"
    yield TlsFiles(directory, key), f"TLS_CERT_FILE {directory} cannot be read: Is a directory"
    yield TlsFiles(nonsense, key), f"TLS_CERT_FILE {nonsense} is no certificate in PEM"
    yield TlsFiles(key, key), f"TLS_CERT_FILE {key} is no certificate in PEM"
    yield TlsFiles(certificate, certificate), f"TLS_KEY_FILE {certificate} is no private key in PEM"
    yield TlsFiles(certificate, sealed), f"TLS_KEY_FILE {sealed} is encrypted"
    yield TlsFiles(certificate, other_key), f"TLS_KEY_FILE {other_key} is not the key of the certificate"
    yield TlsFiles(certificate, key, missing), f"GRPC_CLIENT_CA_FILE {missing} cannot be read"
    yield TlsFiles(certificate, key, nonsense), f"GRPC_CLIENT_CA_FILE {nonsense} is no certificate in PEM"


def test_files_that_cannot_be_used_at_the_start_are_told(authority: Authority, tmp_path: Path) -> None:
    for files, told in problems(authority, tmp_path):
        with pytest.raises(TlsError) as problem:
            Tls(files)
        assert str(problem.value).startswith(told)
        assert "nonsense\n" not in str(problem.value)


def test_a_certificate_that_has_expired_is_told(authority: Authority, tmp_path: Path) -> None:
    files = TlsFiles(*authority.issue(lasts=timedelta(days=-1)).write(tmp_path))
    with capture_logs() as logs:
        Tls(files)
    assert logs[0]["event"] == "the TLS certificate has expired"
