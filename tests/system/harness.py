"""A lab of its own for the system tests: private Postgres and Redis, web and worker processes, killed by pid.

Everything listens on free ports of 127.0.0.1 and lives in one temporary folder. Tests talk to the lab as people do,
over HTTP, and look into the database with plain SQL; nothing of Django runs in the test's own process.
"""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg

from tests import tiny
from tests.deadlines import eventually

ROOT = Path(__file__).resolve().parents[2]
LEASE_SECONDS = 4.0
HEARTBEAT_SECONDS = 1.0
REAP_SECONDS = 1.0


def free_port() -> int:
    """A port nobody listens on now, below those the system lends to clients.

    A client that keeps trying a dead server on a lent port can be lent that very port, connect to itself, and so keep
    the server from coming back.
    """
    while True:
        port = random.randint(15_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


SET_UP = f"""
from django.core.management import call_command
from interp_app.core.models import Role, User
call_command("migrate", verbosity=0)
User.objects.create_user("ada", password="correct horse battery", role=Role.ADMIN)
call_command("register_model", "{tiny.ROOT_ALIAS}/{tiny.FOLDER}", slug="tiny", title="Tiny")
call_command("make_token", "ada")
"""
"""One process for all of it: starting Django four times takes longer than the work."""


class Process:
    """A process of the lab: started with a log file, ended by pid, its process group cleaned up at the end."""

    def __init__(
        self,
        name: str,
        command: list[str],
        env: Mapping[str, str],
        folder: Path,
        user: str | None = None,
        largest_file: int | None = None,
    ) -> None:
        """`largest_file` bytes: writing more to one file fails, as on a disk that is full."""
        self.name = name
        self.log = folder / f"{name}.log"

        def limit() -> None:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                command, env=dict(env), stdout=output, stderr=output, cwd=ROOT if user is None else folder,
                user=user, start_new_session=True, preexec_fn=limit,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        return self._popen.wait(seconds)

    def kill(self) -> None:
        """SIGKILL to this process alone; whatever it started has to notice by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._popen.wait(10)

    def kill_all(self) -> None:
        """SIGKILL to the process and all it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(10)

    def end(self, seconds: float = 15) -> None:
        """SIGTERM, and SIGKILL for the group if that is not enough."""
        if self.alive:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(seconds)
        self.kill_all()

    def pool_process(self) -> int:
        """Pid of a Celery worker's one pool process (its children but Python's trackers of shared memory)."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        (pool,) = [pid for pid in children if "_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()]
        return int(pool)

    def tail(self, characters: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-characters:]


class Postgres:
    """A private server that can be stopped and started again on the same port."""

    def __init__(self) -> None:
        # Not under pytest's own folder: that is closed to the user postgres, whom initdb asks for where we are root.
        self.folder = Path(tempfile.mkdtemp(prefix="patchbay-postgres-"))
        self.port = free_port()
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self.folder, self._user)
        subprocess.run(
            [_postgres_program("initdb"), "-D", self.folder / "data", "-A", "trust", "-U", "root", "-E", "UTF8",
             "--no-locale", "--no-sync"],
            user=self._user, cwd=self.folder, check=True, capture_output=True,
        )  # fmt: skip
        self.process: Process | None = None

    @property
    def url(self) -> str:
        return f"postgres://root@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), "fsync": "off"}
        settings = [item for name, value in options.items() for item in ("-c", f"{name}={value}")]
        command = [_postgres_program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *settings]
        self.process = Process("postgres", command, os.environ, self.folder, user=self._user)
        eventually(self._answers, seconds=30, what="Postgres answers")

    def stop(self) -> None:
        """An immediate shutdown: connections die in the middle of what they do."""
        assert self.process is not None
        self.process.send(signal.SIGQUIT)
        self.process.wait(15)

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.url, connect_timeout=2):
            return True
        return False


class Redis:
    """A private server without persistence."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.process: Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = Process("redis", command, os.environ, self._folder)
        eventually(lambda: _listens(self.port), seconds=10, what="Redis answers")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()


@dataclass
class Lab:
    """The whole service. Use `lab()`, which starts and ends it."""

    folder: Path
    postgres: Postgres
    redis: Redis
    port: int = field(default_factory=free_port)
    token: str = ""
    prompts: dict[str, Any] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    extra_env: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PATCHBAY_", "DJANGO_"))}
        return inherited | {
            "PATCHBAY_MODE": "services",
            "PATCHBAY_SECRET_KEY": "system-tests-" + "0123456789" * 5,
            "PATCHBAY_DATABASE_URL": self.postgres.url,
            "PATCHBAY_REDIS_URL": self.redis.url,
            "PATCHBAY_PUBLIC_URL": f"http://127.0.0.1:{self.port}",
            "PATCHBAY_DATA_DIR": str(self.folder / "data"),
            "PATCHBAY_MODEL_ROOTS": f"{tiny.ROOT_ALIAS}={self.folder / 'models'}",
            "PATCHBAY_RUN_LEASE_SECONDS": str(LEASE_SECONDS),
            "PATCHBAY_RUN_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
            "PATCHBAY_RUN_REAP_SECONDS": str(REAP_SECONDS),
            "PATCHBAY_RATE_USER": "100000/min",
            "PATCHBAY_RATE_EVENTS": "100000/min",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        } | self.extra_env  # fmt: skip

    def manage(self, *arguments: str, **env: str) -> str:
        """Run a management command; its output. Raises `AssertionError` with it where the command fails."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], env=self.env | env, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def start_web(self) -> Process:
        command = [
            sys.executable, "-m", "uvicorn", "interp_app.asgi:application", "--host", "127.0.0.1",
            "--port", str(self.port), "--lifespan", "off", "--timeout-graceful-shutdown", "3",
        ]  # fmt: skip
        web = self._start("web", command, PATCHBAY_DATABASE_POOL="8")
        eventually(lambda: self.answers("/healthz"), seconds=60, what="the web process answers")
        return web

    def start_worker(self, name: str = "w1", *, largest_file: int | None = None, **env: str) -> Process:
        worker = self._start(name, worker_command(name), largest_file=largest_file, **env)
        eventually(lambda: self.worker_online(name), seconds=90, what=f"worker {name} is online")
        return worker

    def start_workers(self, *names: str) -> dict[str, Process]:
        """Workers that start side by side, which takes as long as one where there are cores for it."""
        workers = {name: self._start(name, worker_command(name)) for name in names}
        eventually(lambda: all(map(self.worker_online, names)), seconds=120, what=f"workers {names} are online")
        return workers

    def holder(self, id_: str) -> str:
        """Name of the worker that computes the run."""
        ((name,),) = self.sql(
            "SELECT w.name FROM runs_worker w JOIN runs_run r ON r.worker_id = w.id WHERE r.id = %s", id_
        )
        return str(name).split("@")[0]

    def worker_online(self, name: str) -> bool:
        rows = self.sql("SELECT 1 FROM runs_worker WHERE name LIKE %s AND stopped_at IS NULL", f"{name}@%")
        return bool(rows)

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query, in a connection of its own."""
        with psycopg.connect(self.postgres.url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def answers(self, path: str) -> bool:
        try:
            return self.call("GET", path)[0] == 200
        except OSError:
            return False

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One HTTP request with the lab's token: status and parsed JSON (or the raw bytes)."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        data = None
        if body is not None:
            request.add_header("Content-Type", "application/json")
            data = json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data=data, timeout=40) as response:
                return response.status, _parsed(response)
        except urllib.error.HTTPError as error:
            return error.code, _parsed(error)

    def submit(self, **changes: Any) -> str:
        """Submit a run that takes some seconds on one core; its id. `params` are merged."""
        params = {"sites": ["resid_pre", "attn_out"], "dtype": "float64", "batch_rows": 1}
        body = {
            "method": "activation_patching",
            "model": "tiny",
            "prompts": self.prompts,
            "force": True,
            **changes,
            "params": params | changes.get("params", {}),
        }
        status, answer = self.call("POST", "/api/v1/runs/", body)
        assert status in (200, 201, 202), answer
        return str(answer["id"])

    def run(self, id_: str) -> dict[str, Any]:
        status, answer = self.call("GET", f"/api/v1/runs/{id_}/")
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    def wait_for(self, id_: str, *statuses: str, seconds: float = 60) -> dict[str, Any]:
        """The run once it is in one of these states."""

        def there() -> dict[str, Any] | None:
            run = self.run(id_)
            if run["status"] not in statuses and run["status"] in ("failed", "succeeded", "cancelled"):
                raise AssertionError(f"the run is {run['status']}: {run['failure']}")
            return run if run["status"] in statuses else None

        found = eventually(there, seconds=seconds, every=0.1, what=f"run {id_} is {statuses}")
        assert found is not None
        return found

    def wait_for_cells(self, id_: str, cells: int = 5, seconds: float = 60) -> None:
        """Until the run is computing and has stored some cells."""
        eventually(
            lambda: self.run(id_)["status"] == "running" and self.run(id_)["cells_done"] >= cells,
            seconds=seconds, what=f"run {id_} has {cells} cells",
        )  # fmt: skip

    def cells(self, id_: str) -> list[bytes]:
        """Every panel's values, as the bytes a download has."""
        status, answer = self.call("GET", f"/api/v1/runs/{id_}/panels/")
        assert status == 200, answer
        panels = []
        for panel in answer["panels"]:
            status, values = self.call("GET", f"/api/v1/runs/{id_}/panels/{panel['index']}.bin")
            assert status == 200, values
            panels.append(values)
        return panels

    def _start(self, name: str, command: list[str], *, largest_file: int | None = None, **env: str) -> Process:
        process = Process(name, command, self.env | env, self.folder, largest_file=largest_file)
        self.processes.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.processes):
            process.end()


