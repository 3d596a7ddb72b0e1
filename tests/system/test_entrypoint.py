"""The lab service as its containers start it: the image's entry point and health checks, on private servers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.deadlines import eventually

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / ".ci"))

import local_services  # noqa: E402

pytestmark = pytest.mark.system
STOP_SECONDS = 15


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What compose.yml gives a container, with servers of our own behind it."""
    with ExitStack() as stack:
        postgres = stack.enter_context(local_services.private_postgres())
        redis = stack.enter_context(local_services.private_redis())
        kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        yield kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PATCHBAY_MODE": "services",
            "PATCHBAY_SECRET_KEY": "for-this-test-only-" + "0123456789abcdef" * 4,
            "PATCHBAY_DATABASE_URL": postgres,
            "PATCHBAY_REDIS_URL": redis,
            "PATCHBAY_PUBLIC_URL": "https://patchbay.example",
            "PATCHBAY_ALLOWED_HOSTS": "patchbay.example,localhost",
            "PATCHBAY_DATA_DIR": str(tmp_path_factory.mktemp("data")),
            "PATCHBAY_PORT": str(local_services.free_port()),
            "PATCHBAY_DEVICE": "cpu",
        }


@pytest.fixture(scope="module")
def migrated(environment: dict[str, str]) -> dict[str, str]:
    subprocess.run(["docker/entrypoint.sh", "migrate"], cwd=ROOT, env=environment, check=True, timeout=60)
    return environment


@pytest.fixture
def start(migrated: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start a role as a container would; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[bytes]] = []

    def go(role: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{role}.log").open("wb") as log:
            process = subprocess.Popen(
                ["docker/entrypoint.sh", role], cwd=ROOT, env=migrated, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)
        return process

    yield go
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def healthy(role: str, environment: dict[str, str]) -> bool:
    check = [sys.executable, "docker/healthcheck.py", role]
    return subprocess.run(check, cwd=ROOT, env=environment, capture_output=True, timeout=60).returncode == 0


@pytest.mark.parametrize("role", ["web", "worker", "beat"])
def test_a_role_becomes_healthy_and_ends_on_sigterm(
    role: str, migrated: dict[str, str], start: Callable[[str], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    assert not healthy(role, migrated)
    process = start(role)
    eventually(lambda: healthy(role, migrated) or process.poll() is not None, seconds=60)
    assert process.poll() is None, (tmp_path / f"{role}.log").read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_SECONDS) in (0, -signal.SIGTERM)


def test_web_sends_plain_http_to_https_and_speaks_through_the_proxy(
    migrated: dict[str, str], start: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    start("web")
    eventually(lambda: healthy("web", migrated), seconds=60)

    def status(**headers: str) -> int:
        connection = HTTPConnection("127.0.0.1", int(migrated["PATCHBAY_PORT"]), timeout=10)
        connection.request("GET", "/api/v1/runs/", headers={"Host": "patchbay.example", **headers})
        return connection.getresponse().status

    assert status() == 301
    assert status(**{"X-Forwarded-Proto": "https"}) == 200
    assert status(Host="evil.example") == 400


def test_services_mode_refuses_to_start_without_a_secret(environment: dict[str, str]) -> None:
    without = {name: value for name, value in environment.items() if name != "PATCHBAY_SECRET_KEY"}
    done = subprocess.run(
        ["docker/entrypoint.sh", "manage", "check"], cwd=ROOT, env=without, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "PATCHBAY_SECRET_KEY" in done.stderr
