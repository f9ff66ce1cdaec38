"""Takes secrets out of what n8n answers.

n8n gives the request's headers and body to the workflow, and may answer with them.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from gateway.adapters.n8n.body import Document, NodeItem, Piece
from gateway.adapters.n8n.faults import N8nFault
from gateway.rpc.errors import RpcError

_SHORTEST = 8
_MASK = "[redacted]"


class Redactor:
    """Replaces each secret, as it is and as JSON would write it.

    A secret of digits only is replaced by digits, because JSON may hold it as a number.
    One shorter than 8 characters is left: it would match by chance.
    """

    __slots__ = ("_in_bytes", "_in_text")

    def __init__(self, secrets: Iterable[str]) -> None:
        masks: dict[str, str] = {}
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                mask = "9" * len(secret) if secret.isdecimal() else _MASK
                masks[secret] = mask
                masks[orjson.dumps(secret)[1:-1].decode()] = mask
        # The longest first: a secret may be a part of another one.
        self._in_text = sorted(masks.items(), key=lambda pair: -len(pair[0]))
        self._in_bytes = [(secret.encode(), mask.encode()) for secret, mask in self._in_text]

    def with_more(self, secrets: list[str]) -> Redactor:
        """Give a redactor of these secrets too."""
        return Redactor([*(secret for secret, _ in self._in_text), *secrets]) if secrets else self

    def clean(self, pieces: list[Piece]) -> None:
        """Take the secrets out of what n8n sent."""
        for piece in pieces:
            if isinstance(piece, NodeItem):
                piece.content = self._clean(piece.content)
            elif isinstance(piece, Document):
                for secret, mask in self._in_bytes:
                    if secret in piece.data:
                        piece.data = piece.data.replace(secret, mask)

    def clean_fault(self, fault: N8nFault) -> N8nFault:
        """Take the secrets out of n8n's own words."""
        if isinstance(fault, RpcError):
            fault.message = self._clean(fault.message)
            fault.args = (fault.message,)
            fault.metadata = {name: self._clean(value) for name, value in fault.metadata.items()}
        return fault

    def _clean(self, text: str) -> str:
        for secret, mask in self._in_text:
            if secret in text:
                text = text.replace(secret, mask)
        return text
