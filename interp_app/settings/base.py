"""Settings shared by every mode. All environment variables are read here, each under the prefix PATCHBAY_."""

from pathlib import Path
from typing import Any

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from interp_app.core.logs import logging_config

BASE_DIR = Path(__file__).resolve().parents[2]
env = environ.Env()


def required(name: str, how: str) -> str:
    """The value of a variable that has no default. Raises `ImproperlyConfigured` that says `how` to set it."""
    value: str = env.str(name, default="").strip()
    if not value:
        raise ImproperlyConfigured(f"{name} is not set. {how}")
    return value


DATA_DIR = Path(env.str("PATCHBAY_DATA_DIR", default=str(BASE_DIR / "var"))).resolve()
PUBLIC_URL = env.str("PATCHBAY_PUBLIC_URL", default="http://localhost:8000")
DEBUG = False
LOG_LEVEL = env.str("PATCHBAY_LOG_LEVEL", default="INFO").upper()
LOGGING = logging_config(as_json=False, level=LOG_LEVEL)
ALLOWED_HOSTS: list[str] = env.list("PATCHBAY_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])

# -- what runs are computed on ------------------------------------------------------------------------------------
MODEL_ROOTS: dict[str, Path] = {
    "builtin": BASE_DIR / "tracing" / "demo",
    **{alias: Path(path) for alias, path in env.dict("PATCHBAY_MODEL_ROOTS", default={}).items()},
}
"""Alias → folder. A model's location is `<alias>/<folder>`; nothing outside these roots is ever opened."""
ARTIFACTS_DIR = Path(env.str("PATCHBAY_ARTIFACTS_DIR", default=str(DATA_DIR / "artifacts")))
RUN_LEASE_SECONDS = env.float("PATCHBAY_RUN_LEASE_SECONDS", default=30.0)
RUN_HEARTBEAT_SECONDS = env.float("PATCHBAY_RUN_HEARTBEAT_SECONDS", default=5.0)
RUN_MAX_LOSSES = env.int("PATCHBAY_RUN_MAX_LOSSES", default=3)
FEED_POLL_SECONDS = env.float("PATCHBAY_FEED_POLL_SECONDS", default=2.0)
"""How long a live page waits for news at most, should no bell ring. Embedded mode has no bells and looks more often."""
RUN_REAP_SECONDS = env.float("PATCHBAY_RUN_REAP_SECONDS", default=10.0)
WEB_REAPS = True
"""Whether the web process looks for lost runs too, since the last worker may be gone. Off where tests import it."""
MODEL_CACHE_BYTES = env.int("PATCHBAY_MODEL_CACHE_BYTES", default=4 * 2**30)
MAX_RUN_BYTES = env.int("PATCHBAY_MAX_RUN_BYTES", default=8 * 2**30)
"""A run that would keep more than this in a worker's memory, beside the model, is refused before it is queued."""
DEVICE = env.str("PATCHBAY_DEVICE", default="auto")
BROKER_URL = ""
"""Set in services mode: where wake-ups go. Empty: workers poll the queue."""
QUOTA_QUEUED_RUNS = env.int("PATCHBAY_QUOTA_QUEUED_RUNS", default=50)
QUOTA_RUNNING_RUNS = env.int("PATCHBAY_QUOTA_RUNNING_RUNS", default=2)

# -- SQLite, where a mode uses it: writers queue up (IMMEDIATE) and readers never wait for them (WAL) ------------------
SQLITE_OPTIONS: dict[str, Any] = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA busy_timeout=20000; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}

# -- Django ---------------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "channels",
    "csp",
    "django_vite",
    "drf_spectacular",
    "rest_framework",
    "interp_app.core",
    "interp_app.catalog",
    "interp_app.runs",
    "interp_app.web",
]
MIDDLEWARE = [
    "interp_app.core.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "interp_app.core.middleware.PlainQueryMiddleware",
    "interp_app.core.bodies.BodyLimitMiddleware",
]
ROOT_URLCONF = "interp_app.urls"
ASGI_APPLICATION = "interp_app.asgi.application"
AUTH_USER_MODEL = "core.User"
CSRF_FAILURE_VIEW = "interp_app.web.views.errors.csrf_failure"
LOGIN_URL = "web:login"
LOGIN_REDIRECT_URL = "web:start"
LOGOUT_REDIRECT_URL = "web:start"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "interp_app.web.context.page",
            ],
        },
    },
]
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
DATA_UPLOAD_MAX_MEMORY_SIZE = 6 * 2**20
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2000
FILE_UPLOAD_HANDLERS = [
    "interp_app.core.bodies.LimitUploads",
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]

# -- files of the browser -------------------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATIC_ROOT: Path | None = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "frontend" / "dist"]
DJANGO_VITE = {"default": {"dev_mode": False, "manifest_path": BASE_DIR / "frontend" / "dist" / "manifest.json"}}
WHITENOISE_IMMUTABLE_FILE_TEST = r"^/static/assets/.+-[\w-]{8}(\.[0-9a-f]{12})?\.\w+$"
"""Files whose names hold a hash of their content: browsers may keep them for ever."""
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

# -- API --------------------------------------------------------------------------------------------------------------
REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["rest_framework.authentication.SessionAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticatedOrReadOnly"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "interp_app.core.problems.handle",
    "UNAUTHENTICATED_USER": "django.contrib.auth.models.AnonymousUser",
}
"""Defaults for views of others; the API's own views stand on `interp_app.core.api.ApiView`, which names its classes."""
API_RATES: dict[str, str | None] = {
    "anon": env.str("PATCHBAY_RATE_ANON", default="60/min"),
    "user": env.str("PATCHBAY_RATE_USER", default="600/min"),
    "events": env.str("PATCHBAY_RATE_EVENTS", default="1200/min"),
}
METRICS_ALLOWED: list[str] = env.list("PATCHBAY_METRICS_ALLOWED", default=["127.0.0.0/8", "::1/128"])
"""Networks that may read /metrics over a direct connection; administrators always may."""
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Patchbay",
    "VERSION": "1.0.0",
    "DESCRIPTION": (
        "Models, prompt sets and runs of a lab. Sign in with a session (send the CSRF cookie as X-CSRFToken) or with "
        "`Authorization: Bearer pbt_<key>.<secret>`. Errors are `application/problem+json`; what one may not see is "
        "404. Lists are pages of {next, previous, results}."
    ),
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "interp_app.core.openapi.finish"],
}

# -- security ----------------------------------------------------------------------------------------------------------
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:", "blob:"],
        "object-src": [NONE],
        "base-uri": [SELF],
        "frame-ancestors": [NONE],
        "form-action": [SELF],
    }
}
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
