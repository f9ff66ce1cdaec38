"""Takes secrets out of what n8n answers.

n8n gives the request's headers and body to the workflow, and may answer with them. A secret is found as it
is, as JSON writes it, percent-encoded, and in Base64 wherever it begins; whole, or cut over parts of one item
of a stream. It is not found once a workflow has done anything else with it: reversed, hashed, encrypted,
encoded twice, in capitals, or spread over several items.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

import orjson
from msgspec.structs import replace

from gateway.adapters.n8n.faults import N8nFault
from gateway.adapters.n8n.pieces import Document, Node, NodeBegin, NodeItem, Piece
from gateway.rpc.errors import RpcError

_SHORTEST = 8
_LONGEST_HELD = 4096
_TRIES = 8
_NODES_REMEMBERED = 1024
_ITEMS_HELD = 1024
_TURN = 10_000_000
_FORM = 350
_QUOTED = 500
"""Nanoseconds, nearly: of a turn, of a form in a short text, and of a secret's character in all its forms.

To look for a form takes one for each of its characters, and one for each of the text.
"""
_LONGEST_TURN = 5 * _TURN
"""Of many texts that are looked through together, which takes far less where there is no secret in them."""
# As many last characters as decide, nearly always, that none of the secrets has begun.
_END = 4
# What JSON and percent-encoding leave as it is.
_SAME_EVERYWHERE = re.compile(r"[A-Za-z0-9_.~-]*")
_MASK = "[redacted]"
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_DIGIT = re.compile("[0-9]")
# By how seldom they are in what people and programs write.
_RAREST_FIRST = "QZXJKYVWUqzjxNGHFBMLPODRCTISEA7896543210kvwybpgfmucdlhrsnioate"

_ItemKey = tuple[str, int, int]


class Redactor:
    """Replaces each secret in every form that it is looked for in.

    A secret that is a number is replaced by another one of its form, because JSON may hold it as such.
    One shorter than 8 characters is left: it would match by chance.
    """

    __slots__ = ("_beginnings", "_joined", "_known", "_made", "_marked", "_secrets", "_weight")

    def __init__(self, secrets: Iterable[str], known: Redactor | None = None) -> None:
        self._secrets = [*secrets]
        self._known = known
        self._made: list[tuple[str, str]] | None = None
        self._joined = ""
        self._beginnings: set[str] = set()
        self._marked: dict[str, list[str]] = {}
        self._weight = 0

    def with_more(self, secrets: list[str]) -> Redactor:
        """Give a redactor of these secrets too."""
        return Redactor(secrets, self) if secrets else self

    @property
    def forms(self) -> list[tuple[str, str]]:
        """Every form and what it is replaced by, made when there is something to look at."""
        if self._made is None:
            for _ in self._making():
                pass
        return self._made or []

    async def ready(self) -> None:
        """Make the forms, while others get turns: those of many long secrets take a tenth of a second."""
        if self._made is None:
            spent = 0
            for length in self._making():
                spent = await _turn(spent + length * _QUOTED)

    def _making(self) -> Iterator[int]:
        """Make the forms of one secret after the other, and tell its length."""
        masks = {} if self._known is None else dict(self._known.forms)
        for secret in self._secrets:
            if len(secret) >= _SHORTEST:
                mask = _DIGIT.sub("9", secret) if _NUMBER.fullmatch(secret) else _MASK
                for form in _forms_of(secret):
                    masks.setdefault(form, mask)
                yield len(secret)
        # The longest first: a secret may be a part of another one.
        self._made = sorted(masks.items(), key=lambda pair: -len(pair[0]))
        self._weight = sum(len(form) + _FORM for form in masks)

    @property
    def texts_at_once(self) -> int:
        """How many short texts may be looked through before others get a turn."""
        return max(1, _TURN // (self._weight or 1)) if self.forms else _TURN

    def takes_long(self, length: int) -> bool:
        """Whether others are to get turns while so many characters are looked through."""
        return length * len(self.forms) > _LONGEST_TURN

    def clean_text(self, text: str) -> str:
        """Take the secrets out of a text that is whole."""
        for form, mask in self.forms:
            if form in text:
                text = text.replace(form, mask)
        return text

    def finds(self, text: str) -> bool:
        """Whether a secret is in a text.

        Most texts lack a secret's rarest character, and to look for one takes a fiftieth of the time.
        """
        if not self._marked:
            for form, _ in self.forms:
                self._marked.setdefault(_rarest(form), []).append(form)
        for mark, forms in self._marked.items():
            if mark in text and any(form in text for form in forms):
                return True
        return False

    async def clean_document(self, document: Document) -> None:
        """Take the secrets out of a document, and out of what it says that it is; see `clean_long_text`."""
        document.data = await self.clean_long_bytes(document.data)
        document.content_type = self.clean_text(document.content_type)

    async def clean_long_text(self, text: str) -> str:
        """As `clean_text`, while others get turns: a text of megabytes takes milliseconds for each form."""
        await self.ready()
        spent = 0
        for form, mask in self.forms:
            if form in text:
                text = text.replace(form, mask)
            spent = await _turn(spent + len(text))
        return text

    async def clean_long_bytes(self, data: bytes) -> bytes:
        """Take the secrets out of bytes that are whole; see `clean_long_text`."""
        await self.ready()
        spent = 0
        for form, mask in self.forms:
            secret = form.encode()
            if secret in data:
                data = data.replace(secret, mask.encode())
            spent = await _turn(spent + len(data))
        return data

    def clean_node(self, node: Node) -> Node:
        """Give the node without the secrets in its id and name."""
        return replace(node, id=self.clean_text(node.id), name=self.clean_text(node.name))

    def clean_fault(self, fault: N8nFault) -> N8nFault:
        """Take the secrets out of n8n's own words, which may have been cut within one."""
        if isinstance(fault, RpcError):
            fault.message = self._clean_cut(fault.message)
            fault.args = (fault.message,)
            fault.metadata = {name: self._clean_cut(value) for name, value in fault.metadata.items()}
        return fault

    def unfinished(self, text: str) -> int:
        """How many characters at the end of a text may be the beginning of a secret, or more than that.

        At most 4096: of a longer secret only what lies within one part is found.
        """
        if not self._joined:
            self._joined = "\n".join(form for form, _ in self.forms) or "\n"
            self._beginnings = {form[:length] for form, _ in self.forms for length in range(1, _END)}
        beginnings = self._beginnings
        if text[-3:] in beginnings:
            longest = 3
        elif text[-2:] in beginnings:
            longest = 2
        else:
            longest = int(text[-1:] in beginnings)
        end = text[-_END:]
        if len(end) == _END and end in self._joined:
            longest = max(longest, *(_begun(form, text, end) for form, _ in self.forms))
        return min(longest, len(text))

    def _clean_cut(self, text: str) -> str:
        text = self.clean_text(text)
        cut = self.unfinished(text)
        return f"{text[:-cut]}{_MASK}" if cut >= _SHORTEST else text


