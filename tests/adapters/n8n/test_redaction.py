"""Secrets are taken out of what n8n answers, however the answer is cut."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.n8n.pieces import (
    Document,
    DocumentKind,
    Node,
    NodeBegin,
    NodeEnd,
    NodeError,
    NodeItem,
    Piece,
)
from gateway.adapters.n8n.redaction import Redactor, StreamRedactor

PLAIN = "s3cret-of-nobody-0123456789"
ODD = 'quo"te\\d/+ sécret & 100%'
DIGITS = "4929123412341234"
NODE = Node("id-1", "R1", 0, 0)
OTHER = Node("id-1", "R1", 0, 1)
redactor = Redactor([PLAIN, ODD, DIGITS])


async def shown(parts: list[str], using: Redactor = redactor) -> tuple[str, list[str]]:
    """What is shown of an item in these parts: joined, and part by part."""
    stream = StreamRedactor(using)
    pieces: list[Piece] = []
    for part in parts:
        pieces += await stream.clean([NodeItem(NODE, part)])
    pieces += await stream.clean([NodeEnd(NODE)])
    assert stream.finish() == []
    contents = [piece.content for piece in pieces if isinstance(piece, NodeItem)]
    return "".join(contents), contents


def cuts(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("secret", [PLAIN, ODD, DIGITS])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 1000])
async def test_a_secret_cut_over_parts_is_taken_out(secret: str, size: int) -> None:
    mask = "9" * len(secret) if secret.isdecimal() else "[redacted]"
    text = f"before {secret} between {secret}{secret} after"
    assert (await shown(cuts(text, size)))[0] == f"before {mask} between {mask}{mask} after"


@pytest.mark.parametrize(
    "form",
    [
        json.dumps(ODD),
        json.dumps(ODD, ensure_ascii=False),
        quote(ODD),
        quote(ODD, safe="!'()*;,/?:@&=+$#"),
        quote(ODD, safe=""),
        quote_plus(ODD),
        *(base64.b64encode(b"x" * before + ODD.encode() + b"tail").decode() for before in range(4)),
        *(base64.urlsafe_b64encode(b"x" * before + ODD.encode()).decode() for before in range(4)),
        base64.b64encode(f"user:{PLAIN}".encode()).decode(),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_so_is_one_in_another_form(form: str, size: int) -> None:
    text, _ = await shown(cuts(f"a={form}&b", size))
    assert "[redacted]" in text
    for secret in (PLAIN, ODD):
        for before in range(3):
            inner = base64.b64encode(b"x" * before + secret.encode()).decode()[4:-4]
            assert inner not in text
        assert json.dumps(secret)[1:-1] not in text
        assert quote(secret) not in text


@given(st.lists(st.text(alphabet='s3cret-ofnbdy0126789 "\\4é', max_size=12), max_size=12))
async def test_no_cut_shows_more_than_the_whole_would(parts: list[str]) -> None:
    text, _ = await shown(parts)
    assert text == redactor.clean_text("".join(parts))


@given(st.text(alphabet="ab", min_size=8, max_size=40), st.integers(1, 9), st.text("ab", max_size=60))
async def test_not_with_a_secret_that_repeats_itself_either(secret: str, size: int, around: str) -> None:
    using = Redactor([secret])
    text, _ = await shown(cuts(around + secret + around, size), using)
    assert secret not in text


async def test_text_that_cannot_be_a_secret_is_shown_at_once() -> None:
    assert (await shown(["Hello ", "world. ", '{"n":1}', "\n"]))[1] == ["Hello ", "world. ", '{"n":1}', "\n"]
    assert await StreamRedactor(Redactor([])).clean([NodeItem(NODE, "any")]) == [NodeItem(NODE, "any")]


async def test_only_what_may_be_a_beginning_waits() -> None:
    stream = StreamRedactor(redactor)
    assert await stream.clean([NodeItem(NODE, "the s3cre")]) == [NodeItem(NODE, "the ")]
    assert await stream.clean([NodeItem(NODE, "t-of")]) == []
    assert await stream.clean([NodeItem(NODE, " mine")]) == [NodeItem(NODE, "s3cret-of mine")]


async def test_items_of_one_node_are_apart() -> None:
    stream = StreamRedactor(redactor)
    half = len(PLAIN) // 2
    assert await stream.clean([NodeItem(NODE, PLAIN[:half]), NodeItem(OTHER, PLAIN[:half])]) == []
    assert await stream.clean([NodeItem(OTHER, PLAIN[half:])]) == [NodeItem(OTHER, "[redacted]")]
    assert await stream.clean([NodeBegin(OTHER), NodeItem(NODE, "!")]) == [
        NodeBegin(OTHER),
        NodeItem(NODE, f"{PLAIN[:half]}!"),
    ]


@pytest.mark.parametrize("end", [NodeEnd(NODE), NodeError(NODE)])
async def test_what_waits_comes_before_the_end_of_its_item(end: Piece) -> None:
    stream = StreamRedactor(redactor)
    assert await stream.clean([NodeItem(NODE, "s3c"), NodeEnd(OTHER)]) == [NodeEnd(OTHER)]
    assert await stream.clean([end]) == [NodeItem(NODE, "s3c"), end]
    assert stream.finish() == []


async def test_what_waits_comes_at_the_end_of_the_stream() -> None:
    stream = StreamRedactor(redactor)
    await stream.clean([NodeItem(NODE, "s3c"), NodeItem(OTHER, "x 4929")])
    assert stream.finish() == [NodeItem(NODE, "s3c"), NodeItem(OTHER, "4929")]


async def test_a_document_is_cleaned_in_every_form() -> None:
    text = f"{PLAIN} {quote(ODD)} {json.dumps(ODD)} {base64.b64encode(PLAIN.encode()).decode()}"
    document = Document(DocumentKind.TEXT, "text/plain", text.encode())
    await StreamRedactor(redactor).clean([document])
    left = document.data.decode()
    assert left.count("[redacted]") == 4
    assert PLAIN not in left


async def test_memory_and_time_are_bounded_for_a_secret_that_repeats_itself() -> None:
    stream = StreamRedactor(Redactor(["a" * 60_000]))
    total = 0
    for _ in range(50):
        for piece in await stream.clean([NodeItem(NODE, "a" * 1000)]):
            assert isinstance(piece, NodeItem)
            total += len(piece.content)
    assert 50_000 - total <= 4096


async def test_order_of_what_is_shown_is_that_of_what_came() -> None:
    by_item: dict[int, str] = defaultdict(str)
    stream = StreamRedactor(redactor)
    for at in range(40):
        for piece in await stream.clean([NodeItem(Node("id", "n", 0, at % 2), f"{at} s3")]):
            assert isinstance(piece, NodeItem)
            by_item[piece.node.item_index] += piece.content
    for piece in stream.finish():
        assert isinstance(piece, NodeItem)
        by_item[piece.node.item_index] += piece.content
    assert by_item == {odd: "".join(f"{at} s3" for at in range(odd, 40, 2)) for odd in range(2)}


@pytest.mark.parametrize("kind", [NodeBegin, NodeItem, NodeEnd, NodeError])
@pytest.mark.parametrize("alone", [True, False])
async def test_a_secret_in_the_name_or_id_of_a_node_is_taken_out(
    kind: type[NodeBegin | NodeItem | NodeEnd | NodeError],
    alone: bool,  # noqa: FBT001
) -> None:
    stream = StreamRedactor(redactor)
    clean: list[Piece] = [] if alone else [NodeBegin(NODE)]
    for node, told in (
        (Node("id-1", f"to {PLAIN}", 0, 3), Node("id-1", "to [redacted]", 0, 3)),
        (Node(base64.b64encode(PLAIN.encode()).decode(), "R1", 2, 0), None),
        (NODE, NODE),
    ):
        [*_, piece] = await stream.clean([*clean, kind(node)])
        assert not isinstance(piece, Document)
        assert PLAIN not in repr(piece)
        assert base64.b64encode(PLAIN.encode()).decode()[:-2] not in repr(piece)
        assert told is None or piece.node == told
        assert (piece.node.run_index, piece.node.item_index) == (node.run_index, node.item_index)


@pytest.mark.parametrize(
    ("secret", "mask"),
    [(DIGITS, "9999999999999999"), ("-1001234567890", "-9999999999999"), ("51234567.25", "99999999.99")],
)
async def test_json_stays_json_where_a_secret_is_a_number(secret: str, mask: str) -> None:
    document = Document(DocumentKind.JSON, "application/json", f'{{"chat":{{"id":{secret}}}}}'.encode())
    await Redactor([secret]).clean_document(document)
    assert json.loads(document.data) == {"chat": {"id": json.loads(mask)}}


async def test_a_secret_in_a_content_type_is_taken_out() -> None:
    document = Document(DocumentKind.BYTES, f"image/png; name={PLAIN}", b"x")
    assert await StreamRedactor(redactor).clean([document]) == [
        Document(DocumentKind.BYTES, "image/png; name=[redacted]", b"x")
    ]


async def test_names_of_many_nodes_are_not_all_remembered() -> None:
    stream = StreamRedactor(redactor)
    for number in range(5000):
        await stream.clean([NodeBegin(Node(f"id-{number}", "R1", 0, 0))])
    assert len(stream._clean_nodes) <= 1024


async def test_items_that_never_end_are_not_all_held() -> None:
    stream = StreamRedactor(redactor)
    nodes = [Node(f"id-{number}", "R1", 0, 0) for number in range(5000)]
    pieces: list[Piece] = []
    for node in nodes:
        pieces += await stream.clean([NodeItem(node, f"to {PLAIN[:12]}")])
    rest = stream.finish()
    assert len(rest) <= 1024
    contents = [piece.content for piece in pieces if isinstance(piece, NodeItem)]
    assert [content for content in contents if content != "to "] == ["[redacted]"] * (5000 - len(rest))


@pytest.fixture
async def turns() -> AsyncIterator[list[None]]:
    """One for each turn that others have had."""
    had: list[None] = []

    async def others() -> None:
        while True:
            had.append(None)
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    yield had
    task.cancel()


MANY = [f'quo"te & the {number}th of many secrets' for number in range(256)]


async def test_others_get_turns_while_a_long_document_is_cleaned_of_many_secrets(turns: list[None]) -> None:
    document = Document(DocumentKind.TEXT, "text/plain", f"{MANY[0]} {'x' * (1 << 20)} {MANY[-1]}".encode())
    many = Redactor(MANY)
    await StreamRedactor(many).clean([document])
    assert document.data == f"[redacted] {'x' * (1 << 20)} [redacted]".encode()
    assert len(many.forms) > 2000
    assert len(turns) > 200
    turns.clear()
    assert await many.clean_long_text("x" * (1 << 20)) == "x" * (1 << 20)
    assert len(turns) > 200


async def test_others_get_turns_while_the_forms_of_many_secrets_are_made(turns: list[None]) -> None:
    long = [f"{number} é / &" * 1000 for number in range(100)]
    redactor = Redactor(long)
    await redactor.ready()
    assert len(turns) > 10
    assert redactor.forms == Redactor(long).forms


async def test_others_get_turns_while_many_items_are_cleaned_of_many_secrets(turns: list[None]) -> None:
    items: list[Piece] = [NodeItem(Node("id-1", "R1", 0, at), f"<{MANY[at]}>") for at in range(256)]
    shown = await StreamRedactor(Redactor(MANY)).clean(items)
    assert [piece.content for piece in shown if isinstance(piece, NodeItem)] == ["<[redacted]>"] * 256
    assert len(turns) > 10
    turns.clear()
    [piece] = await StreamRedactor(Redactor(MANY)).clean([NodeItem(NODE, "x" * (1 << 20) + MANY[0])])
    assert isinstance(piece, NodeItem)
    assert piece.content == "x" * (1 << 20) + "[redacted]"
    assert len(turns) > 200


async def test_nobody_is_waited_for_while_there_are_few(turns: list[None]) -> None:
    items: list[Piece] = [NodeItem(Node("id-1", "R1", 0, at), PLAIN) for at in range(256)]
    turns.clear()
    await StreamRedactor(redactor).clean(items)
    await redactor.clean_long_text(PLAIN)
    assert turns == []
