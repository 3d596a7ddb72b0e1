"""The Celery tasks: messages without arguments, since the database knows what there is to do.

`task` is the only way to declare one; it carries the lab's policy. Early acknowledgement: a message that is lost costs
nothing (the next nudge finds the row), one that came twice finds nothing. No results, no retries, no canvas.
"""

from collections.abc import Callable
from typing import Any

from interp_app.celery import app
from interp_app.runs import claims, pool
from interp_app.runs.wake import WORK_TASK


def task(name: str) -> Callable[[Callable[[], None]], Any]:
    """Declare a task under the lab's policy."""
    return app.task(name=name, ignore_result=True, acks_late=False, max_retries=0, serializer="json")


@task(WORK_TASK)
def work() -> None:
    """Requeue what was lost, then claim and execute until the queue has nothing for this worker."""
    claims.reap()
    pool.worker().work_until_empty()
