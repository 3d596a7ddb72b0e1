"""Claims, the event log and concurrent claimers on SQLite too, as embedded mode runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


SHARED = [str(HERE / name) for name in ("test_claims.py", "test_events.py", "test_concurrency.py", "test_queue.py")]


@pytest.mark.timeout(240)
def test_the_same_claims_hold_on_sqlite(tmp_path: Path):
    env = {**os.environ, "PATCHBAY_TEST_DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3"}
    env.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *SHARED],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
