"""How many queries each page of the API costs, whatever the number of rows: held by `query_counts.json`.

A change that costs more (or fewer) queries fails here. If it is meant, delete the file's line and run the test once
with PATCHBAY_WRITE_QUERY_COUNTS=1.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.runs.models import Run, Status, Tag
from tests.api.worlds import add_result, finished_run
from tests.factories import RunFactory, WorkerFactory

BASELINE = Path(__file__).with_name("query_counts.json")
ADDRESSES = (
    "/api/v1/runs/",
    "/api/v1/runs/?status=failed&q=run&tag=odd&owner=me",
    "/api/v1/runs/{run}/",
    "/api/v1/runs/{queued}/",
    "/api/v1/runs/{run}/events/",
    "/api/v1/runs/{run}/panels/",
    "/api/v1/runs/{run}/panels/0.bin",
    "/api/v1/runs/{run}/artifacts/",
    "/api/v1/runs/{run}/results/",
    "/api/v1/runs/{run}/results/heads/",
    "/api/v1/runs/{run}/results/heads.csv",
    "/api/v1/runs/{run}/notebook/",
    "/api/v1/queue/",
    "/api/v1/workers/",
    "/api/v1/models/",
    "/api/v1/prompt-sets/",
    "/api/v1/prompt-sets/{prompts}/",
    "/api/v1/methods/",
    "/api/v1/me/",
    "/api/v1/tokens/",
    "/metrics",
)


def populate(rows: int, member: User, colleague: User, model: ModelSource, prompts: PromptSetVersion) -> dict[str, Any]:
    """`rows` of each thing; runs of every status, half of them reused, each with two tags."""
    tags = [Tag.objects.get_or_create(name=name)[0] for name in ("odd", "even")]
    run = finished_run(member, model, prompts)
    add_result(run)
    queued = RunFactory(owner=member, model=model, prompts=prompts)
    for n in range(rows):
        owner = member if n % 2 else colleague
        for status in Status.values:
            one = RunFactory(owner=owner, status=status, model=model, prompts=prompts, failure_code="x" * (n % 2))
            one.tags.set(tags)
        Run.objects.filter(pk=one.pk).update(status=Status.SUCCEEDED, reused_from=run)
        busy = WorkerFactory(models_available=[model.slug])
        RunFactory(owner=owner, status=Status.RUNNING, model=model, prompts=prompts, worker=busy)
    return {"run": run.pk, "queued": queued.pk, "prompts": prompts.prompt_set_id}


def measure(api: APIClient, ids: dict[str, Any]) -> dict[str, int]:
    counts = {}
    for address in ADDRESSES:
        with CaptureQueriesContext(connection) as queries:
            response = api.get(address.format(**ids))
        assert response.status_code == 200, (address, response.content)
        counts[address] = len(queries)
    return counts


def test_queries_do_not_grow_with_rows_and_equal_the_baseline(
    api: APIClient, member: User, colleague: User, model: ModelSource, prompts: PromptSetVersion
) -> None:
    few = measure(api, populate(2, member, colleague, model, prompts))
    many = measure(api, populate(12, member, colleague, model, prompts))
    assert many == few
    if os.environ.get("PATCHBAY_WRITE_QUERY_COUNTS"):
        BASELINE.write_text(json.dumps(many, indent=2) + "\n")
    assert many == json.loads(BASELINE.read_text())


@pytest.mark.parametrize("address", ["/api/v1/runs/", "/api/v1/runs/?status=queued"])
def test_lists_never_read_specs_and_provenance(api: APIClient, prompts: PromptSetVersion, address: str) -> None:
    RunFactory(prompts=prompts)
    with CaptureQueriesContext(connection) as queries:
        api.get(address)
    text = " ".join(query["sql"] for query in queries)
    for column in ('"runs_run"."spec"', '"runs_run"."provenance"', '"pairs"', '"config"', '"password"'):
        # the session's own user is read in full
        assert column not in text.replace('"core_user"."password", "core_user"."last_login"', ""), column
