"""The form of a new run after it was sent: what the browser's Back brings back must work again."""

import json

from playwright.sync_api import Page, Route, expect

from tests.e2e.conftest import Api


def test_run_can_be_pressed_again_after_back_and_makes_another_run(page: Page, api: Api) -> None:
    """The answer's address is a place in the same page, so that the page stays as a browser keeps it for Back."""
    keys: list[str] = []

    def answer(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        route.fulfill(status=201, content_type="application/json", body=json.dumps({"url": "#queued"}))

    page.route("**/api/v1/runs/", answer)
    page.goto("/runs/new/")
    run = page.get_by_role("button", name="Run", exact=True)
    run.click()
    expect(page.get_by_role("button", name="Queueing…")).to_be_disabled()
    page.evaluate("window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    expect(run).to_be_enabled()
    run.click()
    expect(page.get_by_role("button", name="Queueing…")).to_be_disabled()
    assert len(set(keys)) == 2


def test_a_repeat_after_a_lost_answer_keeps_its_key_and_a_refusal_does_not(page: Page, api: Api) -> None:
    keys: list[str] = []

    def answer(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) == 1:
            route.abort()
        else:
            problem = {"status": 409, "code": "quota", "detail": "Too many runs are queued."}
            route.fulfill(status=409, content_type="application/problem+json", body=json.dumps(problem))

    page.route("**/api/v1/runs/", answer)
    page.goto("/runs/new/")
    run = page.get_by_role("button", name="Run", exact=True)
    for sent in range(1, 4):
        with page.expect_request("**/api/v1/runs/"):
            run.click()
        expect(run).to_be_enabled()
        assert len(keys) == sent
    assert keys[0] == keys[1] != keys[2]
