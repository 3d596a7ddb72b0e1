"""serve: everything one researcher needs, in one command: web and worker under one supervisor."""

import signal
import sys
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from interp_app.runs.supervisor import Supervisor, port_problem


class Command(BaseCommand):
    """Ends with Ctrl-C or SIGTERM."""

    help = "Serve Patchbay on this machine: web and worker together (embedded mode)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)

    def handle(self, *_: Any, **options: Any) -> None:
        host, port = options["host"], options["port"]
        if settings.MODE != "embedded":
            raise CommandError(
                f"serve is for embedded mode, and PATCHBAY_MODE is {settings.MODE}. "
                "Start uvicorn and celery as the README's part on the lab service says."
            )
        problem = port_problem(host, port)
        if problem:
            raise CommandError(problem)
        structlog.get_logger(__name__).info("serve_started", mode=settings.MODE)
        supervisor = Supervisor(Path(settings.BASE_DIR) / "manage.py", host=host, port=port)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.stop())
        shown = "localhost" if host in ("127.0.0.1", "::1", "0.0.0.0") else host  # noqa: S104 - compared, not bound

        def ready() -> None:
            self.stdout.write(f"Patchbay is ready: http://{shown}:{port}  (Ctrl-C ends it)")
            self.stdout.flush()

        sys.exit(supervisor.run(ready, (host, port)))
