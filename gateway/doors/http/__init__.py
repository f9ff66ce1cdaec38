"""One HTTP port for all doors but gRPC's: the server, its protocol with bounds, and what all paths share."""

from __future__ import annotations

from gateway.doors.http.protocol import Bounds
from gateway.doors.http.server import HttpServer, http_application

__all__ = ["Bounds", "HttpServer", "http_application"]
