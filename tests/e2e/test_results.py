"""Every type of result in the browser: the numbers on the page are the API's, and each view can be used and read."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.e2e.result_page import VALUES, close, finished, open_result, result
from tests.e2e.run_page import expect_state, wait_for_values
from tests.e2e.site import Api
from tests.e2e.test_every_page import WCAG

VIEWS: dict[str, tuple[str, dict[str, Any], str]] = {
    "bars": ("direct_logit_attribution", {"by": "head"}, "direct_head"),
    "curve": ("steering", {"texts": 1, "max_new_tokens": 3, "scales": 3}, "steering_curve"),
    "texts": ("steering", {"texts": 1, "max_new_tokens": 3, "scales": 3}, "steered"),
    "lens": ("logit_lens", {"tables": 1}, "tokens_1"),
    "saliency": ("token_attribution", {"steps": 2}, "tokens"),
    "attention": ("attention_patterns", {"prompts": 1}, "attention_1"),
    "edges": ("edge_attribution", {}, "edges-result"),
}


def of(api: Api, view: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """The run of a view, the result's name in the address, and the result as the API has it."""
    method, params, name = VIEWS[view]
    run = finished(api, method, f"View of {view}", params)
    assert run["status"] == "succeeded", run["failure"]
    return run, name, result(api, run, name.removesuffix("-result"))


def test_bars_are_the_apis_numbers_sorted_by_size_and_in_order(page: Page, api: Api) -> None:
    run, name, found = of(api, "bars")
    key = found["data"]["quantities"][0]["key"]
    expected = found["arrays"][f"values.{key}"]
    figure = open_result(page, run, name)
    shown = [float(value) for value in figure.locator("svg.scene rect[data-value]").evaluate_all(VALUES)]
    assert [abs(value) for value in shown] == sorted((abs(value) for value in shown), reverse=True)
    assert sorted(shown) == pytest.approx(sorted(expected))
    figure.get_by_role("button", name="In order").click()
    expect(page).to_have_url(re.compile("order"))
    in_order = figure.locator("svg.scene rect[data-value]").evaluate_all(VALUES)
    assert all(close(one, other) for one, other in zip(in_order, expected, strict=True))
    figure.get_by_role("button", name="View as table").click()
    cells = figure.locator(f"td[data-key='{key}']").evaluate_all(VALUES)
    assert all(close(one, other) for one, other in zip(cells, expected, strict=True))


def test_bars_are_read_one_by_one_with_the_keyboard(page: Page, api: Api) -> None:
    run, name, _ = of(api, "bars")
    figure = open_result(page, run, name)
    figure.get_by_role("listbox").focus()
    first = figure.get_by_role("option").inner_text()
    page.keyboard.press("ArrowDown")
    assert figure.get_by_role("option").inner_text() != first
    page.keyboard.press("Home")
    assert figure.get_by_role("option").inner_text() == first


def test_a_curve_has_every_point_and_lines_can_be_taken_out(page: Page, api: Api) -> None:
    run, name, found = of(api, "curve")
    figure = open_result(page, run, name)
    expect(figure.locator("path[data-series]")).to_have_count(len(found["data"]["series"]))
    figure.get_by_role("button", name="View as table").click()
    for line in found["data"]["series"]:
        cells = figure.locator(f"td[data-key='{line['key']}']").evaluate_all(VALUES)
        assert all(close(*pair) for pair in zip(cells, found["arrays"][f"y.{line['key']}"], strict=True))
    figure.get_by_role("button", name="View as figure").click()
    figure.get_by_role("checkbox").first.uncheck()
    expect(figure.locator("path[data-series]")).to_have_count(len(found["data"]["series"]) - 1)


def test_texts_stand_side_by_side_as_text(page: Page, api: Api) -> None:
    run, name, found = of(api, "texts")
    figure = open_result(page, run, name)
    entries = found["data"]["entries"]
    assert entries
    expect(figure.locator("li[data-label]")).to_have_count(len(entries))
    labels = figure.locator("li[data-label]").evaluate_all("nodes => nodes.map(node => node.dataset.label)")
    assert labels == [entry["label"] for entry in entries]


