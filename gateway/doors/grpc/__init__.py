"""The gRPC door, with what operators ask a gRPC server itself."""

from __future__ import annotations

from gateway.doors.grpc.door import Connections, GrpcDoor

__all__ = ["Connections", "GrpcDoor"]
