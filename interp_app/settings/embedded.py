"""One researcher's machine: SQLite, files on disk, one web process and one worker child, no broker."""

from interp_app.settings.base import *  # noqa: F403
from interp_app.settings.base import DATA_DIR, MIDDLEWARE, SQLITE_OPTIONS, env
from interp_app.settings.secret import local_secret_key

MODE = "embedded"
SECRET_KEY = local_secret_key(DATA_DIR / "secret-key")
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "patchbay.sqlite3",
        "OPTIONS": SQLITE_OPTIONS,
    }
}
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
STATIC_ROOT = None
WHITENOISE_USE_FINDERS = True
"""The browser's files are served from where they are built: one step less between a change and the page."""
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
FEED_POLL_SECONDS = env.float("PATCHBAY_FEED_POLL_SECONDS", default=0.25)
MIDDLEWARE = [
    *MIDDLEWARE[: MIDDLEWARE.index("django.contrib.auth.middleware.AuthenticationMiddleware") + 1],
    "interp_app.core.middleware.LocalAccountMiddleware",
    *MIDDLEWARE[MIDDLEWARE.index("django.contrib.auth.middleware.AuthenticationMiddleware") + 1 :],
]