def test_a_lens_shows_the_best_token_of_every_cell_and_the_top_ones_beside(page: Page, api: Api) -> None:
    run, name, found = of(api, "lens")
    figure = open_result(page, run, name)
    for row, cells in enumerate(found["data"]["tokens"]):
        for column, tokens in enumerate(cells):
            cell = figure.locator(f"td[data-row='{row}'][data-column='{column}']")
            assert cell.get_attribute("data-token") == tokens[0]
            assert close(cell.get_attribute("data-value"), found["arrays"]["values"][row][column][0])
    figure.locator("td[data-row='0'][data-column='1']").click()
    beside = page.locator(".inspector [data-value]").evaluate_all(VALUES)
    assert all(close(*pair) for pair in zip(beside, found["arrays"]["values"][0][1], strict=True))
    figure.get_by_role("grid").focus()
    page.keyboard.press("ArrowUp")
    expect(page).to_have_url(re.compile(r"cell:1\.1|cell%3A1\.1"))


def test_saliency_colours_the_tokens_of_each_prompt(page: Page, api: Api) -> None:
    run, name, found = of(api, "saliency")
    figure = open_result(page, run, name)
    tokens = [cell[0] for cell in found["data"]["tokens"][0] if cell[0] != ""]
    first = figure.locator("[data-row='0']")
    expect(first).to_have_count(len(tokens))
    values = found["arrays"]["values"][0][: len(tokens)]
    assert all(close(*pair) for pair in zip(first.evaluate_all(VALUES), (one[0] for one in values), strict=True))


def test_attention_opens_any_head_by_thumbnail_by_key_and_by_choice(page: Page, api: Api) -> None:
    run, name, found = of(api, "attention")
    view = open_result(page, run, name)
    expect(view.locator("h2.figure-title")).to_contain_text("layer 0, head 0")
    view.get_by_role("grid", name=re.compile("^Heads of")).focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    expect(view.locator("h2.figure-title")).to_contain_text("layer 1, head 1")
    view.get_by_role("combobox", name="Layer").select_option("2")
    expect(view.locator("h2.figure-title")).to_contain_text("layer 2, head 1")
    view.get_by_role("button", name="View as table").click()
    shown = view.locator("table.grid-values tbody tr").first.locator("td").all_inner_texts()
    key = found["data"]["quantities"][0]["key"]
    expected = found["arrays"][f"planes.{key}"][2][1][0]
    assert float(shown[0]) == pytest.approx(expected[0], abs=0.01)
    assert len(shown) == len(found["data"]["tokens"])
    address = page.url
    page.goto(address)
    expect(page.locator("h2.figure-title")).to_contain_text("layer 2, head 1")


def test_edges_are_sorted_searched_cut_and_mapped(page: Page, api: Api) -> None:
    run, name, found = of(api, "edges")
    figure = open_result(page, run, name)
    real, scores = found["arrays"]["real"], found["arrays"]["scores"]
    edges = [
        (abs(scores[s][r]), source, reader, scores[s][r])
        for s, source in enumerate(found["data"]["sources"])
        for r, reader in enumerate(found["data"]["readers"])
        if real[s][r]
    ]
    edges.sort(key=lambda edge: -edge[0])
    rows = figure.locator("tbody tr[data-value]")
    expect(rows).to_have_count(min(50, len(edges)))
    assert all(close(*pair) for pair in zip(rows.evaluate_all(VALUES), (edge[3] for edge in edges), strict=False))
    figure.get_by_label("Strongest").fill("7")
    figure.get_by_label("Strongest").press("Tab")
    expect(rows).to_have_count(7)
    figure.get_by_label("Search").fill("input -> logits")
    expect(rows).to_have_count(1)
    wanted = next(edge[3] for edge in edges if edge[1:3] == ("input", "logits"))
    assert close(rows.first.get_attribute("data-value"), wanted)
    figure.get_by_role("button", name="Adjacency map").click()
    grid = page.locator("#run-figure [role=grid]")
    expect(grid).to_have_attribute("aria-rowcount", str(len(found["data"]["sources"])))
    expect(page.get_by_text("no such edge").first).to_be_visible()


