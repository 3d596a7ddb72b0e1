"""Is it alive, and can it serve? `/healthz` asks the process alone, `/readyz` also what it cannot work without."""

from collections.abc import Callable

from django.conf import settings
from django.db import Error, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe
from redis import Redis, RedisError


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """The process answers. Never touches the database, so a restart is only asked for when one helps."""
    del request
    return _uncached({"status": "ok"}, 200)


@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """Database (and Redis, in services mode) answer: 200, else 503 naming the one that does not. No further details."""
    del request
    checks: dict[str, Callable[[], bool]] = {"database": _database}
    if _redis_url():
        checks["redis"] = _redis
    found = {name: "ok" if check() else "unavailable" for name, check in checks.items()}
    ready = all(state == "ok" for state in found.values())
    return _uncached({"status": "ok" if ready else "unavailable", "checks": found}, 200 if ready else 503)


def _database() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            return bool(cursor.fetchone() == (1,))
    except Error:
        return False


def _redis_url() -> str:
    return str(getattr(settings, "REDIS_URL", ""))  # the embedded mode has none


def _redis() -> bool:
    client = Redis.from_url(_redis_url(), socket_timeout=2, socket_connect_timeout=2)
    try:
        return bool(client.ping())
    except RedisError:
        return False
    finally:
        client.close()


def _uncached(body: dict[str, object], status: int) -> JsonResponse:
    return JsonResponse(body, status=status, headers={"Cache-Control": "no-store"})
