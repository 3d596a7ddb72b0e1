"""web: pages, API and sockets in this process (the embedded mode's server; `serve` starts one)."""

import os
import signal
import threading
import time
from typing import Any

import structlog
import uvicorn
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser


class Command(BaseCommand):
    """Never loads torch. Believes no forwarding header: in this mode there is no proxy."""

    help = "Serve pages, API and sockets."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--end-with-parent", action="store_true", help="stop once the parent process is gone")

    def handle(self, *_: Any, **options: Any) -> None:
        if options["end_with_parent"]:
            threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
        structlog.get_logger(__name__).info("web_started", mode=settings.MODE, port=options["port"])
        uvicorn.run(
            "interp_app.asgi:application",
            host=options["host"],
            port=options["port"],
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws_max_size=64 * 1024,
            ws_per_message_deflate=False,  # float32 noise hardly shrinks; compressing it for each viewer costs a core
            ws_ping_interval=20,
            ws_ping_timeout=60,  # a ping waits behind the window of data that a slow line is still taking in
            timeout_graceful_shutdown=5,
        )


def _end_with(parent: int) -> None:
    """SIGTERM to this process once `parent` is no longer its parent."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)
