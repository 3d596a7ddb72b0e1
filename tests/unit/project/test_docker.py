"""The lab service's files, held against the code they start: settings, entry points, health, containment."""

import os
import re
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands

from tests.unit.project import ROOT

DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
WORKERS = {name: service for name, service in OURS.items() if service["command"] == ["worker"]}
LONG_RUNNING = {name: service for name, service in SERVICES.items() if name != "migrate"}
ENTRYPOINT = (DOCKER / "entrypoint.sh").read_text()
SETTINGS = "".join(path.read_text() for path in (ROOT / "interp_app/settings").glob("*.py"))
OF_THE_SHELL = {"PATCHBAY_MODE", "PATCHBAY_PORT", "PATCHBAY_QUEUE", "PATCHBAY_WORKER"}
"""Read by interp_app/mode.py and by the entrypoint, not by settings."""


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s", text)[1])  # type: ignore[index]


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_one_that_something_reads(name: str) -> None:
    ours = {key for key in OURS[name]["environment"] if key.startswith("PATCHBAY_")}
    assert {key for key in ours - OF_THE_SHELL if f'"{key}"' not in SETTINGS} == set()


def test_what_services_mode_requires_is_given() -> None:
    required = set(re.findall(r'required\(\s*"(PATCHBAY_\w+)"', (ROOT / "interp_app/settings/services.py").read_text()))
    assert {"PATCHBAY_SECRET_KEY", "PATCHBAY_DATABASE_URL", "PATCHBAY_REDIS_URL"} <= required
    for service in OURS.values():
        assert required <= set(service["environment"])


def test_the_example_settings_are_those_that_compose_reads() -> None:
    example = set(re.findall(r"^([A-Z_]+)=", (DOCKER / "env.example").read_text(), re.M))
    used = set(re.findall(r"\$\{([A-Z_]+)", (DOCKER / "compose.yml").read_text()))
    assert example == used


def test_no_secret_has_a_default() -> None:
    text = (DOCKER / "compose.yml").read_text()
    for secret in ("PATCHBAY_SECRET_KEY", "POSTGRES_PASSWORD"):
        assert re.search(rf"\$\{{{secret}:\?", text)
        assert not re.search(rf"\$\{{{secret}(:?-|\}})", text)


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_a_role_of_the_entrypoint(name: str) -> None:
    [role] = OURS[name]["command"]
    assert re.search(rf"^{role}\)$", ENTRYPOINT, re.M)


def test_the_entrypoint_starts_programs_that_exist() -> None:
    scripts = {point.name for point in entry_points(group="console_scripts")}
    started = set(re.findall(r"^ +exec (\w+)", ENTRYPOINT, re.M))
    assert started == {"uvicorn", "celery", "python"}
    assert started - {"python"} <= scripts


def test_the_entrypoint_names_importable_applications() -> None:
    modules = set(re.findall(r"interp_app[\w.]*", ENTRYPOINT))
    assert modules == {"interp_app.asgi", "interp_app.celery"}
    for module in modules:
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


def test_the_management_commands_in_the_texts_exist() -> None:
    texts = (DOCKER / "env.example").read_text() + (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:manage\.py|web manage) ([a-z_]+)", texts))
    assert named
    assert named <= set(get_commands())


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_every_service_has_a_health_check_and_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert seconds(service["stop_grace_period"]) >= 10


@pytest.mark.parametrize("name", OURS)
def test_ours_wait_until_what_they_need_is_healthy(name: str) -> None:
    needed = OURS[name]["depends_on"]
    assert needed["postgres"]["condition"] == "service_healthy"
    if name != "migrate":
        assert needed["redis"]["condition"] == "service_healthy"
        assert needed["migrate"]["condition"] == "service_completed_successfully"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    tag = SERVICES[name]["image"].split(":")[1]
    assert re.match(r"\d+\.\d+", tag)


def test_base_images_are_pinned_to_a_patch_release() -> None:
    bases = re.findall(r"^FROM (\S+)", (DOCKER / "Dockerfile").read_text(), re.M)
    assert bases
    for base in bases:
        assert re.search(r":\d+\.\d+\.\d+-", base), base


@pytest.mark.parametrize("name", OURS)
def test_ours_run_contained(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["volumes"][1].endswith(":ro")


def test_the_image_runs_as_an_ordinary_user() -> None:
    assert re.findall(r"^USER (\d+)$", (DOCKER / "Dockerfile").read_text(), re.M) == ["10001"]


def test_only_the_web_process_can_be_reached_from_outside() -> None:
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["web"]
    assert [name for name, service in SERVICES.items() if "outside" in service["networks"]] == ["web"]


def test_a_worker_has_time_to_put_its_run_back() -> None:
    assert len(WORKERS) == 2
    for service in WORKERS.values():
        assert seconds(service["stop_grace_period"]) >= 30


def test_workers_have_names_that_last() -> None:
    names = [service["hostname"] for service in WORKERS.values()]
    assert len(set(names)) == len(names)


def test_a_gpu_worker_has_one_gpu_by_number() -> None:
    [device] = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert len(device["device_ids"]) == 1
    assert device["capabilities"] == ["gpu"]
    assert "count" not in device


def test_there_is_one_clock() -> None:
    assert [name for name, service in OURS.items() if service["command"] == ["beat"]] == ["beat"]
    assert "replicas" not in str(SERVICES["beat"])


def test_redis_keeps_what_it_was_told_and_throws_nothing_away() -> None:
    command = shlex.join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_the_image_gets_what_the_program_reads() -> None:
    copied = set(re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Dockerfile").read_text(), re.M))
    sources = {source.rstrip("/") for line in copied for source in line.split()}
    assert {"manage.py", "tracing", "interp_app", "templates", "docker/entrypoint.sh"} <= sources
    for source in sources:
        assert (ROOT / source).exists(), source


@pytest.mark.parametrize("port", ["1", "none"])
def test_a_web_container_that_does_not_answer_is_unhealthy(port: str) -> None:
    check = [sys.executable, str(DOCKER / "healthcheck.py"), "web"]
    done = subprocess.run(check, env={**os.environ, "PATCHBAY_PORT": port}, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0


def test_the_schema_of_compose_is_kept() -> None:
    check = Path(sys.executable).parent / "check-jsonschema"
    subprocess.run([check, "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yml"], check=True, timeout=60)
