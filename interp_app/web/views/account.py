"""Signing in and out, the colour theme, and API tokens."""

import hashlib
from typing import Any

from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.views import LoginView, redirect_to_login
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from interp_app.core.errors import ServiceError, not_found
from interp_app.core.tokens import issue_token, live_tokens, revoke_token
from interp_app.web.context import THEME_COOKIE, THEMES
from interp_app.web.forms.account import SignInForm, TokenForm
from interp_app.web.http import add_service_error, page, redirect_back

ATTEMPTS = 10
ATTEMPTS_SECONDS = 300
YEAR_SECONDS = 365 * 24 * 3600


class SignIn(LoginView):
    """The sign-in form. Ten wrong passwords for one name from one address close it for five minutes."""

    template_name = "web/login.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        key = _attempts_key(request)
        if cache.get(key, 0) >= ATTEMPTS:
            form = self.get_form_class()(request)
            throttled = SignInForm.error_messages["throttled"]
            return self.render_to_response(self.get_context_data(form=form, throttled=throttled), status=429)
        return super().post(request, *args, **kwargs)

    def form_valid(self, form: Any) -> HttpResponse:
        cache.delete(_attempts_key(self.request))
        return super().form_valid(form)

    def form_invalid(self, form: Any) -> HttpResponse:
        key = _attempts_key(self.request)
        cache.add(key, 0, ATTEMPTS_SECONDS)
        cache.incr(key)
        return self.render_to_response(self.get_context_data(form=form), status=400)


def _attempts_key(request: HttpRequest) -> str:
    who = f"{request.META.get('REMOTE_ADDR', '')} {request.POST.get('username', '').lower()}"
    return f"sign-in-{hashlib.sha256(who.encode()).hexdigest()}"


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """End the session."""
    logout(request)
    return redirect("web:start")


@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Remember the colour theme in a cookie that the server reads, so that no page flashes in the wrong one."""
    response = redirect_back(request, "web:start")
    chosen = request.POST.get("theme", "")
    if chosen in dict(THEMES):
        response.set_cookie(THEME_COOKIE, chosen, max_age=YEAR_SECONDS, samesite="Lax", secure=request.is_secure())
    return response


@never_cache
@page
def tokens(request: HttpRequest) -> HttpResponse:
    """The account's API tokens; a new one is shown once, on the answer to the POST that made it."""
    if not request.user.is_authenticated:
        return redirect_to_login(request.path)
    form = TokenForm(request.POST if request.method == "POST" else None)
    secret = None
    if request.method == "POST" and form.is_valid():
        secret = _issue(request, form)
    context = {"form": form if secret is None else TokenForm(), "tokens": live_tokens(request.user), "secret": secret}
    failed = request.method == "POST" and secret is None
    return render(request, "web/tokens.html", context, status=400 if failed else 200)


def _issue(request: HttpRequest, form: TokenForm) -> str | None:
    try:
        _, secret = issue_token(
            user=request.user,  # type: ignore[arg-type]
            name=form.cleaned_data["name"],
            scopes=["read", "write"] if form.cleaned_data["scope"] == "write" else ["read"],
            expires_at=form.expires_at,
        )
    except ServiceError as error:
        add_service_error(form, error)
        return None
    return secret


@require_POST
@page
def revoke(request: HttpRequest, id_: Any) -> HttpResponse:
    """Revoke a token of this account."""
    if not request.user.is_authenticated:
        return redirect("web:login")
    token = live_tokens(request.user).filter(pk=id_).first()
    if token is None:
        raise not_found("token")
    revoke_token(token=token)
    messages.success(request, f"The token “{token.name}” is revoked. Whatever used it is refused from now on.")
    return redirect("web:tokens")
