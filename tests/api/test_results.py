"""Panels as bytes, CSV and JSON, and files with entity tags and ranges."""

import asyncio
import csv
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from asgiref.sync import sync_to_async
from django.test import AsyncClient
from rest_framework.test import APIClient

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import Role, User
from interp_app.runs import artifacts, events
from interp_app.runs.api.results import plain
from interp_app.runs.models import Run
from tests.api.conftest import close_connection
from tests.api.worlds import COLUMN_LABELS, finished_run, panel, tile
from tests.factories import PromptSetVersionFactory, UserFactory

Problem = Callable[[Any, int, str], dict[str, Any]]
UNKNOWN, NOT_A_NUMBER = 0x7FC00000, 0x7FC00001
FILE = bytes(range(256)) * 40


@pytest.fixture
def run(member: User, model: ModelSource, prompts: PromptSetVersion) -> Run:
    return finished_run(member, model, prompts)


def at(run: Run, part: str) -> str:
    return f"/api/v1/runs/{run.pk}/{part}"


def body(response: Any) -> bytes:
    return b"".join(response.streaming_content)


def test_panels_are_announced_with_axes_and_quantities(api: APIClient, run: Run) -> None:
    assert api.get(at(run, "panels/")).json() == {"seq": 3, "panels": [_json(panel().payload())]}


def test_bytes_hold_every_tile_and_mark_what_is_unknown(api: APIClient, run: Run) -> None:
    response = api.get(at(run, "panels/0.bin"))
    words = np.frombuffer(response.content, dtype="<u4").reshape(2, 2, 2)
    assert words[0].view("<f4")[0].tolist() == [1.0, 0.25]
    assert words[1, 0].tolist() == [np.float32(2).view(np.uint32), NOT_A_NUMBER]
    assert words[:, 1, 0].tolist() == [UNKNOWN, UNKNOWN]
    assert words[:, 1, 1].view("<f4").tolist() == [-0.5, -1.0]
    assert (response["X-Patchbay-Seq"], response["Content-Type"]) == ("3", "application/octet-stream")


def test_a_panel_is_sent_again_only_when_it_has_changed(api: APIClient, run: Run) -> None:
    address = at(run, "panels/0.bin")
    etag = api.get(address)["ETag"]
    known = api.get(address, headers={"if-none-match": f'"other", {etag}'})
    assert (known.status_code, known.content, known["ETag"]) == (304, b"", etag)
    events.append(run.pk, [events.tile_event(tile(1, 0, [[[0.0]], [[0.0]]]))])
    changed = api.get(address, headers={"if-none-match": etag})
    assert changed.status_code == 200
    assert changed["ETag"] != etag


def test_json_has_null_where_there_is_no_number(api: APIClient, run: Run) -> None:
    found = api.get(at(run, "panels/0.json")).json()
    assert found["values"] == {"recovery": [[1.0, 0.25], [None, -0.5]], "raw": [[2.0, None], [None, -1.0]]}
    assert found["panel"]["name"] == "resid_pre"


def test_csv_has_a_line_a_cell_and_no_formulas(api: APIClient, run: Run) -> None:
    response = api.get(at(run, "panels/0.csv"))
    rows = list(csv.reader(io.StringIO(response.content.decode())))
    assert rows == [
        ["layer", "layer_label", "position", "position_label", "recovery", "raw"],
        ["0", "0", "0", COLUMN_LABELS[0], "1.0", "2.0"],
        ["0", "0", "1", "'=1+1", "0.25", ""],
        ["1", "1", "0", COLUMN_LABELS[0], "", ""],
        ["1", "1", "1", "'=1+1", "-0.5", "-1.0"],
    ]
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert "attachment" in response["Content-Disposition"]


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\n"])
def test_a_text_that_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    assert plain(text) == f"'{text}"