def test_the_certificate_stands_above_every_figure(page: Page, api: Api) -> None:
    run, _, _ = of(api, "edges")
    found = result(api, run, "certificate")
    for name in ("edges-result", "nodes"):
        open_result(page, run, name)
        shown = page.locator("[data-kind=certificate] li[data-check]")
        expect(shown).to_have_count(len(found["data"]["checks"]))
        for check in found["data"]["checks"]:
            line = page.locator(f"li[data-check='{check['name']}']")
            expect(line).to_be_visible()
            expect(line).to_contain_text(check["sentence"])
            words = {True: "passed", False: "failed", None: "for information"}
            expect(line).to_contain_text(words[check["passed"]])


def test_a_map_shows_one_pair_alone(page: Page, api: Api) -> None:
    run = finished(api, "activation_patching", "One pair alone")
    found = result(api, run, run_panel(api, run))
    page.goto(run["url"])
    expect_state(page, "succeeded")
    wait_for_values(page)
    page.get_by_label("Pairs").select_option("3")
    expect(page.locator("h2.figure-title")).to_contain_text("pair 3")
    page.get_by_role("button", name="View as table").click()
    shown = page.locator("table.grid-values tbody tr").last.locator("td").first.inner_text()
    if "examples" in found["arrays"]:
        expected = found["arrays"]["examples"][2][0][0]
        assert float(shown.replace("\u2212", "-")) == pytest.approx(expected, rel=0.01, abs=0.01)


def test_a_region_that_was_dragged_over_offers_what_can_be_run_there(page: Page, api: Api) -> None:
    run = finished(api, "activation_patching", "Dragged over")
    page.goto(run["url"])
    expect_state(page, "succeeded")
    wait_for_values(page)
    box = page.locator("canvas").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 150, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 180, steps=8)
    page.mouse.up()
    bar = page.get_by_role("toolbar", name="Selected region")
    expect(bar.get_by_role("button", name="Zoom")).to_be_visible()
    expect(bar.get_by_role("link", name="Heads here")).to_be_visible()
    bar.get_by_role("link", name="Run finer here").click()
    expect(page.get_by_label("Map axes")).to_have_value("layer_head_position")
    expect(page.locator("[name=region]")).to_have_value(re.compile(r"^\d+,\s?\d+,\s?\d+,\s?\d+$"))


def run_panel(api: Api, run: dict[str, Any]) -> str:
    name: str = api.get(f"runs/{run['id']}/panels/")["panels"][0]["name"]
    return name


@pytest.mark.parametrize("kind", ["SVG", "PNG", "CSV", "JSON"])
def test_a_result_is_exported_with_where_it_came_from(page: Page, api: Api, kind: str) -> None:
    run, name, found = of(api, "bars")
    figure = open_result(page, run, name)
    figure.locator("summary", has_text="Export").click()
    with page.expect_download() as download:
        figure.locator("details[open]").get_by_text(re.compile(rf"^{kind}\b")).first.click()
    data = Path(download.value.path()).read_bytes()
    assert run["id"].encode() in data
    match kind:
        case "SVG":
            assert data.rstrip().endswith(b"</svg>")
        case "PNG":
            assert data.startswith(b"\x89PNG")
        case "CSV":
            lines = [line for line in data.decode().splitlines() if not line.startswith("#")]
            assert len(lines) == 1 + len(found["data"]["axis"]["ticks"])
        case "JSON":
            key = found["data"]["quantities"][0]["key"]
            values = json.loads(data)["result"]["values"][key]
            assert values == pytest.approx(found["arrays"][f"values.{key}"])


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_in_any_view_in_either_theme(page: Page, api: Api, view: str) -> None:
    run, name, _ = of(api, view)
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    open_result(page, run, name)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        found = Axe().run(page, options=WCAG)
        assert found.violations_count == 0, f"{theme}: {found.generate_report()}"


@pytest.mark.parametrize("view", VIEWS)
def test_no_view_sticks_out_on_a_phone(
    browser: Browser, browser_context_args: dict[str, Any], api: Api, view: str
) -> None:
    run, name, _ = of(api, view)
    phone = {**browser_context_args, "viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    context = browser.new_context(**phone)
    try:
        page = context.new_page()
        open_result(page, run, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    finally:
        context.close()


def test_results_appear_when_the_run_finishes(page: Page, api: Api) -> None:
    run = api.submit(method="direct_logit_attribution", title="Watched", by="component")
    page.goto(run["url"])
    expect_state(page, "succeeded")
    expect(page.get_by_role("tab", name=re.compile("direct_component"))).to_be_visible()
