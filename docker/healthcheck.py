"""Health of one container: `healthcheck.py web` asks /readyz, `healthcheck.py worker` asks the worker to answer.

Exit status 0 means healthy. Only the standard library, except for the ping, which is Celery's.
"""

import http.client
import os
import socket
import subprocess
import sys


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


if __name__ == "__main__":
    try:
        healthy = {"web": web, "worker": worker}[sys.argv[1]]()
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"unhealthy: {error}")
    sys.exit(0 if healthy else "unhealthy")
