"""The test suite: a real Postgres, a fast password hasher, files in a temporary folder.

PATCHBAY_TEST_DATABASE_URL names the server (default: the local one, trust authentication).
"""

import tempfile
from pathlib import Path

from interp_app.settings.base import *  # noqa: F403
from interp_app.settings.base import env

MODE = "test"
SECRET_KEY = "only-for-tests-" + "0123456789abcdef" * 3  # noqa: S105
DATABASES = {"default": env.db_url("PATCHBAY_TEST_DATABASE_URL", default="postgres://root@127.0.0.1:5432/postgres")}
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
ARTIFACTS_DIR = Path(tempfile.mkdtemp(prefix="patchbay-test-artifacts-"))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
API_RATES = {"anon": None, "user": None, "events": None}
