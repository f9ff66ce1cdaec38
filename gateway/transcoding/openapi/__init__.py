"""OpenAPI 3.1 from protobuf descriptors, their google.api.http rules, comments and validation rules."""

from __future__ import annotations

from gateway.transcoding.openapi.comments import Comments
from gateway.transcoding.openapi.document import About, Security, openapi_document, openapi_json

__all__ = ["About", "Comments", "Security", "openapi_document", "openapi_json"]
