"""Fields of the contract that nothing acts upon yet.

To take such a field and not to honour it would be worse than to refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from protobuf import Enum

from gateway.rpc.errors import Unimplemented

if TYPE_CHECKING:
    from protobuf import Message


def refuse_unserved(message: Message, fields: Iterable[str], within: str = "") -> None:
    """Raises Unimplemented naming the first of `fields` that asks for more than the default."""
    for field in fields:
        value = getattr(message, field)
        # An enum's first named value is its default, as its zero is.
        if value and not (isinstance(value, Enum) and value == 1):
            problem = "UNIMPLEMENTED: is part of the contract and not served yet"
            raise Unimplemented(f"{within}{field} {problem}.", fields={f"{within}{field}": problem})
