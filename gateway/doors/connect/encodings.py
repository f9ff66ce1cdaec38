"""The forms of messages over Connect and gRPC-Web, for codecs that leave requests undecoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from protobuf import Registry

from gateway.rpc.decode import decode_binary
from gateway.rpc.errors import InvalidArgument
from gateway.rpc.status import DETAIL_TYPES
from gateway.transcoding import Options, json_encoder
from gateway.transcoding.json_check import JsonError
from gateway.transcoding.json_decoder import JsonDecoder

if TYPE_CHECKING:
    from protobuf import DescMessage, Message

    from gateway.rpc.methods import MethodTable
    from gateway.transcoding import Outgoing
    from gateway.transcoding.json_encoder import JsonEncoder

    Decode = Callable[[type[Message], bytes], Message]
    Encode = Callable[[Outgoing], bytes]


@dataclass(frozen=True, slots=True)
class Encoding:
    """A form of messages, by its part of the content type."""

    name: str
    decode: Decode
    encode: Encode


@dataclass(frozen=True, slots=True)
class RawMessage:
    """A request's message bytes, and the form that they and the answer have."""

    body: bytes
    encoding: Encoding


class RawCodec:
    """A codec that leaves bytes as they are: the chain decodes and encodes."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding

    def name(self) -> str:
        """The codec's part of the content type."""
        return self._encoding.name

    def encode(self, data: bytes) -> bytes:
        """The bytes as they came from the chain."""
        return data

    def decode(self, data: bytes | bytearray, message_class: type[Any]) -> RawMessage:  # noqa: ARG002
        """The bytes as they came from the caller."""
        return RawMessage(bytes(data), self._encoding)


def binary() -> Encoding:
    """Protobuf's own."""
    return Encoding("proto", decode_binary, lambda message: message.to_binary())


def protojson(methods: MethodTable) -> Encoding:
    """ProtoJSON in lowerCamel, as strict as over REST; compiled for the types of the table."""
    files = {service.file.name: service.file for service in methods.services}.values()
    registry = Registry(DETAIL_TYPES, *files)
    options = Options(proto_names=False, emit_defaults=False, registry=registry)
    decoders = {method.input: JsonDecoder(method.input.desc(), registry=registry) for method in methods}

    @cache
    def encoder(desc: DescMessage) -> JsonEncoder:
        return json_encoder(desc, options)

    def decode(message_type: type[Message], body: bytes) -> Message:
        try:
            return decoders[message_type].decode(body)
        except JsonError as error:
            fields = {error.field: error.problem} if error.field else {}
            raise InvalidArgument(str(error), reason="MALFORMED_REQUEST", fields=fields) from None

    return Encoding("json", decode, lambda message: encoder(message.desc())(message))
