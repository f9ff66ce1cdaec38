from n8n_gateway_client.v1 import execution_pb2 as _execution_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageDimension(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USAGE_DIMENSION_UNSPECIFIED: _ClassVar[UsageDimension]
    USAGE_DIMENSION_DAY: _ClassVar[UsageDimension]
    USAGE_DIMENSION_WORKFLOW: _ClassVar[UsageDimension]
    USAGE_DIMENSION_API_KEY: _ClassVar[UsageDimension]
    USAGE_DIMENSION_STATE: _ClassVar[UsageDimension]

class ExportFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPORT_FORMAT_UNSPECIFIED: _ClassVar[ExportFormat]
    EXPORT_FORMAT_CSV: _ClassVar[ExportFormat]
    EXPORT_FORMAT_NDJSON: _ClassVar[ExportFormat]
USAGE_DIMENSION_UNSPECIFIED: UsageDimension
USAGE_DIMENSION_DAY: UsageDimension
USAGE_DIMENSION_WORKFLOW: UsageDimension
USAGE_DIMENSION_API_KEY: UsageDimension
USAGE_DIMENSION_STATE: UsageDimension
EXPORT_FORMAT_UNSPECIFIED: ExportFormat
EXPORT_FORMAT_CSV: ExportFormat
EXPORT_FORMAT_NDJSON: ExportFormat

class UsageRow(_message.Message):
    __slots__ = ("day", "workflow_id", "api_key_id", "state", "executions", "credits_used", "execution_time_seconds")
    DAY_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    API_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXECUTIONS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_USED_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    day: str
    workflow_id: str
    api_key_id: str
    state: _execution_pb2.ExecutionState
    executions: int
    credits_used: int
    execution_time_seconds: int
    def __init__(self, day: _Optional[str] = ..., workflow_id: _Optional[str] = ..., api_key_id: _Optional[str] = ..., state: _Optional[_Union[_execution_pb2.ExecutionState, str]] = ..., executions: _Optional[int] = ..., credits_used: _Optional[int] = ..., execution_time_seconds: _Optional[int] = ...) -> None: ...
