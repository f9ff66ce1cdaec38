"""The fuzz targets on inputs that are the same each time, and on any bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transcoding import Options
from tests.transcoding.fuzz import path_target, request_target, run, template_target
from tests.transcoding.library import Library

STARTS = [b"GET /v1/shelves/1/books?", b"GET /v1/books/", b"PUT /", b"GET ", b""]


@pytest.fixture(scope="module")
def ask(library_set: bytes) -> Iterator[Callable[[bytes], None]]:
    with asyncio.Runner() as runner:
        yield request_target(Library(library_set), runner)


def test_inputs_near_good_ones_are_served_or_refused(library_set: bytes) -> None:
    run(Library(library_set, Options(max_body=100_000)), 2000, 0)


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    template_target(data)
    path_target(b"/a/" + data)


@given(st.sampled_from(STARTS), st.binary(max_size=60))
def test_any_target(ask: Callable[[bytes], None], start: bytes, data: bytes) -> None:
    ask(start + data.replace(b"\n", b""))


@given(
    st.sampled_from([b"POST /v1/shelves/1/books\n", b"POST /v1/shelves/1/notes\n"]), st.binary(max_size=60)
)
def test_any_body(ask: Callable[[bytes], None], start: bytes, data: bytes) -> None:
    ask(start + data)
