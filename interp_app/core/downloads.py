"""Files over HTTP: entity tags, single byte ranges and streaming, for files found by id (never by a path from outside).

Answers: 304 where If-None-Match names the file, 206 for a satisfiable range, 416 for one that is not, else 200. A range
is ignored, as the standard allows, where it is malformed, has several parts, or If-Range names another file.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.http import content_disposition_header, parse_etags

_RANGE: Final = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")
_PIECE: Final = 256 * 1024
CACHE: Final = "private, no-cache"
"""Caches may keep it and must ask again: the permission may have gone since."""


def not_modified(request: HttpRequest, etag: str) -> HttpResponse | None:
    """The 304 answer where the client has this version already."""
    wanted = parse_etags(request.headers.get("If-None-Match", ""))
    if etag not in wanted and "*" not in wanted:
        return None
    return HttpResponse(status=304, headers={"ETag": etag, "Cache-Control": CACHE})


def send_bytes(request: HttpRequest, data: bytes, *, etag: str, media_type: str, name: str = "") -> HttpResponse:
    """Bytes already at hand, with their entity tag."""
    headers = {"ETag": etag, "Cache-Control": CACHE}
    if name:
        headers["Content-Disposition"] = content_disposition_header(True, name) or "attachment"
    return not_modified(request, etag) or HttpResponse(data, content_type=media_type, headers=headers)


def send_file(request: HttpRequest, path: Path, *, etag: str, media_type: str, name: str) -> HttpResponseBase:
    """A file on disk, or the part of it that was asked for. Raises `OSError` where it cannot be read."""
    known = not_modified(request, etag)
    if known is not None:
        return known
    size = path.stat().st_size
    headers = {
        "ETag": etag,
        "Cache-Control": CACHE,
        "Accept-Ranges": "bytes",
        "Content-Disposition": content_disposition_header(True, name) or "attachment",
    }
    wanted = _range(request, size, etag)
    if wanted is None:
        start, stop, status = 0, size, 200
    elif wanted[0] >= wanted[1]:
        return HttpResponse(status=416, headers={"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"})
    else:
        (start, stop), status = wanted, 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    file = path.open("rb")
    file.seek(start)
    pieces = _async_pieces(file, stop - start) if hasattr(request, "scope") else _pieces(file, stop - start)
    response = StreamingHttpResponse(pieces, status=status, content_type=media_type, headers=headers)
    response._resource_closers.append(file.close)  # type: ignore[attr-defined]  # also where the client leaves before the first piece
    return response


def _range(request: HttpRequest, size: int, etag: str) -> tuple[int, int] | None:
    """(start, stop) with start ≥ stop where nothing of the file is in the range; None to send all of it."""
    match = _RANGE.fullmatch(request.headers.get("Range", "").strip())
    if match is None or request.method != "GET" or match.groups() == ("", ""):
        return None
    if request.headers.get("If-Range", etag) != etag:
        return None
    first, last = match.groups()
    if not first:
        return (max(0, size - int(last)), size) if int(last) else (size, size)
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _pieces(file: BinaryIO, left: int) -> Iterator[bytes]:
    while left > 0 and (piece := file.read(min(_PIECE, left))):
        left -= len(piece)
        yield piece


async def _async_pieces(file: BinaryIO, left: int) -> AsyncIterator[bytes]:
    while left > 0 and (piece := await asyncio.to_thread(file.read, min(_PIECE, left))):
        left -= len(piece)
        yield piece
