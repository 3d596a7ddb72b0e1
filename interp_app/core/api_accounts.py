"""Who one is, one's API tokens, the schema, and the answer for addresses that do not exist."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response

from interp_app.core.api import ApiView, StrictSerializer, account, checked
from interp_app.core.authentication import SessionOnly
from interp_app.core.errors import not_found
from interp_app.core.models import ApiToken, Role, User
from interp_app.core.pagination import KeysetPagination
from interp_app.core.shapes import moment, person
from interp_app.core.tokens import SCOPES, issue_token, live_tokens, revoke_token


class MeSerializer(serializers.Serializer[Any]):
    """The one who asks. `signed_in` is false for visitors, and the rest then says so."""

    signed_in = serializers.BooleanField()
    id = serializers.UUIDField(allow_null=True)
    name = serializers.CharField(allow_blank=True)
    username = serializers.CharField(allow_blank=True)
    role = serializers.ChoiceField(choices=Role.choices, allow_null=True)
    in_lab = serializers.BooleanField()
    can_run = serializers.BooleanField()
    is_admin = serializers.BooleanField()
    token = serializers.DictField(
        child=serializers.JSONField(), allow_null=True, help_text="Name, scopes and expiry of the token used, if any."
    )


class ApiTokenSerializer(serializers.Serializer[Any]):
    """A token, without its secret."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    key = serializers.CharField(help_text="The public part of the token.")
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=SCOPES))
    expires_at = serializers.DateTimeField(allow_null=True)
    expired = serializers.BooleanField()
    last_used_at = serializers.DateTimeField(allow_null=True)
    created_at = serializers.DateTimeField()


class NewTokenSerializer(StrictSerializer):
    """A token to make. Write includes read."""

    name = serializers.CharField(max_length=80)
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=SCOPES), min_length=1, max_length=2)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class IssuedTokenSerializer(ApiTokenSerializer):
    """A new token with its full text, shown this once."""

    token = serializers.CharField(help_text="Send it as `Authorization: Bearer <token>`.")


def token_json(token: ApiToken) -> dict[str, Any]:
    """A token as its owner sees it."""
    return {
        "id": str(token.pk),
        "name": token.name,
        "key": token.key,
        "scopes": token.scopes,
        "expires_at": moment(token.expires_at),
        "expired": token.expires_at is not None and token.expires_at <= timezone.now(),
        "last_used_at": moment(token.last_used_at),
        "created_at": moment(token.created_at),
    }


class Me(ApiView):
    """The one who asks."""

    @extend_schema(operation_id="me_get", summary="Who am I", responses=MeSerializer)
    def get(self, request: Request) -> Response:
        """Account, role and what it may do; also whether and how one is signed in."""
        token = request.auth
        user = request.user if isinstance(request.user, User) else None
        return Response(
            {
                "signed_in": user is not None,
                **(person(user) if user else {"id": None, "name": ""}),
                "username": user.username if user else "",
                "role": user.role if user else None,
                "in_lab": bool(user and user.in_lab),
                "can_run": bool(user and user.can_run),
                "is_admin": bool(user and user.is_lab_admin),
                "token": token_json(token) if isinstance(token, ApiToken) else None,
            }
        )


class TokenList(ApiView):
    """One's API tokens; POST makes one."""

    permission_classes = (SessionOnly,)
    pagination_class = KeysetPagination

    @extend_schema(operation_id="tokens_list", summary="List my tokens", responses=ApiTokenSerializer(many=True))
    def get(self, request: Request) -> Response:
        """Those not revoked, newest first. In a signed-in browser only: a token cannot see tokens."""
        pages = self.pagination_class()
        rows = pages.paginate_queryset(live_tokens(account(request)), request, self)
        return pages.get_paginated_response([token_json(row) for row in rows])

    @extend_schema(
        operation_id="tokens_create",
        summary="Make a token",
        request=NewTokenSerializer,
        responses={201: IssuedTokenSerializer},
    )
    def post(self, request: Request) -> Response:
        """The answer holds the full token, this once: only a hash of it is kept."""
        body = checked(NewTokenSerializer, request.data)
        token, text = issue_token(user=account(request), **body)
        return Response({**token_json(token), "token": text}, status=201, headers={"Cache-Control": "no-store"})


class TokenOne(ApiView):
    """One of one's API tokens."""

    permission_classes = (SessionOnly,)

    @extend_schema(operation_id="tokens_revoke", summary="Revoke a token", responses={204: None})
    def delete(self, request: Request, id: UUID) -> Response:  # noqa: A002 - the name in the address
        """Ends the token at once, and for good."""
        token = live_tokens(account(request)).filter(pk=id).first()
        if token is None:
            raise not_found("token")
        revoke_token(token=token)
        return Response(status=204)


class Schema(SpectacularAPIView):
    """This API's OpenAPI document."""

    authentication_classes = ApiView.authentication_classes
    permission_classes = ()
    throttle_classes = ApiView.throttle_classes
    content_negotiation_class = DefaultContentNegotiation

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """OpenAPI 3 as YAML, or as JSON with `?format=json`."""
        answer: Response = super().get(request, *args, **kwargs)  # type: ignore[no-untyped-call]
        return answer


class Nowhere(ApiView):
    """Every address under /api/v1/ that does not exist."""

    permission_classes = ()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound

    @extend_schema(exclude=True, responses={404: OpenApiTypes.OBJECT})
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Never reached: `initial` answers 404 to every method."""
        raise NotFound