@contextlib.contextmanager
def lab(folder: Path, **extra_env: str) -> Iterator[Lab]:
    """A lab with a migrated database, an account, the tiny model and a prompt set; web and Redis are up, no worker."""
    postgres, redis = Postgres(), Redis(folder)
    postgres.start()
    redis.start()
    try:
        tiny.make(folder / "models" / tiny.FOLDER, n_layer=6, n_embd=64, n_inner=256)
        with Lab(folder, postgres, redis, extra_env=extra_env) as found:
            found.token = found.manage("shell", "-v", "0", "-c", SET_UP).splitlines()[-1]
            found.start_web()
            found.prompts = add_prompts(found, 8)
            yield found
    finally:
        for server in (redis.process, postgres.process):
            if server is not None:
                server.end()
        shutil.rmtree(postgres.folder, ignore_errors=True)


def worker_command(name: str) -> list[str]:
    """How a lab starts a worker."""
    return [
        sys.executable, "-m", "celery", "-A", "interp_app.celery", "worker", "-P", "prefork", "-c", "1",
        "-Q", "gpu", "-n", f"{name}@%h", "--without-gossip", "--without-mingle", "--loglevel", "INFO",
    ]  # fmt: skip


def add_prompts(lab: Lab, count: int) -> dict[str, Any]:
    """A prompt set of `count` pairs; how a submission names it."""
    pairs = [pair.model_dump(mode="json") for pair in tiny.pairs(count)]
    body = {"title": f"{count} pairs", "pairs": pairs}
    status, answer = lab.call("POST", "/api/v1/prompt-sets/", body)
    assert status == 201, answer
    return {"id": answer["id"], "version": 1}


def _postgres_program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}")) or [shutil.which(name) or name]
    return str(found[-1])


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _parsed(response: Any) -> Any:
    data = response.read()
    if "json" in response.headers.get("Content-Type", ""):
        return json.loads(data)
    return data
