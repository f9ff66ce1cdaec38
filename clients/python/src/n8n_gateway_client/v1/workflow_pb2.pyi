import datetime

from google.api import field_behavior_pb2 as _field_behavior_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PricingMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRICING_MODE_UNSPECIFIED: _ClassVar[PricingMode]
    PRICING_MODE_FIXED: _ClassVar[PricingMode]
    PRICING_MODE_PER_SECOND: _ClassVar[PricingMode]
    PRICING_MODE_REPORTED_UNITS: _ClassVar[PricingMode]

class ResponseMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESPONSE_MODE_UNSPECIFIED: _ClassVar[ResponseMode]
    RESPONSE_MODE_AUTO: _ClassVar[ResponseMode]
    RESPONSE_MODE_DOCUMENT: _ClassVar[ResponseMode]
    RESPONSE_MODE_STREAMING: _ClassVar[ResponseMode]

class CredentialMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CREDENTIAL_MODE_UNSPECIFIED: _ClassVar[CredentialMode]
    CREDENTIAL_MODE_NONE: _ClassVar[CredentialMode]
    CREDENTIAL_MODE_INLINE: _ClassVar[CredentialMode]
    CREDENTIAL_MODE_HANDLE: _ClassVar[CredentialMode]

class UnknownOutcomePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN_OUTCOME_POLICY_UNSPECIFIED: _ClassVar[UnknownOutcomePolicy]
    UNKNOWN_OUTCOME_POLICY_VOID: _ClassVar[UnknownOutcomePolicy]
    UNKNOWN_OUTCOME_POLICY_CAPTURE: _ClassVar[UnknownOutcomePolicy]
    UNKNOWN_OUTCOME_POLICY_RETRY: _ClassVar[UnknownOutcomePolicy]
PRICING_MODE_UNSPECIFIED: PricingMode
PRICING_MODE_FIXED: PricingMode
PRICING_MODE_PER_SECOND: PricingMode
PRICING_MODE_REPORTED_UNITS: PricingMode
RESPONSE_MODE_UNSPECIFIED: ResponseMode
RESPONSE_MODE_AUTO: ResponseMode
RESPONSE_MODE_DOCUMENT: ResponseMode
RESPONSE_MODE_STREAMING: ResponseMode
CREDENTIAL_MODE_UNSPECIFIED: CredentialMode
CREDENTIAL_MODE_NONE: CredentialMode
CREDENTIAL_MODE_INLINE: CredentialMode
CREDENTIAL_MODE_HANDLE: CredentialMode
UNKNOWN_OUTCOME_POLICY_UNSPECIFIED: UnknownOutcomePolicy
UNKNOWN_OUTCOME_POLICY_VOID: UnknownOutcomePolicy
UNKNOWN_OUTCOME_POLICY_CAPTURE: UnknownOutcomePolicy
UNKNOWN_OUTCOME_POLICY_RETRY: UnknownOutcomePolicy

class Workflow(_message.Message):
    __slots__ = ("id", "organization_id", "name", "description", "n8n_workflow_id", "webhook_path", "credits_per_execution", "pricing_mode", "credits_per_unit", "response_mode", "credential_mode", "concurrency_limit", "is_idempotent", "unknown_outcome_policy", "timeout_seconds", "idle_timeout_seconds", "is_active", "created_at", "updated_at", "archived_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    ORGANIZATION_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    N8N_WORKFLOW_ID_FIELD_NUMBER: _ClassVar[int]
    WEBHOOK_PATH_FIELD_NUMBER: _ClassVar[int]
    CREDITS_PER_EXECUTION_FIELD_NUMBER: _ClassVar[int]
    PRICING_MODE_FIELD_NUMBER: _ClassVar[int]
    CREDITS_PER_UNIT_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_MODE_FIELD_NUMBER: _ClassVar[int]
    CREDENTIAL_MODE_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    IS_IDEMPOTENT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_OUTCOME_POLICY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    IS_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    ARCHIVED_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    organization_id: str
    name: str
    description: str
    n8n_workflow_id: str
    webhook_path: str
    credits_per_execution: int
    pricing_mode: PricingMode
    credits_per_unit: int
    response_mode: ResponseMode
    credential_mode: CredentialMode
    concurrency_limit: int
    is_idempotent: bool
    unknown_outcome_policy: UnknownOutcomePolicy
    timeout_seconds: int
    idle_timeout_seconds: int
    is_active: bool
    created_at: _timestamp_pb2.Timestamp
    updated_at: _timestamp_pb2.Timestamp
    archived_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., organization_id: _Optional[str] = ..., name: _Optional[str] = ..., description: _Optional[str] = ..., n8n_workflow_id: _Optional[str] = ..., webhook_path: _Optional[str] = ..., credits_per_execution: _Optional[int] = ..., pricing_mode: _Optional[_Union[PricingMode, str]] = ..., credits_per_unit: _Optional[int] = ..., response_mode: _Optional[_Union[ResponseMode, str]] = ..., credential_mode: _Optional[_Union[CredentialMode, str]] = ..., concurrency_limit: _Optional[int] = ..., is_idempotent: _Optional[bool] = ..., unknown_outcome_policy: _Optional[_Union[UnknownOutcomePolicy, str]] = ..., timeout_seconds: _Optional[int] = ..., idle_timeout_seconds: _Optional[int] = ..., is_active: _Optional[bool] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., archived_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
