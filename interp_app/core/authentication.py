"""Who is asking: a session of the browser (with CSRF) or `Authorization: Bearer pbt_<key>.<secret>`.

Bearer comes first, so an anonymous request is answered 401 with a challenge and not 403.
"""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from interp_app.core.models import ApiToken, User
from interp_app.core.tokens import TokenRefused, verify_token


class BearerAuthentication(BaseAuthentication):
    """Accepts an API token in the Authorization header. Needs no CSRF token: browsers never send it by themselves."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        words = get_authorization_header(request).split()
        if not words or words[0].lower() != b"bearer":
            return None
        if len(words) != 2:
            raise AuthenticationFailed("The Authorization header must be `Bearer pbt_<key>.<secret>`.")
        try:
            token = verify_token(words[1].decode("ascii"))
        except UnicodeDecodeError:
            raise AuthenticationFailed("The token has characters that no token has.") from None
        except TokenRefused as refused:
            raise AuthenticationFailed(refused.reason) from None
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="Patchbay"'


class TokenScope(BasePermission):
    """A token does what its scopes say; a session may do everything its user may.

    A view that only computes on POST (a preview, a check) sets `post_only_reads = True` and is open to read tokens.
    """

    message = "This token may read, not write."
    code = "token_scope"

    def has_permission(self, request: Request, view: APIView) -> bool:
        token = request.auth
        if not isinstance(token, ApiToken):
            return True
        reads = request.method in SAFE_METHODS or getattr(view, "post_only_reads", False)
        return ("read" if reads else "write") in token.scopes


class SignedIn(BasePermission):
    """Any account; anonymous visitors are told to sign in (401)."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.user.is_authenticated


class LabMember(SignedIn):
    """Accounts of the lab: readers, members and administrators, not guests."""

    message = "This is for accounts of the lab."
    code = "lab_only"

    def has_permission(self, request: Request, view: APIView) -> bool:
        return super().has_permission(request, view) and bool(getattr(request.user, "in_lab", False))


class CanWrite(BasePermission):
    """Reading is open to whoever sees the object; writing needs the role of a member or administrator."""

    message = "Your account may look, not run or change things."
    code = "role_required"

    def has_permission(self, request: Request, view: APIView) -> bool:
        if request.method in SAFE_METHODS:
            return True
        return bool(getattr(request.user, "can_run", False))


class SessionOnly(SignedIn):
    """For managing tokens: a token cannot make or list tokens, so a leaked one cannot outlive its revocation."""

    message = "Tokens are managed in a signed-in browser, not with a token."
    code = "session_required"

    def has_permission(self, request: Request, view: APIView) -> bool:
        return super().has_permission(request, view) and not isinstance(request.auth, ApiToken)


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the OpenAPI document describes the tokens."""

    target_class = BearerAuthentication
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "pbt_<key>.<secret>",
            "description": "An API token made under Settings → Tokens. Scopes: read, write.",
        }
