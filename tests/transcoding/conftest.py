"""The descriptors of the test protos, compiled once, and properties without a clock."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.transcoding.asgi import Way
from tests.transcoding.compiling import PROTOS, compile_proto

settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture(params=["in events", "whole"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to send a request."""
    monkeypatch.setattr(Way, "is_whole", request.param == "whole")


@pytest.fixture(scope="session")
def vectors_set() -> bytes:
    return compile_proto(PROTOS / "vectors.proto")


@pytest.fixture(scope="session")
def library_set() -> bytes:
    return compile_proto(PROTOS / "library.proto")
