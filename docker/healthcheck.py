"""Health of one container: `healthcheck.py web | worker | beat`. Exit status 0 means healthy.

web: /readyz answers 200. worker: it answers a ping over the broker, also while it computes. beat: the process is there
and the broker takes its ticks.
"""

import http.client
import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit


def web() -> bool:
    """True when this container's web process can serve: the database and Redis answer it."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("PATCHBAY_PORT", "8000")), timeout=5)
    # The proxy in front speaks TLS; without this header the answer would be a redirect to https.
    connection.request("GET", "/readyz", headers={"Host": "localhost", "X-Forwarded-Proto": "https"})
    return connection.getresponse().status == 200


def worker() -> bool:
    """True when this container's Celery worker answers over the broker, also while it computes."""
    name = f"{os.environ.get('PATCHBAY_WORKER', 'worker')}@{socket.gethostname()}"
    ping = ["celery", "-A", "interp_app.celery", "inspect", "ping", "--destination", name, "--timeout", "10"]
    return subprocess.run(ping, stdout=subprocess.DEVNULL, check=False).returncode == 0


def beat() -> bool:
    """True when a clock runs in this container and the broker answers."""
    commands = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline"))
    running = any(b"celery" in command and b"\0beat\0" in command for command in commands)
    broker = urlsplit(os.environ["PATCHBAY_REDIS_URL"])
    with socket.create_connection((broker.hostname, broker.port or 6379), timeout=5):
        return running


if __name__ == "__main__":
    try:
        healthy = {"web": web, "worker": worker, "beat": beat}[sys.argv[1]]()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"unhealthy: {error}")
    sys.exit(0 if healthy else "unhealthy")
