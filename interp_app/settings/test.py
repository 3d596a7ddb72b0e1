"""The test suite: a real Postgres, a fast password hasher, files in a temporary folder.

PATCHBAY_TEST_DATABASE_URL names the server (default: the local one, trust authentication). A sqlite:/// URL runs the
tests that both databases share on SQLite, as embedded mode uses it.
"""

import tempfile
from pathlib import Path

from interp_app.settings.base import *  # noqa: F403
from interp_app.settings.base import SQLITE_OPTIONS, env

MODE = "test"
SECRET_KEY = "only-for-tests-" + "0123456789abcdef" * 3
DATABASES = {"default": env.db_url("PATCHBAY_TEST_DATABASE_URL", default="postgres://root@127.0.0.1:5432/postgres")}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, because threads share it: a test database in memory would give each connection its own.
    DATABASES["default"] |= {"OPTIONS": SQLITE_OPTIONS, "TEST": {"NAME": DATABASES["default"]["NAME"] + ".test"}}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ARTIFACTS_DIR = Path(tempfile.mkdtemp(prefix="patchbay-test-artifacts-"))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
API_RATES = {"anon": None, "user": None, "events": None}
WEB_REAPS = False
