"""The Celery app of services mode. It carries wake-ups to worker processes; the queue itself is in the database.

celery -A interp_app.celery worker -P prefork -c 1 -Q gpu -n gpu0@%h
celery -A interp_app.celery beat
"""

from celery import Celery
from django.conf import settings

from interp_app.mode import configure
from interp_app.runs.wake import QUEUE, WORK_TASK

configure()

app = Celery("patchbay")
app.conf.update(
    broker_url=settings.BROKER_URL or "memory://",
    broker_transport_options={
        "socket_timeout": 5,  # a broker that hangs must not hang a request
        "socket_connect_timeout": 2,
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0.1,
    },
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    imports=("interp_app.runs.tasks",),
    task_default_queue=QUEUE,
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    worker_pool_start_method="spawn",
    worker_prefetch_multiplier=1,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    worker_proc_alive_timeout=120,
    # A nudge now and then, for queues that were filled while the broker was away. The plain scheduler keeps no file.
    beat_scheduler="celery.beat:Scheduler",
    beat_schedule={
        "nudge": {
            "task": WORK_TASK,
            "schedule": settings.RUN_REAP_SECONDS,
            "options": {"queue": QUEUE, "expires": settings.RUN_REAP_SECONDS},
        }
    },
)
