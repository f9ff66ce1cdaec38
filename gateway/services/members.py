"""The part of OrganizationService that is about members."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gateway.gen.n8ngateway.v1.member_pb import Member
from gateway.gen.n8ngateway.v1.organization_service_pb import (
    AcceptInvitationRequest,
    AcceptInvitationResponse,
    AddMemberRequest,
    AddMemberResponse,
    DeclineInvitationRequest,
    DeclineInvitationResponse,
    GetMemberRequest,
    GetMemberResponse,
    ListInvitationsRequest,
    ListInvitationsResponse,
    ListMembersRequest,
    ListMembersResponse,
    RemoveMemberRequest,
    RemoveMemberResponse,
    UpdateMemberRequest,
    UpdateMemberResponse,
)
from gateway.rpc.stored_json import read_message
from gateway.services.organization_of import organization_of
from gateway.services.pages import list_page
from gateway.services.update_mask import masked_fields

if TYPE_CHECKING:
    from gateway.adapters.database import Database
    from gateway.rpc.call import Call


class Members:
    """Who belongs to an organization, by invitation or by its Clerk organization."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_member(self, request: AddMemberRequest, call: Call) -> AddMemberResponse:
        """Invite a user, seen before or not; one of the Clerk organization is made a member at once."""
        member = request.member or Member()
        text = await self._database.call(
            "add_member",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_profile_id=member.profile_id,
            p_role=_role(member),
        )
        return AddMemberResponse(member=read_message(text, Member))

    async def list_members(self, request: ListMembersRequest, call: Call) -> ListMembersResponse:
        """One page, oldest first."""
        organization_id = organization_of(request.organization_id, call)
        of_list = f"members {organization_id}"
        query = partial(self._database.call, "list_members", call.caller, p_organization_id=organization_id)
        return await list_page(query, request, ListMembersResponse, of_list)

    async def get_member(self, request: GetMemberRequest, call: Call) -> GetMemberResponse:
        """One member, by its profile."""
        text = await self._database.call(
            "get_member",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_profile_id=request.profile_id,
        )
        return GetMemberResponse(member=read_message(text, Member))

    async def update_member(self, request: UpdateMemberRequest, call: Call) -> UpdateMemberResponse:
        """Give it another role, the one thing about it that can change."""
        member = request.member or Member()
        masked_fields(member, request.update_mask)
        text = await self._database.call(
            "update_member",
            call.caller,
            p_organization_id=organization_of(member.organization_id, call, "member.organization_id"),
            p_profile_id=member.profile_id,
            p_role=_role(member),
        )
        return UpdateMemberResponse(member=read_message(text, Member))

    async def remove_member(self, request: RemoveMemberRequest, call: Call) -> RemoveMemberResponse:
        """End its membership, or withdraw its invitation."""
        await self._database.call(
            "remove_member",
            call.caller,
            p_organization_id=organization_of(request.organization_id, call),
            p_profile_id=request.profile_id,
        )
        return RemoveMemberResponse()

    async def list_invitations(self, request: ListInvitationsRequest, call: Call) -> ListInvitationsResponse:
        """One page of the caller's own, oldest first."""
        of_list = f"invitations {call.caller.subject}"
        query = partial(self._database.call, "list_invitations", call.caller)
        return await list_page(query, request, ListInvitationsResponse, of_list)

    async def accept_invitation(
        self, request: AcceptInvitationRequest, call: Call
    ) -> AcceptInvitationResponse:
        """Make the caller a member, as it was invited."""
        text = await self._database.call(
            "accept_invitation", call.caller, p_organization_id=request.organization_id
        )
        return AcceptInvitationResponse(member=read_message(text, Member))

    async def decline_invitation(
        self, request: DeclineInvitationRequest, call: Call
    ) -> DeclineInvitationResponse:
        """End an invitation of the caller's."""
        await self._database.call(
            "decline_invitation", call.caller, p_organization_id=request.organization_id
        )
        return DeclineInvitationResponse()


def _role(member: Member) -> str:
    return f"MEMBER_ROLE_{member.role.name}"
