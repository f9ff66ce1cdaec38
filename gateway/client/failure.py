"""How a call ends that does not end well, whichever door told of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any as Anything

from protobuf import Message, message_from_json_value
from protobuf.wkt import Any

from gateway.rpc.errors import Code
from gateway.rpc.status import DETAIL_TYPES
from gateway.transcoding.gen.google.rpc.error_details_pb import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from gateway.transcoding.gen.google.rpc.status_pb import Status

_FIRST_EXIT_STATUS = 64


class CallError(Exception):
    """A status other than OK, with those of its details that are messages of google.rpc."""

    def __init__(self, code: Code, message: str, details: Iterable[Message | None] = ()) -> None:
        super().__init__(message)
        self.code = code
        self._details = [detail for detail in details if detail is not None]

    @classmethod
    def of(cls, status: Status) -> CallError:
        """Raises ValueError for a code that is none."""
        return cls(Code(status.code), status.message, map(_unpacked, status.details))

    @classmethod
    def of_json(cls, status: Anything) -> CallError:
        """From a Status as JSON. Raises ValueError and TypeError for what is none."""
        return cls.of(
            message_from_json_value(Status, status, ignore_unknown_fields=True, registry=DETAIL_TYPES)
        )

    @property
    def exit_status(self) -> int:
        """64 and the code's number, so that none is taken for a fault of the command's own."""
        return _FIRST_EXIT_STATUS + self.code

    def lines(self) -> Iterator[str]:
        """What a person is told: code and message, then a line for each fact."""
        yield f"{self.code.name}: {self}"
        for detail in self._details:
            match detail:
                case ErrorInfo():
                    yield f"reason {detail.reason}"
                    yield from (f"{name} {value}" for name, value in detail.metadata.items())
                case BadRequest():
                    yield from (f"{wrong.field} {wrong.description}" for wrong in detail.field_violations)
                case RetryInfo() if detail.retry_delay is not None:
                    yield f"retry after {detail.retry_delay.to_nanos() / 1e9:g} s"
                case RequestInfo():
                    yield f"request id {detail.request_id}"
                case _:
                    pass


def _unpacked(detail: Any) -> Message | None:
    desc = DETAIL_TYPES.message(detail.type_url.rpartition("/")[2])
    try:
        return None if desc is None else detail.unpack(desc)
    except ValueError:
        return None  # of a server that is no gateway
