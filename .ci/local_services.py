"""Postgres, Redis and Chromium for the tests: the ones that answer here, else private ones that end with the tests.

Nothing is asked of the machine but the programs themselves. Root on Debian or Ubuntu installs the missing ones;
everybody else reads which command would.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

START_SECONDS = 30.0
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_BROWSERS = (
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
)


class Missing(Exception):
    """A program is not there; the text says how to install it."""


def find_chromium() -> str | None:
    """Path of a Chromium: PATCHBAY_CHROMIUM, else one on the PATH, else one in the macOS applications."""
    named = os.environ.get("PATCHBAY_CHROMIUM")
    if named:
        return named if Path(named).exists() else None
    on_path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    return on_path or next((str(path) for path in MAC_BROWSERS if path.exists()), None)


def postgres_program(name: str) -> str | None:
    """Path of a Postgres server program; Debian keeps them off the PATH, one folder a version."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]), reverse=True
    )
    brew = sorted(Path("/opt/homebrew/opt").glob(f"postgresql*/bin/{name}"), reverse=True)
    return next((str(path) for path in [*debian, *brew]), None) or shutil.which(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def missing_programs() -> list[str]:
    """Debian package names of what is not installed."""
    wanted = {
        "postgresql": postgres_program("initdb") is None and usable_postgres() is None,
        "redis-server": shutil.which("redis-server") is None and not redis_answers(6379),
        "chromium": find_chromium() is None,
    }
    return [package for package, absent in wanted.items() if absent]


def install_missing() -> None:
    """Install what is missing where we may; else raise `Missing` with the command to run."""
    packages = missing_programs()
    if not packages:
        return
    names = " ".join(packages)
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0:
        print(f"Installing {names} …", flush=True)
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([apt, "update", "-qq"], env=quiet, stdin=subprocess.DEVNULL, check=False)
        subprocess.run(
            [apt, "install", "-y", "-qq", "--no-install-recommends", *packages],
            env=quiet,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        packages = missing_programs()
        if not packages:
            return
        raise Missing(
            f"Installing {' '.join(packages)} did not work (see above). Install it, then run the tests again."
        )
    if apt:
        raise Missing(
            f"The tests need {names}. Install with: sudo apt-get install {names}\n"
            "(on Ubuntu chromium is a snap; Google Chrome works too, or name one with PATCHBAY_CHROMIUM=/path)"
        )
    if sys.platform == "darwin":
        brew = names.replace("postgresql", "postgresql@17").replace("redis-server", "redis")
        raise Missing(f"The tests need {names}. Install with: brew install {brew}")
    raise Missing(f"The tests need these programs: {names}. Install them with your package manager.")


def usable_postgres() -> str | None:
    """URL of a server on 127.0.0.1:5432 that lets us in without a password and make databases, if there is one."""
    for user in dict.fromkeys((getpass.getuser(), "root", "postgres")):
        url = f"postgres://{user}@127.0.0.1:5432/postgres"
        with contextlib.suppress(psycopg.Error), psycopg.connect(url, connect_timeout=2) as connection:
            may_create = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
            row = connection.execute(may_create).fetchone()
            if row and row[0]:
                return url
    return None


def redis_answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")
    return False


def wait_until(ready: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise Missing(f"{what} did not start:\n{tail}")
        time.sleep(0.1)


@contextlib.contextmanager
def stopping(process: subprocess.Popen[bytes], seconds: float = 10) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def private_postgres() -> Iterator[str]:
    """A server of our own in a temporary folder; as user postgres where we are root, which initdb refuses."""
    initdb, server = postgres_program("initdb"), postgres_program("postgres")
    if initdb is None or server is None:
        raise Missing("Postgres is not installed.")
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="patchbay-postgres-", ignore_cleanup_errors=True) as folder:
        if user:
            shutil.chown(folder, user)
        data, log, port = Path(folder) / "data", Path(folder) / "log", free_port()
        subprocess.run(
            [initdb, "-D", data, "-A", "trust", "-U", "root", "-E", "UTF8", "--no-locale", "--no-sync"],
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off"}
        arguments = [item for name, value in options.items() for item in ("-c", f"{name}={value}")]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [server, "-D", data, "-p", str(port), *arguments], user=user, cwd=folder, stdout=output, stderr=output
            )
        url = f"postgres://root@127.0.0.1:{port}/postgres"

        def ready() -> bool:
            with contextlib.suppress(psycopg.Error), psycopg.connect(url, connect_timeout=2):
                return True
            return False

        with stopping(process):
            wait_until(ready, "Postgres", process, log)
            yield url


@contextlib.contextmanager
def private_redis() -> Iterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("redis-server is not installed.")
    with tempfile.TemporaryDirectory(prefix="patchbay-redis-", ignore_cleanup_errors=True) as folder:
        port, log = free_port(), Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
                stdout=output,
                stderr=output,
            )
        with stopping(process):
            wait_until(lambda: redis_answers(port), "Redis", process, log)
            yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def services() -> Iterator[dict[str, str]]:
    """Environment variables that point the tests at Postgres, Redis and Chromium, while the block lasts."""
    install_missing()
    with contextlib.ExitStack() as stack:
        postgres = os.environ.get("PATCHBAY_TEST_DATABASE_URL")
        if not postgres:
            server = usable_postgres() or stack.enter_context(private_postgres())
            # A name of our own, so that two test runs on one machine do not share a database.
            postgres = server.removesuffix("postgres") + f"patchbay_{os.getpid()}"
        redis = os.environ.get("PATCHBAY_TEST_REDIS_URL") or ("redis://127.0.0.1:6379/0" if redis_answers(6379) else "")
        if not redis:
            redis = stack.enter_context(private_redis())
        yield {
            "PATCHBAY_TEST_DATABASE_URL": postgres,
            "PATCHBAY_TEST_REDIS_URL": redis,
            "PATCHBAY_CHROMIUM": find_chromium() or "",
        }
