"""What leaves through a door."""

from __future__ import annotations

from typing import Protocol

from protobuf import DescMessage, Registry


class Outgoing(Protocol):
    """A message, or what prints itself as one: whoever has many of a kind need not make a message of each."""

    @classmethod
    def desc(cls) -> DescMessage:
        """The type of the message."""

    def to_binary(self) -> bytes:
        """The message in protobuf's binary form."""

    def to_json(
        self,
        *,
        registry: Registry | None = None,
        always_emit_implicit: bool = False,
        print_enums_as_ints: bool = False,
        use_proto_field_name: bool = False,
    ) -> str:
        """The message as ProtoJSON; whole numbers without a fraction, if it is not a message itself."""
