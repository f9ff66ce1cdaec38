from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transcoding.conditional import entity_tag, none_match
from gateway.transcoding.negotiation import (
    EVENT_STREAM,
    JSON,
    NDJSON,
    accepts_gzip,
    is_json,
    is_ndjson,
    negotiate,
)

STREAMS = (JSON, NDJSON, EVENT_STREAM)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (b"", JSON),
        (b"*/*", JSON),
        (b"*/*, text/html", JSON),
        (b"application/*", JSON),
        (b"text/*", EVENT_STREAM),
        (b"text/event-stream", EVENT_STREAM),
        (b"Text/Event-Stream; charset=utf-8", EVENT_STREAM),
        (b"application/x-ndjson", NDJSON),
        (b"application/json;q=0.5, application/x-ndjson;q=0.6", NDJSON),
        (b"application/json;q=0.5, */*", NDJSON),
        (b"text/event-stream, application/json", EVENT_STREAM),
        (b"application/json, text/event-stream", JSON),
        (b"text/event-stream, */*", EVENT_STREAM),
        (b"*/*;q=0.1, application/json;q=0", NDJSON),
        (b"text/html", None),
        (b"application/json;q=0", None),
        (b"*/*;q=0", None),
        (b"application/json;q=nonsense", None),
        (b"application/json;q=7", None),
        (b", ,", None),
        (b"text/html, " * 100 + b"application/x-ndjson", NDJSON),
    ],
)
def test_accept(accept: bytes, chosen: str | None) -> None:
    assert negotiate(accept, STREAMS) == chosen


@given(st.binary(max_size=300))
def test_any_header_is_read(header: bytes) -> None:
    assert negotiate(header, STREAMS) in (*STREAMS, None)
    assert accepts_gzip(header) in (True, False)
    assert is_json(header) in (True, False)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (b"", False),
        (b"gzip", True),
        (b"br, gzip;q=0.5", True),
        (b"*", True),
        (b"gzip;q=0", False),
        (b"*, gzip;q=0", False),
        (b"identity, gzip;q=0.5", False),
        (b"identity;q=0.5, gzip", True),
        (b"br", False),
    ],
)
def test_accept_encoding(header: bytes, *, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


@pytest.mark.parametrize(
    ("content_type", "json"),
    [
        (b"application/json", True),
        (b"Application/JSON; Charset=UTF-8", True),
        (b'application/json;charset="utf-8"', True),
        (b"application/json; indent=2", True),
        (b"application/json; charset=latin-1", False),
        (b"application/jsonx", False),
        (b"text/json", False),
        (b"", False),
    ],
)
def test_content_type(content_type: bytes, *, json: bool) -> None:
    assert is_json(content_type) is json


def test_ndjson() -> None:
    assert is_ndjson(b"application/x-ndjson; charset=utf-8")
    assert not is_ndjson(b"application/json")


def test_entity_tags() -> None:
    tag = entity_tag(b"body")
    assert tag == entity_tag(b"body") != entity_tag(b"other")
    assert none_match(tag, tag)
    assert none_match(b'"x", ' + tag.removeprefix(b"W/"), tag)
    assert none_match(b" * ", tag)
    assert not none_match(b'"x"', tag)
    assert not none_match(b"nonsense", tag)
