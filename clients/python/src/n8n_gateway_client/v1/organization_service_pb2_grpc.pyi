from typing import Any

import grpc
import grpc.aio
from google.api import httpbody_pb2
from n8n_gateway_client.v1 import organization_service_pb2

class OrganizationServiceStub:
    def __init__(self, channel: grpc.Channel) -> None: ...
    CreateOrganization: grpc.UnaryUnaryMultiCallable[organization_service_pb2.CreateOrganizationRequest, organization_service_pb2.CreateOrganizationResponse]
    ListOrganizations: grpc.UnaryUnaryMultiCallable[organization_service_pb2.ListOrganizationsRequest, organization_service_pb2.ListOrganizationsResponse]
    GetOrganization: grpc.UnaryUnaryMultiCallable[organization_service_pb2.GetOrganizationRequest, organization_service_pb2.GetOrganizationResponse]
    UpdateOrganization: grpc.UnaryUnaryMultiCallable[organization_service_pb2.UpdateOrganizationRequest, organization_service_pb2.UpdateOrganizationResponse]
    StoreCredentials: grpc.UnaryUnaryMultiCallable[organization_service_pb2.StoreCredentialsRequest, organization_service_pb2.StoreCredentialsResponse]
    ListCredentials: grpc.UnaryUnaryMultiCallable[organization_service_pb2.ListCredentialsRequest, organization_service_pb2.ListCredentialsResponse]
    DeleteCredentials: grpc.UnaryUnaryMultiCallable[organization_service_pb2.DeleteCredentialsRequest, organization_service_pb2.DeleteCredentialsResponse]
    AddMember: grpc.UnaryUnaryMultiCallable[organization_service_pb2.AddMemberRequest, organization_service_pb2.AddMemberResponse]
    ListMembers: grpc.UnaryUnaryMultiCallable[organization_service_pb2.ListMembersRequest, organization_service_pb2.ListMembersResponse]
    GetMember: grpc.UnaryUnaryMultiCallable[organization_service_pb2.GetMemberRequest, organization_service_pb2.GetMemberResponse]
    UpdateMember: grpc.UnaryUnaryMultiCallable[organization_service_pb2.UpdateMemberRequest, organization_service_pb2.UpdateMemberResponse]
    RemoveMember: grpc.UnaryUnaryMultiCallable[organization_service_pb2.RemoveMemberRequest, organization_service_pb2.RemoveMemberResponse]
    ListInvitations: grpc.UnaryUnaryMultiCallable[organization_service_pb2.ListInvitationsRequest, organization_service_pb2.ListInvitationsResponse]
    AcceptInvitation: grpc.UnaryUnaryMultiCallable[organization_service_pb2.AcceptInvitationRequest, organization_service_pb2.AcceptInvitationResponse]
    DeclineInvitation: grpc.UnaryUnaryMultiCallable[organization_service_pb2.DeclineInvitationRequest, organization_service_pb2.DeclineInvitationResponse]
    ListSecurityEvents: grpc.UnaryUnaryMultiCallable[organization_service_pb2.ListSecurityEventsRequest, organization_service_pb2.ListSecurityEventsResponse]
    ListErrorLogs: grpc.UnaryUnaryMultiCallable[organization_service_pb2.ListErrorLogsRequest, organization_service_pb2.ListErrorLogsResponse]
    ListAuditEvents: grpc.UnaryUnaryMultiCallable[organization_service_pb2.ListAuditEventsRequest, organization_service_pb2.ListAuditEventsResponse]
    ExportAuditEvents: grpc.UnaryStreamMultiCallable[organization_service_pb2.ExportAuditEventsRequest, httpbody_pb2.HttpBody]
    GetN8nInstance: grpc.UnaryUnaryMultiCallable[organization_service_pb2.GetN8nInstanceRequest, organization_service_pb2.GetN8nInstanceResponse]
    SetN8nInstance: grpc.UnaryUnaryMultiCallable[organization_service_pb2.SetN8nInstanceRequest, organization_service_pb2.SetN8nInstanceResponse]
    DeleteN8nInstance: grpc.UnaryUnaryMultiCallable[organization_service_pb2.DeleteN8nInstanceRequest, organization_service_pb2.DeleteN8nInstanceResponse]

