"""A lab's service: Postgres, Redis, Celery workers, any number of web processes behind TLS."""

from interp_app.core.logs import logging_config
from interp_app.settings.base import *  # noqa: F403
from interp_app.settings.base import LOG_LEVEL, PUBLIC_URL, env, required

MODE = "services"
LOGGING = logging_config(as_json=True, level=LOG_LEVEL)
SECRET_KEY = required("PATCHBAY_SECRET_KEY", 'Make one: python -c "import secrets; print(secrets.token_urlsafe(60))"')
required("PATCHBAY_DATABASE_URL", "Write postgres://user:password@host:5432/name.")
DATABASES = {"default": env.db_url("PATCHBAY_DATABASE_URL")}
DATABASE_POOL = env.int("PATCHBAY_DATABASE_POOL", default=0)
"""Connections a process keeps open to lend to its threads; for web processes. 0: one a thread, as workers want."""
if DATABASE_POOL:
    DATABASES["default"].setdefault("OPTIONS", {})["pool"] = {"min_size": 1, "max_size": DATABASE_POOL, "timeout": 10}
REDIS_URL = required("PATCHBAY_REDIS_URL", "Write redis://host:6379/0.")
BROKER_URL = REDIS_URL
CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [REDIS_URL]}}
}
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
if PUBLIC_URL.startswith("https://"):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = True
    SECURE_HSTS_SECONDS = 31_536_000
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
