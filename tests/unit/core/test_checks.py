"""System checks: each faulty setting is named with what to write instead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.test import override_settings

from interp_app.core.checks import check_settings

SERVICES = {
    "MODE": "services",
    "SECRET_KEY": "x" * 60,
    "PUBLIC_URL": "https://patchbay.example",
    "ALLOWED_HOSTS": ["patchbay.example"],
    "BROKER_URL": "redis://127.0.0.1/0",
}
ENV = {
    "PATCHBAY_MODE": "services",
    "PATCHBAY_SECRET_KEY": "0123456789abcdefghij" * 3,
    "PATCHBAY_DATABASE_URL": "postgres://patchbay@127.0.0.1/patchbay",
    "PATCHBAY_REDIS_URL": "redis://127.0.0.1/0",
    "PATCHBAY_PUBLIC_URL": "https://patchbay.example",
    "PATCHBAY_ALLOWED_HOSTS": "patchbay.example",
}


def ids(**settings) -> set[str]:
    with override_settings(**{**SERVICES, **settings}):
        return {str(message.id) for message in check_settings(None)}


def test_good_settings_have_no_complaint():
    assert ids() == set()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"RUN_LEASE_SECONDS": 5.0, "RUN_HEARTBEAT_SECONDS": 5.0}, "patchbay.E002"),
        ({"RUN_HEARTBEAT_SECONDS": 0.0}, "patchbay.E001"),
        ({"DEVICE": "gpu"}, "patchbay.E003"),
        ({"DATA_DIR": Path("/dev/null/data")}, "patchbay.E004"),
        ({"MODEL_ROOTS": {"lab": Path("/nowhere/models")}}, "patchbay.W001"),
        ({"BROKER_URL": "http://127.0.0.1"}, "patchbay.E006"),
        ({"PUBLIC_URL": "patchbay.example"}, "patchbay.E007"),
        ({"PUBLIC_URL": "https://other.example"}, "patchbay.E008"),
        ({"SECRET_KEY": "short"}, "patchbay.E009"),
    ],
)
def test_a_faulty_setting_is_found(settings, expected):
    assert ids(**settings) == {expected}


def manage(*arguments: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PATCHBAY_", "DJANGO_"))}
    env = {name: value for name, value in (inherited | ENV | changes).items() if value is not None}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments], env=env, capture_output=True, text=True, timeout=60
    )


def test_the_deployment_check_of_services_mode_is_clean():
    done = manage("check", "--deploy", "--fail-level", "WARNING")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["PATCHBAY_SECRET_KEY", "PATCHBAY_DATABASE_URL", "PATCHBAY_REDIS_URL"])
def test_a_missing_variable_is_named_with_how_to_set_it(name):
    done = manage("check", **{name: None})
    assert done.returncode != 0
    assert f"{name} is not set." in done.stderr


def test_an_unknown_mode_is_a_sentence():
    done = manage("check", PATCHBAY_MODE="production")
    assert "PATCHBAY_MODE is 'production'; it must be one of" in done.stderr


def test_the_web_process_and_the_celery_parent_never_load_torch():
    program = (
        "import sys, interp_app.asgi, interp_app.urls, interp_app.celery, interp_app.runs.tasks\n"
        "from django.urls import get_resolver; get_resolver().url_patterns\n"
        "import interp_app.runs.supervisor\n"
        "sys.exit('torch' in sys.modules)"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PATCHBAY_", "DJANGO_"))}
    done = subprocess.run([sys.executable, "-c", program], env=inherited | ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "torch was loaded"