class AsyncOrganizationServiceStub:
    def __init__(self, channel: grpc.aio.Channel) -> None: ...
    CreateOrganization: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.CreateOrganizationRequest, organization_service_pb2.CreateOrganizationResponse]
    ListOrganizations: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.ListOrganizationsRequest, organization_service_pb2.ListOrganizationsResponse]
    GetOrganization: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.GetOrganizationRequest, organization_service_pb2.GetOrganizationResponse]
    UpdateOrganization: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.UpdateOrganizationRequest, organization_service_pb2.UpdateOrganizationResponse]
    StoreCredentials: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.StoreCredentialsRequest, organization_service_pb2.StoreCredentialsResponse]
    ListCredentials: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.ListCredentialsRequest, organization_service_pb2.ListCredentialsResponse]
    DeleteCredentials: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.DeleteCredentialsRequest, organization_service_pb2.DeleteCredentialsResponse]
    AddMember: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.AddMemberRequest, organization_service_pb2.AddMemberResponse]
    ListMembers: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.ListMembersRequest, organization_service_pb2.ListMembersResponse]
    GetMember: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.GetMemberRequest, organization_service_pb2.GetMemberResponse]
    UpdateMember: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.UpdateMemberRequest, organization_service_pb2.UpdateMemberResponse]
    RemoveMember: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.RemoveMemberRequest, organization_service_pb2.RemoveMemberResponse]
    ListInvitations: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.ListInvitationsRequest, organization_service_pb2.ListInvitationsResponse]
    AcceptInvitation: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.AcceptInvitationRequest, organization_service_pb2.AcceptInvitationResponse]
    DeclineInvitation: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.DeclineInvitationRequest, organization_service_pb2.DeclineInvitationResponse]
    ListSecurityEvents: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.ListSecurityEventsRequest, organization_service_pb2.ListSecurityEventsResponse]
    ListErrorLogs: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.ListErrorLogsRequest, organization_service_pb2.ListErrorLogsResponse]
    ListAuditEvents: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.ListAuditEventsRequest, organization_service_pb2.ListAuditEventsResponse]
    ExportAuditEvents: grpc.aio.UnaryStreamMultiCallable[organization_service_pb2.ExportAuditEventsRequest, httpbody_pb2.HttpBody]
    GetN8nInstance: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.GetN8nInstanceRequest, organization_service_pb2.GetN8nInstanceResponse]
    SetN8nInstance: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.SetN8nInstanceRequest, organization_service_pb2.SetN8nInstanceResponse]
    DeleteN8nInstance: grpc.aio.UnaryUnaryMultiCallable[organization_service_pb2.DeleteN8nInstanceRequest, organization_service_pb2.DeleteN8nInstanceResponse]

class OrganizationServiceServicer:
    def CreateOrganization(self, request: organization_service_pb2.CreateOrganizationRequest, context: Any) -> Any: ...
    def ListOrganizations(self, request: organization_service_pb2.ListOrganizationsRequest, context: Any) -> Any: ...
    def GetOrganization(self, request: organization_service_pb2.GetOrganizationRequest, context: Any) -> Any: ...
    def UpdateOrganization(self, request: organization_service_pb2.UpdateOrganizationRequest, context: Any) -> Any: ...
    def StoreCredentials(self, request: organization_service_pb2.StoreCredentialsRequest, context: Any) -> Any: ...
    def ListCredentials(self, request: organization_service_pb2.ListCredentialsRequest, context: Any) -> Any: ...
    def DeleteCredentials(self, request: organization_service_pb2.DeleteCredentialsRequest, context: Any) -> Any: ...
    def AddMember(self, request: organization_service_pb2.AddMemberRequest, context: Any) -> Any: ...
    def ListMembers(self, request: organization_service_pb2.ListMembersRequest, context: Any) -> Any: ...
    def GetMember(self, request: organization_service_pb2.GetMemberRequest, context: Any) -> Any: ...
    def UpdateMember(self, request: organization_service_pb2.UpdateMemberRequest, context: Any) -> Any: ...
    def RemoveMember(self, request: organization_service_pb2.RemoveMemberRequest, context: Any) -> Any: ...
    def ListInvitations(self, request: organization_service_pb2.ListInvitationsRequest, context: Any) -> Any: ...
    def AcceptInvitation(self, request: organization_service_pb2.AcceptInvitationRequest, context: Any) -> Any: ...
    def DeclineInvitation(self, request: organization_service_pb2.DeclineInvitationRequest, context: Any) -> Any: ...
    def ListSecurityEvents(self, request: organization_service_pb2.ListSecurityEventsRequest, context: Any) -> Any: ...
    def ListErrorLogs(self, request: organization_service_pb2.ListErrorLogsRequest, context: Any) -> Any: ...
    def ListAuditEvents(self, request: organization_service_pb2.ListAuditEventsRequest, context: Any) -> Any: ...
    def ExportAuditEvents(self, request: organization_service_pb2.ExportAuditEventsRequest, context: Any) -> Any: ...
    def GetN8nInstance(self, request: organization_service_pb2.GetN8nInstanceRequest, context: Any) -> Any: ...
    def SetN8nInstance(self, request: organization_service_pb2.SetN8nInstanceRequest, context: Any) -> Any: ...
    def DeleteN8nInstance(self, request: organization_service_pb2.DeleteN8nInstanceRequest, context: Any) -> Any: ...

def add_OrganizationServiceServicer_to_server(
    servicer: OrganizationServiceServicer, server: grpc.Server | grpc.aio.Server
) -> None: ...