class StreamRedactor:
    """Redacts the pieces of one answer, in their order.

    The end of an item's text is held back while it may be the beginning of a secret, until the item's next
    part, its end, or the end of the stream; of more items than _ITEMS_HELD, as that of an item that was cut.
    The names of nodes are redacted too.
    """

    __slots__ = ("_clean_nodes", "_held", "_redactor")

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held: dict[_ItemKey, tuple[Node, str]] = {}
        self._clean_nodes: dict[str, str] = {}
        """Names without a secret, by ids without one."""

    async def clean(self, pieces: list[Piece]) -> list[Piece]:
        """Give the pieces as they may be shown; some may be held back, and held ones come before the end.

        Others get turns where there are many secrets to look for.
        """
        await self._redactor.ready()
        at_once = self._redactor.texts_at_once
        if len(pieces) <= at_once:
            return pieces if self._are_clean(pieces) else await self._cleaned(pieces)
        cleaned: list[Piece] = []
        for start in range(0, len(pieces), at_once):
            cleaned += await self.clean(pieces[start : start + at_once])
            await asyncio.sleep(0)
        return cleaned

    def _are_clean(self, pieces: list[Piece]) -> bool:
        """Whether nothing is to be done. Secrets are looked for in all texts at once: a tenth of the time."""
        if self._held:
            return False
        if len(pieces) == 1:
            (piece,) = pieces
            if isinstance(piece, NodeItem):
                return self._is_clean(piece.content) and self._is_clean_node(piece.node)
        texts: dict[_ItemKey, list[str]] = {}
        for piece in pieces:
            if isinstance(piece, NodeItem):
                texts.setdefault(_key(piece.node), []).append(piece.content)
            elif isinstance(piece, Document):
                return False
            if not self._is_clean_node(piece.node):
                return False
        if not texts:
            return True
        items = ["".join(parts) for parts in texts.values()]
        redactor = self._redactor
        text = "\n".join(items)
        return not (redactor.takes_long(len(text)) or redactor.finds(text)) and not any(
            map(redactor.unfinished, items)
        )

    def _is_clean(self, text: str) -> bool:
        redactor = self._redactor
        return not (redactor.takes_long(len(text)) or redactor.finds(text) or redactor.unfinished(text))

    def _is_clean_node(self, node: Node) -> bool:
        if self._clean_nodes.get(node.id) == node.name:
            return True
        if self._redactor.finds(f"{node.id}\n{node.name}"):
            return False
        if len(self._clean_nodes) == _NODES_REMEMBERED:
            self._clean_nodes.clear()
        self._clean_nodes[node.id] = node.name
        return True

    async def _cleaned(self, pieces: list[Piece]) -> list[Piece]:
        cleaned: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, Document):
                await self._redactor.clean_document(piece)
                cleaned.append(piece)
                continue
            if not self._is_clean_node(piece.node):
                piece.node = self._redactor.clean_node(piece.node)
            if isinstance(piece, NodeItem):
                if await self._clean_item(piece):
                    cleaned.append(piece)
                if len(self._held) > _ITEMS_HELD:
                    cleaned += self._release(next(iter(self._held)), is_cut=True)
                continue
            if self._held and not isinstance(piece, NodeBegin):
                cleaned += self._release(_key(piece.node))
            cleaned.append(piece)
        return cleaned

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """Give what is still held back, at the end of the stream.

        Of one that was cut, what has 8 characters is masked: the rest of the secret was still to come.
        """
        return [piece for key in list(self._held) for piece in self._release(key, is_cut=is_cut)]

    async def _clean_item(self, piece: NodeItem) -> bool:
        """Redact an item; say whether anything of it is left to be shown now."""
        content = piece.content
        if self._held:
            _, held = self._held.pop(_key(piece.node), (None, ""))
            content = held + content
        if not content:
            return True
        content = await self._redactor.clean_long_text(content)
        held_back = self._redactor.unfinished(content)
        if held_back:
            self._held[_key(piece.node)] = (piece.node, content[-held_back:])
            content = content[:-held_back]
        piece.content = content
        return bool(content)

    def _release(self, key: _ItemKey, *, is_cut: bool = False) -> Iterator[NodeItem]:
        node, held = self._held.pop(key, (None, ""))
        if node is not None:
            yield NodeItem(node, _MASK if is_cut and len(held) >= _SHORTEST else held)


