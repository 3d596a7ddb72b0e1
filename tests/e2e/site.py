"""A Patchbay of its own for the browser tests: the embedded server with the demo model, on a free port.

Tests see it as a person does: through Chromium, and through the API with the browser's own session. Nothing of Django
runs in the test's process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from playwright.sync_api import APIRequestContext, APIResponse

from tests.deadlines import eventually
from tests.system.harness import ROOT, Process, free_port

START_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Site:
    """Where the server is, and its process."""

    url: str
    folder: Path
    process: Process


@contextmanager
def running_site(folder: Path) -> Iterator[Site]:
    """Set up the demo as `make up` does and serve it; everything ends with the block."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PATCHBAY_", "DJANGO_"))}
    env = inherited | {"PATCHBAY_MODE": "embedded", "PATCHBAY_DATA_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    manage = [sys.executable, str(ROOT / "manage.py")]
    for command in (["migrate", "--verbosity", "0"], ["setup_demo"]):
        subprocess.run([*manage, *command], env=env, cwd=ROOT, check=True, capture_output=True)
    process = Process("serve", [*manage, "serve", "--port", str(port)], env, folder)
    site = Site(f"http://127.0.0.1:{port}", folder, process)
    try:
        eventually(lambda: _online(site), seconds=START_SECONDS, every=0.2, what=f"a worker at {site.url}")
        yield site
    finally:
        process.end()


def _online(site: Site) -> bool:
    if not site.process.alive:
        raise AssertionError(f"The server ended: {site.process.tail()}")
    try:
        with urlopen(f"{site.url}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Api:
    """The API as the browser's own account: its cookies, its CSRF token."""

    def __init__(self, site: Site, request: APIRequestContext) -> None:
        self._root = f"{site.url}/api/v1/"
        self._request = request
        request.get(f"{site.url}/")  # signs in and sets the token's cookie

    def get(self, path: str) -> Any:
        return self._checked(self._request.get(self._root + path))

    def bytes(self, path: str) -> bytes:
        answer = self._request.get(self._root + path)
        assert answer.ok, answer.text()
        return answer.body()

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._checked(
            self._request.post(self._root + path, data=json.dumps(body or {}), headers=self._headers())
        )

    def submit(
        self,
        prompts: str = "ioi",
        *,
        title: str,
        method: str = "activation_patching",
        force: bool = True,
        settings: dict[str, Any] | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """Queue a run on the demo model and the built-in prompt set of that slug.

        Parameters of the method are named, or in `settings` where their names are taken here.
        """
        found = next(one for one in self.get("prompt-sets/?limit=100")["results"] if one["slug"] == prompts)
        body = {
            "method": method,
            "params": {**params, **(settings or {})},
            "model": "demo",
            "prompts": {"id": found["id"], "version": found["version"]},
            "title": title,
            "force": force,
        }
        run: dict[str, Any] = self.post("runs/", body)
        return run

    def run(self, id_: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"runs/{id_}/")
        return found

    def until(self, id_: str, *statuses: str, seconds: float = 60) -> dict[str, Any]:
        """The run once it is in one of these states."""

        def reached() -> dict[str, Any] | None:
            run = self.run(id_)
            return run if run["status"] in statuses else None

        found = eventually(reached, seconds=seconds, every=0.1, what=f"run {id_} in {statuses}")
        assert found is not None
        return found

    def _headers(self) -> dict[str, str]:
        cookies = {one["name"]: one["value"] for one in self._request.storage_state()["cookies"]}
        return {"Content-Type": "application/json", "X-CSRFToken": cookies["csrftoken"]}

    @staticmethod
    def _checked(answer: APIResponse) -> Any:
        assert answer.ok, f"{answer.status} {answer.text()}"
        return answer.json()
