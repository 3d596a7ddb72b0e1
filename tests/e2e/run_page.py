"""What the tests read from a run's page: the attributes the island keeps for them, and the cells it holds."""

import struct
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.e2e.site import Api

ISLAND = '[data-island="run"]'
READ_ALL = """() => {
  const out = [];
  const { rows, columns, planes } = window.__sizes;
  for (let p = 0; p < planes; p++) for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
    const value = window.__patchbay.read(0, p, r, c);
    out.push(Number.isFinite(value) ? value : null);
  }
  return out;
}"""


def island(page: Page) -> Locator:
    return page.locator(ISLAND)


def expect_state(page: Page, state: str, seconds: float = 60) -> None:
    expect(island(page)).to_have_attribute("data-state", state, timeout=seconds * 1000)


def cells_done(page: Page) -> int:
    return int(island(page).get_attribute("data-cells-done") or 0)


def wait_for_cells(page: Page, at_least: int, seconds: float = 30) -> None:
    page.wait_for_function(
        f"n => Number(document.querySelector('{ISLAND}').dataset.cellsDone) >= n", arg=at_least, timeout=seconds * 1000
    )


def wait_for_values(page: Page) -> None:
    """Until the values of a finished run have arrived: its state is in the page itself, its values are fetched."""
    page.wait_for_function("() => Number.isFinite(window.__patchbay?.read(0, 0, 0, 0))")


def values_in_page(page: Page, panel: dict[str, Any]) -> list[float | None]:
    """Every cell of panel 0 as the page holds it; None where it is not a number."""
    sizes = {
        "rows": len(panel["rows"]["ticks"]),
        "columns": len(panel["columns"]["ticks"]),
        "planes": len(panel["quantities"]),
    }
    page.evaluate("sizes => { window.__sizes = sizes; }", sizes)
    found: list[float | None] = page.evaluate(READ_ALL)
    return found


def values_of_api(api: Api, run_id: str) -> tuple[dict[str, Any], list[float | None]]:
    """Panel 0 and its cells as the API has them."""
    panel = api.get(f"runs/{run_id}/panels/")["panels"][0]
    data = api.bytes(f"runs/{run_id}/panels/0.bin")
    numbers = struct.unpack(f"<{len(data) // 4}f", data)
    return panel, [number if number == number else None for number in numbers]


def expect_page_equals_api(page: Page, api: Api, run_id: str) -> None:
    panel, expected = values_of_api(api, run_id)
    assert None not in expected, "every cell is computed"
    wait_for_values(page)
    assert values_in_page(page, panel) == expected
