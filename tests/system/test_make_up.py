"""`make up`, as a newcomer runs it: an address, a finished first experiment, a clean end, and again in seconds."""

import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deadlines import eventually

ROOT = Path(__file__).resolve().parents[2]
END_SECONDS = 12

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


class Up:
    """One `make up` in a process group of its own, like a terminal's foreground job."""

    def __init__(self, data: Path, port: int) -> None:
        self.port, self.log = port, data.parent / f"up-{port}.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PATCHBAY", "DJANGO"))}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                ["make", "up", f"PORT={port}", f"PATCHBAY_DATA_DIR={data}"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def printed(self, text: str) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return text in self.log.read_text()

    def runs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/api/v1/runs/")["results"]
        return found

    def press_ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(END_SECONDS)

    def processes(self) -> set[int]:
        """Ids of what `make up` started and what that started."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        parents = {int(pid): int(parent) for pid, parent in re.findall(r"(\d+)\s+(\d+)", listed)}
        family = {self.process.pid}
        while grown := {pid for pid, parent in parents.items() if parent in family} - family:
            family |= grown
        return family


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[[], Up]]:
    started: list[Up] = []

    def go() -> Up:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        started.append(Up(tmp_path / "data", port))
        return started[-1]

    yield go
    for one in started:
        for pid in one.processes() if one.process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_make_up_serves_runs_the_first_experiment_once_and_ends_cleanly(up: Callable[[], Up]) -> None:
    first = up()
    eventually(lambda: first.printed(f"http://localhost:{first.port}"), seconds=90)
    eventually(lambda: [run for run in first.runs() if run["status"] == "succeeded"], seconds=60)
    [run] = first.runs()
    assert run["title"].startswith("First experiment")
    assert run["cells_done"] == run["cells_total"] > 0
    family = first.processes()
    assert len(family) >= 4, "make, the supervisor, the web process and the worker"
    first.press_ctrl_c()
    assert first.process.returncode in (0, 2, 130, -signal.SIGINT)
    assert "Traceback" not in first.log.read_text()
    eventually(lambda: not [pid for pid in family if alive(pid)], seconds=2)

    second = up()
    eventually(lambda: second.printed(f"http://localhost:{second.port}"), seconds=60)
    assert [run["id"] for run in second.runs()] == [run["id"]]
    assert "Installing" not in second.log.read_text()
    second.press_ctrl_c()


def test_make_up_on_a_taken_port_says_so_and_starts_nothing(up: Callable[[], Up]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(["make", "up", f"PORT={port}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert f"patchbay: Port {port} is taken" in done.stderr