async def _turn(spent: int) -> int:
    """Give others a turn where so much has been spent; what is spent of the next one."""
    if spent < _TURN:
        return spent
    await asyncio.sleep(0)
    return 0


def _rarest(form: str) -> str:
    return next((character for character in _RAREST_FIRST if character in form), form[0])


def _key(node: Node) -> _ItemKey:
    return node.id, node.run_index, node.item_index


def _begun(form: str, text: str, end: str) -> int:
    """How much of a form the text ends with, or more than that; 0 when it is less than `end`."""
    at = form.rfind(end, 0, min(len(form) - 1, _LONGEST_HELD))
    for _ in range(_TRIES):
        if at < 0:
            return 0
        if text.endswith(form[: at + _END]):
            break
        at = form.rfind(end, 0, at + _END - 1)
    return at + _END if at >= 0 else 0


def _forms_of(secret: str) -> Iterator[str]:
    yield secret
    if not _SAME_EVERYWHERE.fullmatch(secret):
        yield orjson.dumps(secret)[1:-1].decode()
        yield json.dumps(secret)[1:-1]
        for unquoted in ("", "/", "!'()*", "!'()*;,/?:@&=+$#"):
            yield quote(secret, safe=unquoted)
        yield quote_plus(secret)
    data = secret.encode()
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode()
        # Only the characters that no neighbouring byte has a part in.
        inner = encoded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        yield inner
        if "+" in inner or "/" in inner:
            yield inner.replace("+", "-").replace("/", "_")
