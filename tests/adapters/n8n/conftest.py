"""An n8n that says what a test wants, and the client in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.adapters.n8n import N8n
from tests.adapters.n8n_server import API_KEY, SECRET, Server, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as running:
        yield running


@pytest.fixture
async def n8n(server: Server) -> AsyncIterator[N8n]:
    async with N8n(server.url, internal_secret=SECRET, api_key=API_KEY) as opened:
        yield opened
