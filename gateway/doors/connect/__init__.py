"""The Connect and gRPC-Web door."""

from __future__ import annotations

from gateway.doors.connect.door import ConnectDoor

__all__ = ["ConnectDoor"]
