"""worker: compute runs in this process, polling the queue (the embedded mode's worker; `serve` starts one)."""

import os
import signal
import socket
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from interp_app.runs.worker import WorkerProcess


class Command(BaseCommand):
    """Runs until SIGTERM or Ctrl-C; then the run in hand is given back after its tile."""

    help = "Compute queued runs in this process."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        # A worker takes back what its name held, so two that run at once need two names.
        parser.add_argument("--name", default=f"local-{os.getpid()}@{socket.gethostname()}", help="one name a process")
        parser.add_argument("--end-with-parent", action="store_true", help="stop once the parent process is gone")

    def handle(self, *_: Any, **options: Any) -> None:
        worker = WorkerProcess(options["name"], end_with_parent=options["end_with_parent"])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        worker.start()
        try:
            worker.run_forever()
        finally:
            worker.close()
