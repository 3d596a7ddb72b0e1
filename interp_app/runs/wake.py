"""Wake-ups: a nudge that something is queued. They carry nothing, may be lost and may come twice; the rows decide.

Services mode sends a Celery message after commit; a broker that is down costs a log line, never the request: the row
stays queued and the next nudge (a heartbeat of any worker, or beat) finds it. Embedded workers poll instead.
"""

import structlog
from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError as BrokerError

log = structlog.get_logger(__name__)

WORK_TASK = "runs.work"
QUEUE = "gpu"
NUDGE_EXPIRES_SECONDS = 60


def wake_workers() -> None:
    """Nudge the workers once the current transaction is committed (at once outside of one)."""
    if settings.BROKER_URL:
        transaction.on_commit(publish, robust=True)


def publish() -> None:
    """Send one nudge now. Never raises for a broker that does not answer."""
    from interp_app.celery import app  # the Celery app needs settings, which may import late

    try:
        app.send_task(WORK_TASK, queue=QUEUE, expires=NUDGE_EXPIRES_SECONDS, retry=False, ignore_result=True)
    except (BrokerError, OSError) as error:
        log.warning("wake_failed", error=type(error).__name__)
