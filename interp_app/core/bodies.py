"""How much of a request is taken in at all, before anyone knows who sent it.

An ASGI server hands a body over in pieces and Django stores all of them before its first middleware runs, so a limit
inside Django comes too late. Three parts, one for each place where bytes arrive:

1. `CappedBodies` stands before Django and stops taking pieces: at once where the announced length is over the limit,
   else at the piece that passes it. Django then sees an empty body and a mark in the scope.
2. `BodyLimitMiddleware` answers such a request with the 413 of the page or of the API, before a form is parsed.
3. `LimitUploads` stops a form's files at their own, smaller limit while they are parsed.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadhandler import FileUploadHandler
from django.http import HttpRequest, HttpResponse

from interp_app.core.problems import http_problem, too_large

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
GetResponse = Callable[[HttpRequest], HttpResponse]

MAX_BODY_BYTES: Final = 8 * 2**20
"""Above what a form's text (DATA_UPLOAD_MAX_MEMORY_SIZE) or its files may have, so that those say what is too large."""
MAX_FILES_BYTES: Final = 6 * 2**20
"""All files of a form. Prompt sets are refused at 5 MB with a sentence beside the input; this stops the rest."""
READ_PAST_BYTES: Final = 64 * 2**20
"""A browser shows an answer only once its upload was taken in: up to this length the rest is read and thrown away."""
CUT: Final = "patchbay.body_cut"


class CappedBodies:
    """ASGI: passes no more than `MAX_BODY_BYTES` of a request's body on, and marks the scope where there was more."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        announced = _announced(scope)
        taken = 0
        scope[CUT] = announced > MAX_BODY_BYTES
        started = False

        async def capped() -> Message:
            nonlocal taken, started
            if scope[CUT]:
                if not started:
                    started = True
                    return {"type": "http.request", "body": b"", "more_body": False}
                return await _past_the_body(receive)
            message = await receive()
            started = True
            taken += len(message.get("body", b""))
            if taken <= MAX_BODY_BYTES:
                return message
            scope[CUT] = True
            return {"type": "http.request", "body": b"", "more_body": False}

        async def closing(message: Message) -> None:
            endless = announced > READ_PAST_BYTES or taken > MAX_BODY_BYTES
            if scope[CUT] and endless and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, capped, closing)


def _announced(scope: dict[str, Any]) -> int:
    length = dict(scope.get("headers", ())).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _past_the_body(receive: Receive) -> Message:
    """The next message that is no piece of the body."""
    message = await receive()
    while message["type"] == "http.request":
        message = await receive()
    return message


class BodyLimitMiddleware:
    """Answers 413 to a request whose body is over the limit, whether or not anything stood before Django."""

    def __init__(self, get_response: GetResponse) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        length = request.META.get("CONTENT_LENGTH") or "0"
        cut = getattr(request, "scope", {}).get(CUT, False)
        if not cut and not (length.isdigit() and int(length) > MAX_BODY_BYTES):
            return self._get_response(request)
        if request.path.startswith("/api/"):
            return http_problem(request, 413, "payload_too_large", too_large(request))
        raise RequestDataTooBig(f"a body of {length} bytes")


class LimitUploads(FileUploadHandler):
    """Counts the bytes of a form's files and keeps none; refuses the form where they are too many."""

    def __init__(self, request: HttpRequest | None = None) -> None:
        super().__init__(request)
        self._taken = 0

    def receive_data_chunk(self, raw_data: bytes, start: int) -> bytes:
        self._taken += len(raw_data)
        if self._taken > MAX_FILES_BYTES:
            raise RequestDataTooBig("the files of the form")
        return raw_data

    def file_complete(self, file_size: int) -> None:
        return None
