"""`manage.py serve`: one command, two processes, a clean end, and a worker that comes back."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deadlines import eventually
from tests.system.harness import ROOT, Process, free_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(240)]


def environment(data: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PATCHBAY_", "DJANGO_"))}
    return inherited | {"PATCHBAY_MODE": "embedded", "PATCHBAY_DATA_DIR": str(data), "PYTHONWARNINGS": "ignore"}


def manage(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments], env=env, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A data folder as `make up` leaves it before it serves, and what setting up said."""
    data = tmp_path_factory.mktemp("embedded") / "var"
    migrated = manage(environment(data), "migrate", "--verbosity", "0")
    assert migrated.returncode == 0, migrated.stderr
    done = manage(environment(data), "setup_demo", "--first-run")
    assert done.returncode == 0, done.stderr
    return data, done.stdout


@pytest.fixture
def env(prepared: tuple[Path, str], tmp_path: Path) -> dict[str, str]:
    """Settings of an installation of its own: a copy of the prepared one."""
    shutil.copytree(prepared[0], tmp_path / "var")
    return environment(tmp_path / "var")


@pytest.fixture
def served(env: dict[str, str], tmp_path: Path) -> Iterator[tuple[Process, int]]:
    port = free_port()
    process = Process("serve", [sys.executable, "manage.py", "serve", "--port", str(port)], env, tmp_path)
    try:
        eventually(lambda: f"http://localhost:{port}" in process.tail(), seconds=60, what="serve prints its address")
        yield process, port
    finally:
        process.end()


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
        return response.read().decode()


def children(process: Process) -> dict[str, int]:
    """Pids of the supervisor's children by their command."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") for pid in pids}
    return {name: int(pid) for pid, words in commands.items() for name in ("web", "worker") if name in words}


def first_run_succeeded(port: int) -> bool:
    return '"status":"succeeded"' in get(port, "/api/v1/runs/")


def test_serve_computes_the_first_experiment_for_a_browser_that_never_signed_in(served):
    _, port = served
    eventually(lambda: first_run_succeeded(port), seconds=90, what="the first experiment has succeeded")


def test_a_killed_worker_is_started_again_and_the_run_ends(served):
    process, port = served
    eventually(lambda: "run_claimed" in process.tail(20_000), seconds=60, what="the worker has claimed a run")
    first = children(process)["worker"]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: children(process).get("worker") not in (None, first), seconds=30, what="another worker")
    eventually(lambda: first_run_succeeded(port), seconds=90, what="the first experiment has succeeded")
    assert "worker_ended" in process.tail(20_000)


def test_sigterm_ends_web_and_worker_within_ten_seconds(served):
    process, _ = served
    pids = children(process)
    started = time.monotonic()
    process.send(signal.SIGTERM)
    status = process.wait(20)
    assert status == 0
    assert time.monotonic() - started < 11
    assert not [pid for pid in pids.values() if Path(f"/proc/{pid}").exists()]


def test_a_supervisor_that_is_killed_leaves_no_process_behind(served):
    process, _ = served
    pids = children(process)
    eventually(lambda: "worker_started" in process.tail(20_000), seconds=60, what="the worker has started")
    process.kill()
    try:
        for name, pid in pids.items():
            eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists(), seconds=20, what=f"{name} has ended")
    finally:
        for pid in pids.values():
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)


def test_a_taken_port_is_a_sentence_that_says_what_to_do(env):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = manage(env, "serve", "--port", str(port))
    assert answer.returncode == 1
    assert re.search(rf"Port {port} is taken\. Choose another", answer.stderr)


def test_setting_up_twice_changes_nothing(env, prepared):
    again = manage(env, "setup_demo", "--first-run")
    assert "Submitted" in prepared[1]
    assert "Submitted" not in again.stdout
    assert again.returncode == 0
