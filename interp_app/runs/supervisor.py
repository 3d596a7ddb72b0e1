"""The parent of embedded mode: one web process and one worker process, ended together, the worker started again.

1. The web process ending ends everything. 2. A worker that dies is started again, after a pause that doubles while it
keeps dying young. 3. SIGTERM or Ctrl-C is passed on; who has not ended after `GRACE_SECONDS` is killed. The parent
loads neither torch nor the database.
"""

import errno
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

GRACE_SECONDS: Final = 9.0
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
YOUNG_SECONDS: Final = 10.0
TICK_SECONDS: Final = 0.1


class Supervisor:
    """Runs `manage.py web` and `manage.py worker` until told to stop."""

    def __init__(self, manage: Path, *, host: str, port: int) -> None:
        child = [sys.executable, str(manage)]
        self._web_command = [*child, "web", "--host", host, "--port", str(port), "--end-with-parent"]
        self._worker_command = [*child, "worker", "--end-with-parent", "--name", f"local@{socket.gethostname()}"]
        self._stop = threading.Event()
        self._children: list[subprocess.Popen[bytes]] = []

    def stop(self) -> None:
        """Ask for the end. Safe in a signal handler."""
        self._stop.set()

    def run(self, ready: Callable[[], None], address: tuple[str, int]) -> int:
        """Start both, call `ready` once `address` answers, and stay until the end; the exit status."""
        web = self._start(self._web_command)
        worker = self._start(self._worker_command)
        started = time.monotonic()
        pause = FIRST_PAUSE_SECONDS
        again_at: float | None = None
        announced = False
        try:
            while not self._stop.wait(TICK_SECONDS):
                if not announced and answers(*address):
                    ready()
                    announced = True
                if web.poll() is not None:
                    log.error("web_ended", status=web.returncode)
                    return 1
                now = time.monotonic()
                if again_at is None and worker.poll() is not None:
                    pause = min(pause * 2, LONGEST_PAUSE_SECONDS) if _young(started) else FIRST_PAUSE_SECONDS
                    log.warning("worker_ended", status=worker.returncode, again_in_seconds=pause)
                    again_at = now + pause
                elif again_at is not None and now >= again_at:
                    worker = self._start(self._worker_command)
                    started, again_at = now, None
            return 0
        finally:
            self._end_all()

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        # A session of its own, so that Ctrl-C reaches the children once, from here, and not from the terminal too.
        child = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own manage.py
        self._children = [one for one in self._children if one.poll() is None] + [child]
        return child

    def _end_all(self) -> None:
        alive = [child for child in self._children if child.poll() is None]
        for child in alive:
            child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for child in alive:
            try:
                child.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("killed", pid=child.pid)
                child.kill()
                child.wait()


def answers(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((_reachable(host), port), timeout=0.5):
            return True
    except OSError:
        return False


def port_problem(host: str, port: int) -> str:
    """Why the port cannot be had, as a sentence; empty where it can."""
    if not 0 < port < 65536:
        return f"{port} is no port: choose one from 1024 to 65535."
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except PermissionError:
        return f"Port {port} needs administrator rights. Choose one above 1023: manage.py serve --port 8000"
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"Port {port} is taken. Choose another (make up PORT={port + 1}), or stop what listens on it."
        return f"Cannot listen on {host}:{port}: {error.strerror}."
    return ""


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - names what to connect to


def _young(started: float) -> bool:
    return time.monotonic() - started < YOUNG_SECONDS
