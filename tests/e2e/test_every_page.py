"""Every page in both themes: axe finds nothing; on a phone nothing sticks out."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.e2e.run_page import expect_state
from tests.e2e.site import Api

WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}}
PAGES = {
    "start": "/",
    "models": "/models/",
    "model": "/models/demo/",
    "prompt sets": "/prompts/",
    "prompt version": "{prompts}?page=2",
    "new prompt set": "/prompts/new/",
    "edit prompts": "{edit}",
    "new run": "/runs/new/",
    "new edge run": "/runs/new/?method=edge_attribution",
    "new steering run": "/runs/new/?method=steering",
    "runs": "/runs/?q=a&status=succeeded&tag=x",
    "run": "{run}",
    "queue": "/queue/",
    "tokens": "/settings/tokens/",
    "help": "/help/",
    "shortcuts": "/help/shortcuts/",
    "method": "/help/methods/activation_patching/",
    "method of edges": "/help/methods/edge_attribution/",
    "method of lenses": "/help/methods/logit_lens/",
    "not found": "/nowhere/",
}


@pytest.fixture(scope="module")
def known() -> dict[str, str]:
    """Addresses found once for all pages."""
    return {}


@pytest.fixture
def address(api: Api, known: dict[str, str]) -> Callable[[str], str]:
    """The path of a page by its name, with a finished run to show."""
    if not known:
        run = api.until(api.submit(title="For all pages", force=False)["id"], "succeeded")
        prompts = f"/prompts/{run['prompts']['id']}"
        known.update(run=run["url"], prompts=f"{prompts}/v{run['prompts']['version']}/", edit=f"{prompts}/edit/")
    return lambda name: PAGES[name].format(**known)


def settled(page: Page, path: str) -> None:
    """Opened, its islands mounted."""
    page.goto(path)
    for island in page.locator("[data-island]").all():
        expect(island).to_have_attribute("data-mounted", "")
        expect(island.locator("[data-fallback]")).to_have_count(0)
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    if path.startswith("/runs/0"):
        expect_state(page, "succeeded")
        expect(page.locator("[role=grid]")).to_be_visible()


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_in_either_theme(page: Page, address: Callable[[str], str], name: str) -> None:
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    settled(page, address(name))
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        found = Axe().run(page, options=WCAG)
        assert found.violations_count == 0, f"{theme}: {found.generate_report()}"


@pytest.mark.parametrize("name", PAGES)
def test_nothing_sticks_out_on_a_phone(
    browser: Browser, browser_context_args: dict[str, Any], address: Callable[[str], str], name: str
) -> None:
    phone = {**browser_context_args, "viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    context = browser.new_context(**phone)
    try:
        page = context.new_page()
        settled(page, address(name))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        small = page.evaluate(
            """() => [...document.querySelectorAll('button, .btn, .rail a, select')]
              .filter(e => e.getClientRects().length && !e.closest('.visually-hidden'))
              .map(e => [e.innerText || e.name, e.getBoundingClientRect()])
              .filter(([, box]) => box.width < 24 || box.height < 24)
              .map(([text, box]) => `${text} ${box.width} x ${box.height}`)"""
        )
        assert small == [], "controls are at least 24 px in each direction"
    finally:
        context.close()


def test_the_theme_button_stays_chosen(page: Page, api: Api) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/help/")
    page.get_by_role("button", name="Dark theme").click()
    expect(page).to_have_url(re.compile("/help/$"))
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(17, 20, 24)"
    page.get_by_role("button", name="Theme of the system").click()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
