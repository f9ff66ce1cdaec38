"""Message bytes to messages, for the doors that carry binary protobuf."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.rpc.errors import InvalidArgument

if TYPE_CHECKING:
    from protobuf import Message


def decode_binary(message_type: type[Message], body: bytes) -> Message:
    """Parse binary protobuf; unknown fields are kept, as protobuf has it.

    Raises InvalidArgument, without a word of the bytes.
    """
    try:
        return message_type.from_binary(body)
    except UnicodeDecodeError:
        problem = "a string in it is not valid UTF-8"
    except (ValueError, OverflowError, RecursionError):
        problem = "its bytes are not valid protobuf"
    name = message_type.desc().type_name
    raise InvalidArgument(f"The message is no {name}: {problem}.", reason="MALFORMED_MESSAGE")
