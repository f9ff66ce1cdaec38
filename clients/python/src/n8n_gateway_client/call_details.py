"""What an interceptor changes about a call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeAlias

import grpc
import grpc.aio

Pair: TypeAlias = tuple[str, str | bytes]


@dataclass(frozen=True, slots=True, repr=False)
class CallDetails(grpc.ClientCallDetails):
    """A call of a grpc.Channel, with metadata that can hold secrets and so no repr."""

    method: str
    timeout: float | None
    metadata: tuple[Pair, ...] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None

    @classmethod
    def of(cls, details: grpc.ClientCallDetails) -> Self:
        """Return what grpcio hands to an interceptor, in a form that dataclasses.replace takes."""
        metadata = None if details.metadata is None else tuple(details.metadata)
        return cls(
            method=details.method,
            timeout=details.timeout,
            metadata=metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )
