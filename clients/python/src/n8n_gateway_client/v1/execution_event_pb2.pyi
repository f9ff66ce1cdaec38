import datetime

from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from n8n_gateway_client.v1 import execution_pb2 as _execution_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExecutionEvent(_message.Message):
    __slots__ = ("execution_id", "sequence", "time", "started", "chunk", "failed", "completed", "node_started", "node_finished")
    EXECUTION_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    COMPLETED_FIELD_NUMBER: _ClassVar[int]
    NODE_STARTED_FIELD_NUMBER: _ClassVar[int]
    NODE_FINISHED_FIELD_NUMBER: _ClassVar[int]
    execution_id: str
    sequence: int
    time: _timestamp_pb2.Timestamp
    started: ExecutionStarted
    chunk: ExecutionChunk
    failed: ExecutionFailed
    completed: ExecutionCompleted
    node_started: NodeStarted
    node_finished: NodeFinished
    def __init__(self, execution_id: _Optional[str] = ..., sequence: _Optional[int] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., started: _Optional[_Union[ExecutionStarted, _Mapping]] = ..., chunk: _Optional[_Union[ExecutionChunk, _Mapping]] = ..., failed: _Optional[_Union[ExecutionFailed, _Mapping]] = ..., completed: _Optional[_Union[ExecutionCompleted, _Mapping]] = ..., node_started: _Optional[_Union[NodeStarted, _Mapping]] = ..., node_finished: _Optional[_Union[NodeFinished, _Mapping]] = ...) -> None: ...

class ExecutionStarted(_message.Message):
    __slots__ = ("workflow_id", "credits_reserved")
    WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    CREDITS_RESERVED_FIELD_NUMBER: _ClassVar[int]
    workflow_id: str
    credits_reserved: int
    def __init__(self, workflow_id: _Optional[str] = ..., credits_reserved: _Optional[int] = ...) -> None: ...

class NodeStarted(_message.Message):
    __slots__ = ("node_id", "node_name", "run_index", "item_index")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_INDEX_FIELD_NUMBER: _ClassVar[int]
    ITEM_INDEX_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    node_name: str
    run_index: int
    item_index: int
    def __init__(self, node_id: _Optional[str] = ..., node_name: _Optional[str] = ..., run_index: _Optional[int] = ..., item_index: _Optional[int] = ...) -> None: ...

class NodeFinished(_message.Message):
    __slots__ = ("node_id", "node_name", "run_index", "item_index")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_INDEX_FIELD_NUMBER: _ClassVar[int]
    ITEM_INDEX_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    node_name: str
    run_index: int
    item_index: int
    def __init__(self, node_id: _Optional[str] = ..., node_name: _Optional[str] = ..., run_index: _Optional[int] = ..., item_index: _Optional[int] = ...) -> None: ...

class ExecutionChunk(_message.Message):
    __slots__ = ("node_name", "node_id", "run_index", "item_index", "content_type", "text", "json", "data")
    NODE_NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_INDEX_FIELD_NUMBER: _ClassVar[int]
    ITEM_INDEX_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    node_name: str
    node_id: str
    run_index: int
    item_index: int
    content_type: str
    text: str
    json: _struct_pb2.Value
    data: bytes
    def __init__(self, node_name: _Optional[str] = ..., node_id: _Optional[str] = ..., run_index: _Optional[int] = ..., item_index: _Optional[int] = ..., content_type: _Optional[str] = ..., text: _Optional[str] = ..., json: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ExecutionFailed(_message.Message):
    __slots__ = ("status", "credits_used", "credits_remaining", "execution_time_ms", "state")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_USED_FIELD_NUMBER: _ClassVar[int]
    CREDITS_REMAINING_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    status: _status_pb2.Status
    credits_used: int
    credits_remaining: int
    execution_time_ms: int
    state: _execution_pb2.ExecutionState
    def __init__(self, status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., credits_used: _Optional[int] = ..., credits_remaining: _Optional[int] = ..., execution_time_ms: _Optional[int] = ..., state: _Optional[_Union[_execution_pb2.ExecutionState, str]] = ...) -> None: ...

class ExecutionCompleted(_message.Message):
    __slots__ = ("credits_used", "credits_remaining", "execution_time_ms")
    CREDITS_USED_FIELD_NUMBER: _ClassVar[int]
    CREDITS_REMAINING_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    credits_used: int
    credits_remaining: int
    execution_time_ms: int
    def __init__(self, credits_used: _Optional[int] = ..., credits_remaining: _Optional[int] = ..., execution_time_ms: _Optional[int] = ...) -> None: ...
