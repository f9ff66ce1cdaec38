import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SecurityEventStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SECURITY_EVENT_STATUS_UNSPECIFIED: _ClassVar[SecurityEventStatus]
    SECURITY_EVENT_STATUS_BASELINE: _ClassVar[SecurityEventStatus]
    SECURITY_EVENT_STATUS_SUSPICIOUS: _ClassVar[SecurityEventStatus]
SECURITY_EVENT_STATUS_UNSPECIFIED: SecurityEventStatus
SECURITY_EVENT_STATUS_BASELINE: SecurityEventStatus
SECURITY_EVENT_STATUS_SUSPICIOUS: SecurityEventStatus

class SecurityEvent(_message.Message):
    __slots__ = ("id", "organization_id", "status", "subject_id", "session_id", "signals", "fingerprint", "action", "request_id", "count", "created_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNALS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    organization_id: str
    status: SecurityEventStatus
    subject_id: str
    session_id: str
    signals: _containers.RepeatedScalarFieldContainer[str]
    fingerprint: str
    action: str
    request_id: str
    count: int
    created_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., organization_id: _Optional[str] = ..., status: _Optional[_Union[SecurityEventStatus, str]] = ..., subject_id: _Optional[str] = ..., session_id: _Optional[str] = ..., signals: _Optional[_Iterable[str]] = ..., fingerprint: _Optional[str] = ..., action: _Optional[str] = ..., request_id: _Optional[str] = ..., count: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
