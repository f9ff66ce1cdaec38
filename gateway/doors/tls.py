"""TLS for both ports, from files that may change while the gateway serves."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificates

from gateway.rpc.periodic import Periodic

CHECK_SECONDS = 5.0
"""How often the files are looked at."""

log = structlog.get_logger("gateway.tls")


class TlsError(OSError):
    """The files cannot be used; the message names the setting and the file, and nothing that is in it."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificate with its chain, its key and the CA of gRPC's clients are; all PEM."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class _Material:
    """What the files hold."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    expires_at: datetime


class Tls(Periodic):
    """The certificate that both ports show, read anew when its files change.

    New connections get the new one, those that are open keep theirs. Files that cannot be used when they
    change are logged, and the old ones serve on. With a client CA, gRPC's clients need a certificate of it.
    Raises TlsError when the files cannot be used at the start.
    """

    def __init__(self, files: TlsFiles, *, check_seconds: float = CHECK_SECONDS) -> None:
        super().__init__(log, "looking at the TLS files failed", retry=check_seconds)
        self._files = files
        self._check_seconds = check_seconds
        self._seen = self._signs()
        self._generation = 0
        self._show(_read(files))
        self.http = _context()
        # A certificate and its key are loaded one after the other: a handshake between the two would fail.
        self.http.sni_callback = self._present

    def grpc(self) -> grpc.ServerCredentials:
        """Credentials of a gRPC port, which follow the files."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._changed_configuration(),
            require_client_authentication=self._files.client_ca is not None,
        )

    def _configuration(self) -> Any:
        material = self._material
        return grpc.ssl_server_certificate_configuration(
            [(material.key, material.certificate)], root_certificates=material.client_ca
        )

    def _changed_configuration(self) -> Callable[[], Any]:
        """What gRPC asks at each handshake, on a thread of its own: None where nothing has changed."""
        shown = self._generation

        def fetch() -> Any:
            nonlocal shown
            if shown == self._generation:
                return None
            shown = self._generation
            return self._configuration()

        return fetch

    async def turn(self) -> float:
        """Look at the files."""
        try:
            await asyncio.to_thread(self._look)
        except TlsError as error:
            log.warning("TLS files not taken: the old certificate serves on", problem=str(error))
        return self._check_seconds

    def _look(self) -> None:
        signs = self._signs()
        if signs == self._seen:
            return
        self._seen = signs
        self._show(_read(self._files))
        self._generation += 1

    def _show(self, material: _Material) -> None:
        shown = _context()
        try:
            shown.load_cert_chain(self._files.certificate, self._files.key, password=_no_passphrase)
        except (ssl.SSLError, OSError) as error:
            msg = f"TLS_CERT_FILE and TLS_KEY_FILE cannot be used: {error}"
            raise TlsError(msg) from None
        self._material, self._shown = material, shown
        if material.expires_at <= datetime.now(UTC):
            log.warning("the TLS certificate has expired", expired_at=material.expires_at.isoformat())
        log.info("TLS certificate", expires_at=material.expires_at.isoformat())

    def _present(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        """What OpenSSL asks at each handshake, whether or not the client names a server."""
        handshake.context = self._shown

    def _signs(self) -> list[tuple[int, ...] | None]:
        """What changes when a file does, also when another one takes its place."""
        signs: list[tuple[int, ...] | None] = []
        for path in (self._files.certificate, self._files.key, self._files.client_ca):
            try:
                found = path.stat() if path is not None else None
            except OSError:
                found = None
            signs.append(found and (found.st_ino, found.st_size, found.st_mtime_ns))
        return signs


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read(files: TlsFiles) -> _Material:
    """The files, after a look at what is in them. Raises TlsError."""
    certificate = _bytes(files.certificate, "TLS_CERT_FILE")
    key = _bytes(files.key, "TLS_KEY_FILE")
    leaf = _certificates(certificate, f"TLS_CERT_FILE {files.certificate}")[0]
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        msg = f"TLS_KEY_FILE {files.key} is encrypted: the gateway has no passphrase for it"
        raise TlsError(msg) from None
    except (ValueError, UnsupportedAlgorithm):
        msg = f"TLS_KEY_FILE {files.key} is no private key in PEM"
        raise TlsError(msg) from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        msg = f"TLS_KEY_FILE {files.key} is not the key of the certificate in {files.certificate}"
        raise TlsError(msg)
    client_ca = None
    if files.client_ca is not None:
        client_ca = _bytes(files.client_ca, "GRPC_CLIENT_CA_FILE")
        _certificates(client_ca, f"GRPC_CLIENT_CA_FILE {files.client_ca}")
    return _Material(certificate, key, client_ca, leaf.not_valid_after_utc)


def _bytes(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{setting} {path} cannot be read: {error.strerror}"
        raise TlsError(msg) from None


def _certificates(pem: bytes, what: str) -> list[Certificate]:
    try:
        return load_pem_x509_certificates(pem)
    except ValueError:
        msg = f"{what} is no certificate in PEM"
        raise TlsError(msg) from None


def _no_passphrase() -> str:
    """In place of asking at the terminal."""
    return ""
