"""What the tests read from a result's view: numbers kept as data attributes, exactly as the page holds them."""

from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.e2e.run_page import expect_state
from tests.e2e.site import Api

VALUES = "nodes => nodes.map(node => node.dataset.value)"


def finished(api: Api, method: str, title: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """A run of that method, succeeded. An identical earlier run is used where there is one."""
    run = api.submit(method=method, title=title, force=False, settings=settings)
    return api.until(run["id"], "succeeded", "failed", seconds=120)


def open_result(page: Page, run: dict[str, Any], name: str, more: str = "") -> Locator:
    """The figure of a result, drawn."""
    page.goto(f"{run['url']}?panel={name}{more}")
    expect_state(page, "succeeded")
    figure = page.locator("#run-figure [data-result]").first
    expect(figure).to_be_visible()
    return figure


def result(api: Api, run: dict[str, Any], name: str) -> dict[str, Any]:
    """The result as the API has it."""
    found: dict[str, Any] = api.get(f"runs/{run['id']}/results/{name}/")
    return found


def close(one: str | None, other: float | None) -> bool:
    """A data attribute and a number of the API: the same float32, `NaN` where there is none."""
    if one is None or other is None:
        return other is None and one in (None, "NaN")
    return abs(float(one) - other) <= 1e-6 * max(1.0, abs(other))
