from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class RateLimit(_message.Message):
    __slots__ = ("requests", "period_seconds")
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PERIOD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    requests: int
    period_seconds: int
    def __init__(self, requests: _Optional[int] = ..., period_seconds: _Optional[int] = ...) -> None: ...
