"""Pages for what went wrong: each says what happened and what to do next."""

from django.core.exceptions import PermissionDenied, RequestDataTooBig, TooManyFieldsSent
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

TOO_LARGE = "What you sent is larger than this form takes."


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """400, or 413 where the request was too large."""
    if isinstance(exception, RequestDataTooBig | TooManyFieldsSent):
        return _page(
            request, 413, TOO_LARGE, "Go back, your form is still there. Upload a file of at most 5 MB instead."
        )
    return _page(request, 400, "The server could not read this request.", "Go back, reload the page and try again.")


def forbidden(request: HttpRequest, exception: PermissionDenied | None = None) -> HttpResponse:
    """403: the sentence of the refusal, or what usually is the reason."""
    said = str(exception) if exception and str(exception) else "You may not do this."
    return _page(request, 403, said, "You are signed in with the account shown above; another one may be allowed to.")


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """404, the same words for what does not exist and for what the visitor may not see."""
    remedy = "Check the address."
    if not getattr(request, "user", None) or not request.user.is_authenticated:
        remedy += " If it was sent to you by a member of the lab, sign in first."
    else:
        remedy += " If it was sent to you, ask its owner to share it with the lab."
    return _page(request, 404, "There is no such page, or you may not see it.", remedy)


def server_error(request: HttpRequest) -> HttpResponse:
    """500, without the page's own context: whatever failed may be part of it."""
    return render(None, "web/server_error.html", status=500)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403 for a form whose secret does not match, mostly after signing in in another tab."""
    return _page(
        request,
        403,
        "This form has expired.",
        "Go back, reload the page and send it again; your browser keeps what you typed. Cookies must be allowed.",
    )


def _page(request: HttpRequest, status: int, heading: str, remedy: str) -> HttpResponse:
    context = {"status": status, "heading": heading, "remedy": remedy}
    return render(request, "web/error.html", context, status=status)
