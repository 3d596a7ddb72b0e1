"""The supervisor of embedded mode, with small programs in the place of web and worker."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from interp_app.runs import supervisor as module
from interp_app.runs.supervisor import Supervisor
from tests.deadlines import eventually

STAYS = "import time; time.sleep(60)"


class Ends:
    """A supervisor in a thread, and the exit status it came to."""

    def __init__(self, tmp_path: Path, *, web: str, worker: str) -> None:
        self.supervisor = Supervisor(tmp_path / "manage.py", host="127.0.0.1", port=9)
        self.supervisor._web_command = [sys.executable, "-c", web]
        self.supervisor._worker_command = [sys.executable, "-c", worker]
        self.status: int | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def worker_died(self) -> bool:
        return [child.poll() for child in self.supervisor._children[1:]] == [3]

    def _run(self) -> None:
        self.status = self.supervisor.run(lambda: None, ("127.0.0.1", 9))


@pytest.fixture
def run(tmp_path: Path) -> Iterator:
    started: list[Ends] = []

    def go(**programs: str) -> Ends:
        started.append(Ends(tmp_path, **programs))
        return started[-1]

    yield go
    for one in started:
        one.supervisor.stop()
        one.thread.join(20)


def test_a_web_process_that_dies_while_the_worker_waits_to_start_again_ends_everything(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 300.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 300.0)
    gone = tmp_path / "gone"
    web = f"import pathlib, time\nwhile not pathlib.Path({str(gone)!r}).exists(): time.sleep(0.02)"
    ends = run(web=web, worker="raise SystemExit(3)")
    eventually(ends.worker_died, seconds=20, what="the worker has died")
    gone.touch()
    ends.thread.join(20)
    assert ends.status == 1


def test_a_worker_that_dies_is_started_again(run, tmp_path):
    starts = tmp_path / "starts"
    worker = f"open({str(starts)!r}, 'a').write('x')"
    run(web=STAYS, worker=worker)
    eventually(lambda: starts.exists() and len(starts.read_text()) >= 2, seconds=20)


def test_a_stop_does_not_wait_for_the_pause(run, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 300.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 300.0)
    ends = run(web=STAYS, worker="raise SystemExit(3)")
    eventually(ends.worker_died, seconds=20, what="the worker has died")
    started = time.monotonic()
    ends.supervisor.stop()
    ends.thread.join(20)
    assert ends.status == 0
    assert time.monotonic() - started < 10
