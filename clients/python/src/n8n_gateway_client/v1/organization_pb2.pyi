import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from n8n_gateway_client.v1 import rate_limit_pb2 as _rate_limit_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuthPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUTH_POLICY_UNSPECIFIED: _ClassVar[AuthPolicy]
    AUTH_POLICY_JWT: _ClassVar[AuthPolicy]
    AUTH_POLICY_SIGNED_KEY: _ClassVar[AuthPolicy]
    AUTH_POLICY_JWT_AND_SIGNED: _ClassVar[AuthPolicy]

class FingerprintPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINGERPRINT_POLICY_UNSPECIFIED: _ClassVar[FingerprintPolicy]
    FINGERPRINT_POLICY_LOG: _ClassVar[FingerprintPolicy]
    FINGERPRINT_POLICY_CHALLENGE: _ClassVar[FingerprintPolicy]
    FINGERPRINT_POLICY_DENY: _ClassVar[FingerprintPolicy]
AUTH_POLICY_UNSPECIFIED: AuthPolicy
AUTH_POLICY_JWT: AuthPolicy
AUTH_POLICY_SIGNED_KEY: AuthPolicy
AUTH_POLICY_JWT_AND_SIGNED: AuthPolicy
FINGERPRINT_POLICY_UNSPECIFIED: FingerprintPolicy
FINGERPRINT_POLICY_LOG: FingerprintPolicy
FINGERPRINT_POLICY_CHALLENGE: FingerprintPolicy
FINGERPRINT_POLICY_DENY: FingerprintPolicy

class Organization(_message.Message):
    __slots__ = ("id", "name", "slug", "clerk_organization_id", "is_active", "default_workflow_id", "auth_policy", "fingerprint_policy", "minimum_signature_version", "rate_limit", "max_concurrent_executions", "max_open_streams", "low_balance_threshold", "created_at", "updated_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SLUG_FIELD_NUMBER: _ClassVar[int]
    CLERK_ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    IS_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    AUTH_POLICY_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_POLICY_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_SIGNATURE_VERSION_FIELD_NUMBER: _ClassVar[int]
    RATE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_EXECUTIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_OPEN_STREAMS_FIELD_NUMBER: _ClassVar[int]
    LOW_BALANCE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    slug: str
    clerk_organization_id: str
    is_active: bool
    default_workflow_id: str
    auth_policy: AuthPolicy
    fingerprint_policy: FingerprintPolicy
    minimum_signature_version: int
    rate_limit: _rate_limit_pb2.RateLimit
    max_concurrent_executions: int
    max_open_streams: int
    low_balance_threshold: int
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., slug: _Optional[str] = ..., clerk_organization_id: _Optional[str] = ..., is_active: _Optional[bool] = ..., default_workflow_id: _Optional[str] = ..., auth_policy: _Optional[_Union[AuthPolicy, str]] = ..., fingerprint_policy: _Optional[_Union[FingerprintPolicy, str]] = ..., minimum_signature_version: _Optional[int] = ..., rate_limit: _Optional[_Union[_rate_limit_pb2.RateLimit, _Mapping]] = ..., max_concurrent_executions: _Optional[int] = ..., max_open_streams: _Optional[int] = ..., low_balance_threshold: _Optional[int] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
