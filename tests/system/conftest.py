"""The lab is started once a session; each test brings its own workers and leaves none behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import harness


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Lab]:
    """Postgres, Redis and a web process, without a worker."""
    with harness.lab(tmp_path_factory.mktemp("lab")) as found:
        yield found


@pytest.fixture
def lab(shared_lab: harness.Lab) -> Iterator[harness.Lab]:
    """The session's lab with an empty queue; the test's own processes end with it."""
    before = list(shared_lab.processes)
    yield shared_lab
    for process in [one for one in shared_lab.processes if one not in before]:
        process.kill_all()
        shared_lab.processes.remove(process)
    shared_lab.sql(
        "UPDATE runs_run SET status='cancelled', finished_at=now(), lease_until=NULL"
        " WHERE status IN ('queued', 'running')"
    )
    shared_lab.sql("UPDATE runs_worker SET stopped_at = now()")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
