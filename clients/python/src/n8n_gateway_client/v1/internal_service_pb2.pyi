from google.api import annotations_pb2 as _annotations_pb2
from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogErrorRequest(_message.Message):
    __slots__ = ("org_id", "workflow_id", "error_message", "metadata", "execution_id", "execution", "workflow", "trigger")
    ORG_ID_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_FIELD_NUMBER: _ClassVar[int]
    WORKFLOW_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    org_id: str
    workflow_id: str
    error_message: str
    metadata: _struct_pb2.Struct
    execution_id: str
    execution: _struct_pb2.Struct
    workflow: _struct_pb2.Struct
    trigger: _struct_pb2.Struct
    def __init__(self, org_id: _Optional[str] = ..., workflow_id: _Optional[str] = ..., error_message: _Optional[str] = ..., metadata: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., execution_id: _Optional[str] = ..., execution: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., workflow: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., trigger: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...

class LogErrorResponse(_message.Message):
    __slots__ = ("id", "execution_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    execution_id: str
    def __init__(self, id: _Optional[str] = ..., execution_id: _Optional[str] = ...) -> None: ...

class RedeemCredentialsRequest(_message.Message):
    __slots__ = ("handle", "names")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    handle: str
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, handle: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class RedeemCredentialsResponse(_message.Message):
    __slots__ = ("credentials",)
    class CredentialsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    credentials: _containers.ScalarMap[str, str]
    def __init__(self, credentials: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ReportProgressRequest(_message.Message):
    __slots__ = ("execution_id", "n8n_execution_id", "node_name", "text", "json", "data", "content_type", "units")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    N8N_EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    n8n_execution_id: str
    node_name: str
    text: str
    json: _struct_pb2.Value
    data: bytes
    content_type: str
    units: int
    def __init__(self, execution_id: _Optional[str] = ..., n8n_execution_id: _Optional[str] = ..., node_name: _Optional[str] = ..., text: _Optional[str] = ..., json: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., data: _Optional[bytes] = ..., content_type: _Optional[str] = ..., units: _Optional[int] = ...) -> None: ...

class ReportProgressResponse(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...
