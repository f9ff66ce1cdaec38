from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transcoding import StatusError
from gateway.transcoding.elements import LineSplitter, Splitter, ValueSplitter

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=3)


def split(splitter: Splitter, data: bytes, size: int) -> list[bytes]:
    values: list[bytes] = []
    for start in range(0, len(data), size):
        values += splitter.feed(data[start : start + size])
    return values + splitter.finish()


@given(st.lists(VALUES, max_size=5), st.integers(1, 9), st.sampled_from([None, 1]))
def test_the_elements_of_an_array(values: list[object], size: int, indent: int | None) -> None:
    data = json.dumps(values, indent=indent).encode()
    assert [json.loads(value) for value in split(ValueSplitter(1_000_000), data, size)] == values


@given(st.lists(OBJECTS, max_size=5), st.integers(1, 9), st.sampled_from(["", " ", "\n", "\r\n\t"]))
def test_objects_one_after_the_other(values: list[object], size: int, between: str) -> None:
    data = between.join(map(json.dumps, values)).encode()
    assert [json.loads(value) for value in split(ValueSplitter(1_000_000), data, size)] == values


@given(
    st.lists(VALUES, max_size=5),
    st.integers(1, 9),
    st.sampled_from(["\n", "\r\n", "\n\n \n"]),
    st.integers(0, 1),
)
def test_values_by_line(values: list[object], size: int, between: str, ended: int) -> None:
    data = (between.join(map(json.dumps, values)) + between * ended).encode()
    assert [json.loads(value) for value in split(LineSplitter(1_000_000), data, size)] == values


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b"", []),
        (b" \n", []),
        (b"[]", []),
        (b" [ ] ", []),
        (b'"a" 1 true{}', [b'"a"', b"1", b"true{}"]),
        (b'"a""b"', [b'"a"', b'"b"']),
        (b'{"a":1', [b'{"a":1']),
        (b"[{}{}]", [b"{}{}"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_ends_of_values(data: bytes, values: list[bytes], size: int) -> None:
    assert split(ValueSplitter(100), data, size) == values


@pytest.mark.parametrize("data", [b"[1", b"[1] 2", b"[,]", b"[1,]", b"[1,,2]", b"}", b"{}]", b"[{]}]", b"["])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_what_cannot_be_split_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(StatusError) as caught:
        split(ValueSplitter(100), data, size)
    assert caught.value.http_status is None


@pytest.mark.parametrize("splitter", [ValueSplitter, LineSplitter])
@pytest.mark.parametrize("data", [b'"' + b"x" * 200, b'"' + b"x" * 200 + b'"\n1'])
@pytest.mark.parametrize("size", [1, 64, 1000])
def test_a_value_over_the_limit_is_refused(splitter: type[Splitter], data: bytes, size: int) -> None:
    with pytest.raises(StatusError) as caught:
        split(splitter(100), data, size)  # type: ignore[call-arg]
    assert caught.value.http_status == 413


def test_many_values_together_may_be_over_the_limit() -> None:
    data = b'{"a":"' + b"x" * 50 + b'"}'
    assert split(ValueSplitter(100), data * 10, 64) == [data] * 10