@pytest.mark.parametrize("text", ["Mary", " Mary", "a=b", "", "0"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert plain(text) == text


def test_panels_that_were_not_opened_do_not_exist(api: APIClient, run: Run, problem: Problem) -> None:
    for part in ("panels/1.bin", "panels/1.csv", "panels/1.json", "panels/99999999999999999999.bin"):
        problem(api.get(at(run, part)), 404, "not_found")


def test_a_file_comes_whole_with_its_hash_as_tag(api: APIClient, run: Run) -> None:
    listed = api.get(at(run, "artifacts/")).json()["results"]
    assert [(one["name"], one["size"]) for one in listed] == [("resid_pre.safetensors", len(FILE))]
    response = api.get(listed[0]["url"])
    assert body(response) == FILE
    assert response["ETag"] == f'"{listed[0]["sha256"]}"'
    assert response["Content-Length"] == str(len(FILE))
    assert response["Content-Disposition"] == 'attachment; filename="resid_pre.safetensors"'
    assert api.get(listed[0]["url"], headers={"if-none-match": response["ETag"]}).status_code == 304


@pytest.mark.django_db(transaction=True)
def test_a_file_is_streamed_by_the_asynchronous_server_too(client_for: Any, model: ModelSource) -> None:
    owner = UserFactory(role=Role.MEMBER)
    run = finished_run(owner, model, PromptSetVersionFactory(prompt_set__owner=owner))
    session = client_for(owner).cookies["sessionid"].value

    async def fetch() -> list[bytes]:
        client = AsyncClient()
        client.cookies["sessionid"] = session
        response = await client.get(at(run, "artifacts/resid_pre.safetensors"), headers={"range": "bytes=256-"})
        assert response.is_async
        pieces = [piece async for piece in response]
        await sync_to_async(close_connection)()  # the one the server's thread opened
        return pieces

    assert b"".join(asyncio.run(fetch())) == FILE[256:]


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=10000-", 10000, len(FILE)),
        ("bytes=-5", len(FILE) - 5, len(FILE)),
        ("bytes=10000-999999", 10000, len(FILE)),
        ("bytes=-999999", 0, len(FILE)),
    ],
)
def test_a_range_of_a_file_is_sent_alone(api: APIClient, run: Run, wanted: str, start: int, stop: int) -> None:
    response = api.get(at(run, "artifacts/resid_pre.safetensors"), headers={"range": wanted})
    assert (response.status_code, body(response)) == (206, FILE[start:stop])
    assert response["Content-Range"] == f"bytes {start}-{stop - 1}/{len(FILE)}"
    assert response["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("wanted", ["bytes=20000-", "bytes=-0", "bytes=10240-10241"])
def test_a_range_outside_of_the_file_is_not_satisfiable(api: APIClient, run: Run, wanted: str) -> None:
    response = api.get(at(run, "artifacts/resid_pre.safetensors"), headers={"range": wanted})
    assert (response.status_code, response["Content-Range"]) == (416, f"bytes */{len(FILE)}")


@pytest.mark.parametrize("wanted", ["bytes=5-2", "bytes=-", "bytes=0-1,4-5", "lines=1-2", "bytes=a-b"])
def test_a_range_that_makes_no_sense_sends_the_whole_file(api: APIClient, run: Run, wanted: str) -> None:
    response = api.get(at(run, "artifacts/resid_pre.safetensors"), headers={"range": wanted})
    assert (response.status_code, body(response)) == (200, FILE)


def test_a_range_of_another_version_sends_the_whole_file(api: APIClient, run: Run) -> None:
    headers = {"range": "bytes=0-0", "if-range": '"other"'}
    response = api.get(at(run, "artifacts/resid_pre.safetensors"), headers=headers)
    assert (response.status_code, body(response)) == (200, FILE)


@pytest.mark.parametrize("name", ["other", "..%2F..%2Fetc%2Fpasswd", "resid_pre.safetensors;x", "%00", ".."])
def test_no_name_reaches_the_file_system(api: APIClient, run: Run, name: str, problem: Problem) -> None:
    problem(api.get(at(run, f"artifacts/{name}")), 404, "not_found")


def test_a_file_that_is_gone_says_so(api: APIClient, run: Run, problem: Problem) -> None:
    store = artifacts.store(b"only here")
    artifacts.attach(run, store, "lost.bin")
    artifacts.path_of(store.sha256).unlink()
    assert "again" in problem(api.get(at(run, "artifacts/lost.bin")), 410, "artifact_missing")["remedy"]


def _json(value: Any) -> Any:
    return (
        [_json(item) for item in value]
        if isinstance(value, list | tuple)
        else ({key: _json(item) for key, item in value.items()} if isinstance(value, dict) else value)
    )
