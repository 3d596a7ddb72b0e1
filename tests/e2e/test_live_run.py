"""The main job in the browser: start a run, watch it fill, through reloads, lost connections and second thoughts."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.deadlines import eventually
from tests.e2e.outage import line_to
from tests.e2e.run_page import (
    cells_done,
    expect_page_equals_api,
    expect_state,
    island,
    wait_for_cells,
    wait_for_values,
)
from tests.e2e.site import Api, Site

SLOW: dict[str, Any] = {"sites": ["resid_pre", "attn_out"], "batch_rows": 1, "dtype": "float64"}
"""A run of seconds: one patched prompt a batch."""


def test_from_the_start_page_to_a_full_map_in_two_clicks(page: Page, api: Api) -> None:
    page.goto("/")
    page.get_by_role("link", name=re.compile("Indirect object · Demo")).click()
    expect(page.get_by_text("56 cells").first).to_be_visible()
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}/$"))
    expect_state(page, "succeeded")
    run_id = page.url.rstrip("/").rsplit("/", 1)[1]
    run = api.run(run_id)
    assert cells_done(page) == run["cells_done"] == run["cells_total"]
    expect_page_equals_api(page, api, run_id)
    expect(page.locator(".status-succeeded").first).to_be_visible()


def test_the_map_fills_while_the_worker_computes_and_paints_in_time(
    page: Page, api: Api, record_property: Callable[[str, object], None]
) -> None:
    sites = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
    run = api.submit(title="Watched", **{**SLOW, "sites": sites, "dtype": "float32"})
    page.goto(run["url"])
    expect_state(page, "running")
    seen = []
    for cells in (1, 20, 60):
        wait_for_cells(page, cells)
        seen.append(cells_done(page))
    assert seen == sorted(seen)
    assert seen[0] < run["cells_total"], "the first cells were seen before the last were computed"
    expect_state(page, "succeeded")
    expect_page_equals_api(page, api, run["id"])
    latencies = sorted(page.evaluate("window.__patchbay.latencies"))
    assert len(latencies) >= 20
    p95 = latencies[int(len(latencies) * 0.95)]
    record_property("tile_to_pixel_p95_ms", round(p95, 1))
    assert p95 <= 100


def test_a_reload_in_the_middle_loses_nothing(page: Page, api: Api) -> None:
    run = api.submit(title="Reloaded", **SLOW)
    page.goto(run["url"])
    wait_for_cells(page, 10)
    before = cells_done(page)
    page.reload()
    wait_for_cells(page, before)
    expect_state(page, "succeeded")
    expect_page_equals_api(page, api, run["id"])


def test_two_viewers_see_the_same_cells(page: Page, second_page: Page, api: Api) -> None:
    run = api.submit(title="Watched by two", **SLOW)
    page.goto(run["url"])
    wait_for_cells(page, 20)
    second_page.goto(run["url"])
    wait_for_cells(second_page, 20)
    for viewer in (page, second_page):
        expect_state(viewer, "succeeded")
        expect_page_equals_api(viewer, api, run["id"])


@pytest.mark.timeout(150)
def test_ten_seconds_without_a_connection_lose_nothing(page: Page, api: Api, site: Site) -> None:
    run = api.submit(title="Offline", **{**SLOW, "sites": ["resid_pre", "resid_mid", "attn_out", "mlp_out"]})
    where = urlsplit(site.url)
    with line_to(where.hostname or "", where.port or 0) as line:
        page.goto(line.url + run["url"])
        wait_for_cells(page, 5)
        line.cut()
        expect(page.get_by_text("Reconnecting")).to_be_visible()
        expect(island(page)).to_have_attribute("data-connection", "offline")
        page.wait_for_timeout(10_000)  # the outage itself: ten seconds of it is what is tested
        line.mend()
        expect(island(page)).to_have_attribute("data-connection", "live", timeout=45_000)
        expect(page.get_by_text("Reconnecting")).to_have_count(0)
        expect_state(page, "succeeded", seconds=90)
        expect_page_equals_api(page, api, run["id"])


def test_cancel_keeps_the_cells_and_resume_computes_the_rest(page: Page, api: Api) -> None:
    run = api.submit(title="Second thoughts", **SLOW)
    page.goto(run["url"])
    wait_for_cells(page, 10)
    page.get_by_role("button", name="Cancel").click()
    expect_state(page, "cancelled")
    kept = cells_done(page)
    assert 10 <= kept < run["cells_total"]
    page.get_by_role("button", name="Resume").click()
    expect_state(page, "succeeded")
    assert api.run(run["id"])["attempt"] == 2
    expect_page_equals_api(page, api, run["id"])


def test_cancel_and_resume_work_without_scripts(page: Page, api: Api, browser: Any, browser_context_args: Any) -> None:
    run = api.submit(title="Without scripts", **SLOW)
    context = browser.new_context(**browser_context_args, java_script_enabled=False)
    try:
        plain = context.new_page()
        plain.goto(run["url"])
        plain.get_by_role("button", name="Cancel").click()
        api.until(run["id"], "cancelled")
        plain.goto(run["url"])
        expect(plain.locator(".status-cancelled").first).to_be_visible()
        plain.get_by_role("button", name="Resume").click()
        api.until(run["id"], "succeeded")
        plain.goto(run["url"])
        expect(plain.locator("table.grid-values").first).to_be_visible()
        assert plain.locator("table.grid-values td.v-unknown").count() == 0
    finally:
        context.close()


def test_the_keyboard_alone_is_enough(page: Page, api: Api) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main", "the skip link skips"
    tab_to(page, lambda: "Indirect object" in focused_text(page))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/runs/new/"))
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible()
    tab_to(page, lambda: focused_text(page) == "Run")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}/$"))
    expect_state(page, "succeeded")
    tab_to(page, lambda: page.evaluate("document.activeElement.getAttribute('role')") == "grid")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    eventually(lambda: "pin" in page.url, seconds=5, what="the pin is in the address")


def test_a_pinned_cell_is_in_the_address(page: Page, api: Api) -> None:
    run = api.submit(title="Pinned", force=False)
    api.until(run["id"], "succeeded")
    page.goto(run["url"])
    expect_state(page, "succeeded")
    page.locator('[role="grid"]').click(position={"x": 400, "y": 80})
    page.wait_for_function("location.search.length > 1 || location.hash.length > 1")
    address = page.url
    page.goto(address)
    expect_state(page, "succeeded")
    assert page.url == address


@pytest.mark.parametrize("kind", ["SVG", "PNG", "CSV", "JSON"])
def test_the_figure_is_exported(page: Page, api: Api, kind: str) -> None:
    run = api.submit(title="Exported", force=False)
    api.until(run["id"], "succeeded")
    page.goto(run["url"])
    expect_state(page, "succeeded")
    wait_for_values(page)
    page.locator("summary", has_text="Export").click()
    with page.expect_download() as download:
        page.locator("details[open]").get_by_text(re.compile(rf"\b{kind}\b")).first.click()
    data = Path(download.value.path()).read_bytes()
    panel = api.get(f"runs/{run['id']}/panels/0.json")
    strongest = max(value for row in panel["values"]["recovery"] for value in row)
    match kind:
        case "SVG":
            assert data.startswith(b"<")
            assert b"</svg>" in data[-20:]
            assert run["id"].encode() in data, "an exported figure knows where it came from"
        case "PNG":
            assert data.startswith(b"\x89PNG")
        case "CSV":
            lines = [line for line in data.decode().splitlines() if not line.startswith("#")]
            assert len(list(csv.reader(lines))) == 1 + run["cells_total"]
        case "JSON":
            assert f"{strongest:.9f}"[:6] in data.decode()


def tab_to(page: Page, reached: Any, limit: int = 80) -> None:
    for _ in range(limit):
        page.keyboard.press("Tab")
        if reached():
            return
    raise AssertionError("no such control can be reached with Tab")


def focused_text(page: Page) -> str:
    return str(page.evaluate("document.activeElement.innerText || ''")).strip()
