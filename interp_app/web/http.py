"""What views share: who may open a page, service errors as pages, and redirects that stay on this site."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.forms import BaseForm
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme

from interp_app.core.errors import ServiceError

View = Callable[..., HttpResponse]


def page(view: View) -> View:
    """Turn a `ServiceError` that a view did not handle into the page of its status, with its sentence and remedy."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except ServiceError as error:
            if error.status == 404:
                raise Http404(str(error)) from error
            if error.status == 403:
                raise PermissionDenied(str(error)) from error
            context = {"status": error.status, "heading": error.message, "remedy": error.remedy, "code": error.code}
            return render(request, "web/error.html", context, status=error.status)

    return wrapped


def lab_page(view: View) -> View:
    """A page for the lab's accounts: visitors are sent to the sign-in form, guests are told whom to ask."""

    @wraps(view)
    @page
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        if not request.user.in_lab:
            raise PermissionDenied("This page is for members of the lab. Ask an administrator for the role reader.")
        return view(request, *args, **kwargs)

    return wrapped


def member_page(view: View) -> View:
    """A page for accounts that may run experiments and write prompt sets."""

    @wraps(view)
    @page
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        if not request.user.can_run:
            raise PermissionDenied("Your account may look, not run. Ask an administrator for the role member.")
        return view(request, *args, **kwargs)

    return wrapped


def redirect_back(request: HttpRequest, fallback: str, *args: Any) -> HttpResponseRedirect:
    """To the form's `next` where it is an address of this site, else to `fallback`."""
    target = request.POST.get("next", "")
    safe = url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return HttpResponseRedirect(target if safe else resolve_url(fallback, *args))


def add_service_error(form: BaseForm, error: ServiceError, rename: dict[str, str] | None = None) -> None:
    """Put a service's complaint beside the inputs it names; what names no input of this form goes on top."""
    placed = False
    for name, texts in error.fields.items():
        field = (rename or {}).get(name, name)
        if field in form.fields:
            for text in texts:
                form.add_error(field, text)
            placed = True
    if not placed:
        form.add_error(None, str(error))


def tell(request: HttpRequest, error: ServiceError) -> None:
    """A service's complaint as a message on the next page."""
    messages.error(request, str(error))
