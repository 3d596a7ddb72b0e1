"""A lab's service: Postgres, Redis, Celery workers, any number of web processes behind TLS."""

from interp_app.settings.base import *  # noqa: F403
from interp_app.settings.base import PUBLIC_URL, env

MODE = "services"
SECRET_KEY = env.str("PATCHBAY_SECRET_KEY")
DATABASES = {
    "default": {
        **env.db_url("PATCHBAY_DATABASE_URL"),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }
}
REDIS_URL = env.str("PATCHBAY_REDIS_URL")
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
