"""How much of a request the server takes in before it knows who sent it."""

import asyncio
import io
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from interp_app.asgi import application
from interp_app.catalog.uploads import MAX_UPLOAD_BYTES
from interp_app.core import bodies

PIECE = 2**16
HEAD = (
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\nContent-Type: text/csv\r\n\r\nclean,'
)


class Sender:
    """A client that sends `size` bytes in pieces and remembers how many were asked for."""

    def __init__(self, path: str, size: int, *, announce: bool) -> None:
        self.size = size
        self.given = 0
        self.answered: list[dict[str, Any]] = []
        headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=edge")]
        if announce:
            headers.append((b"content-length", str(size).encode()))
        self.scope: dict[str, Any] = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": headers,
            "client": ("203.0.113.7", 4000), "server": ("localhost", 8000),
        }  # fmt: skip
        self._over = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(0)  # as a server does between two pieces
        if self.given < self.size:
            piece = HEAD if self.given == 0 else b"x" * PIECE
            self.given += len(piece)
            return {"type": "http.request", "body": piece, "more_body": self.given < self.size}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.answered.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._over.set()

    def post(self) -> tuple[int, dict[bytes, bytes], str]:
        async_to_sync(application)(self.scope, self.receive, self.send)
        start = self.answered[0]
        body = b"".join(message.get("body", b"") for message in self.answered[1:])
        return start["status"], {name.lower(): value for name, value in start["headers"]}, body.decode()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the bodies that Django stored."""
    from django.core.handlers import asgi

    sizes: list[int] = []

    class Counted(asgi.ASGIRequest):
        def __init__(self, scope: dict[str, Any], body_file: Any) -> None:
            sizes.append(body_file.seek(0, io.SEEK_END))
            body_file.seek(0)
            super().__init__(scope, body_file)

    monkeypatch.setattr(asgi.ASGIHandler, "request_class", Counted)
    return sizes


def test_an_announced_upload_of_20_mb_is_refused_unread_and_unstored(db: None, kept: list[int]) -> None:
    sender = Sender("/login/", 20_000_000, announce=True)
    status, headers, text = sender.post()
    assert status == 413
    assert "at most 5 MB" in text
    assert kept == [0]
    assert b"connection" not in headers  # the server reads the rest and drops it, so that a browser shows the page


@pytest.mark.parametrize("path", ["/login/", "/prompts/new/"])
def test_an_endless_upload_is_cut_at_the_limit(db: None, kept: list[int], path: str) -> None:
    sender = Sender(path, 20_000_000, announce=False)
    status, headers, text = sender.post()
    assert status == 413
    assert "at most 5 MB" in text
    assert max(kept) <= bodies.MAX_BODY_BYTES
    assert headers[b"connection"] == b"close"


def test_a_body_of_a_gigabyte_closes_the_connection(db: None, kept: list[int]) -> None:
    status, headers, _ = Sender("/login/", 2**30, announce=True).post()
    assert (status, headers[b"connection"], kept) == (413, b"close", [0])


def test_the_api_answers_a_large_body_with_a_problem(db: None, kept: list[int]) -> None:
    status, headers, text = Sender("/api/v1/runs/", 20_000_000, announce=True).post()
    assert (status, headers[b"content-type"]) == (413, b"application/problem+json")
    assert '"payload_too_large"' in text
    assert kept == [0]


def test_an_ordinary_body_arrives_whole(db: None, kept: list[int]) -> None:
    Sender("/login/", 500_000, announce=False).post()
    assert kept[0] >= 500_000


def test_files_are_stopped_while_they_are_parsed(client: Client, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_FILES_BYTES", 2**17)
    file = SimpleUploadedFile("a.csv", b"x" * 2**19)
    response = client.post("/login/", {"file": file})
    assert response.status_code == 413
    assert "at most 5 MB" in response.text


def test_a_file_just_over_the_limit_of_prompt_sets_reaches_its_form() -> None:
    assert MAX_UPLOAD_BYTES < bodies.MAX_FILES_BYTES < bodies.MAX_BODY_BYTES
