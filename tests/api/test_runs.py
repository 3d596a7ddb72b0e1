"""Runs over HTTP: submit, preview, filter, change, cancel, resume; and what bad input is told."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.runs.api.serializers import RunDetailSerializer, SlimRunSerializer
from interp_app.runs.models import Run, Status, Tag
from interp_app.runs.shapes import slim_run
from tests.api.conftest import ClientFor
from tests.api.worlds import finished_run
from tests.factories import PromptSetVersionFactory, RunFactory, UserFactory, WorkerFactory

RUNS = "/api/v1/runs/"
PREVIEW = "/api/v1/runs/preview/"
Problem = Callable[[Any, int, str], dict[str, Any]]


@pytest.fixture
def body(model: ModelSource, prompts: PromptSetVersion) -> dict[str, Any]:
    return {
        "method": "activation_patching",
        "params": {"sites": ["resid_pre"]},
        "model": "tiny",
        "prompts": {"id": str(prompts.prompt_set_id), "version": 1},
    }


def test_a_submitted_run_is_queued_with_its_defaults_filled_in(api: APIClient, body: dict[str, Any]) -> None:
    response = api.post(RUNS, {**body, "title": "First", "tags": ["Look", "look "], "visibility": "private"})
    run = response.json()
    assert response.status_code == 201
    assert response["Location"] == f"/api/v1/runs/{run['id']}/"
    assert (run["status"], run["title"], run["tags"], run["visibility"]) == ("queued", "First", ["look"], "private")
    assert run["spec"]["direction"] == "denoising"
    assert run["cells_total"] == 3 * 13
    assert run["queue"]["position"] == 1
    assert "No worker is online" in run["queue"]["reason"]
    assert run["can"] == {"edit": True, "cancel": True, "resume": False}
    assert api.get(response["Location"]).json() == run


def test_the_answers_have_exactly_the_fields_the_schema_names(api: APIClient, body: dict[str, Any]) -> None:
    run = api.post(RUNS, body).json()
    assert set(run) == set(RunDetailSerializer().fields)
    assert set(api.get(RUNS).json()["results"][0]) == set(SlimRunSerializer().fields)


def test_an_identical_run_is_answered_from_the_first_unless_forced(
    api: APIClient, body: dict[str, Any], member: User
) -> None:
    first = api.post(RUNS, body).json()
    Run.objects.filter(pk=first["id"]).update(status=Status.SUCCEEDED, finished_at=timezone.now(), summary={"best": 1})
    Run.objects.filter(pk=first["id"]).update(provenance={"device": "cuda", "device_name": "A GPU"})
    offer = api.post(PREVIEW, body).json()
    assert (offer["reuse"], offer["reuse_device"]) == (first["id"], "A GPU")
    again = api.post(RUNS, body).json()
    assert (again["status"], again["reused_from"], again["summary"]) == ("succeeded", first["id"], {"best": 1})
    forced = api.post(RUNS, {**body, "force": True}).json()
    assert (forced["status"], forced["reused_from"]) == ("queued", None)


def test_a_clone_knows_its_origin(api: APIClient, body: dict[str, Any], problem: Problem) -> None:
    first = api.post(RUNS, body).json()
    assert api.post(RUNS, {**body, "cloned_from": first["id"]}).json()["cloned_from"] == first["id"]


def test_a_preview_tells_cost_time_and_place(api: APIClient, body: dict[str, Any]) -> None:
    found = api.post(PREVIEW, body).json()
    assert (found["cells"], found["seconds"], found["calibrated"], found["reuse"]) == (39, None, False, None)
    assert found["reuse_device"] is None
    assert 0 < found["flops"] < found["naive_flops"]
    assert found["queue"]["position"] == 1
    WorkerFactory(models_available=["tiny"], flops_per_second=found["flops"] / 2)
    found = api.post(PREVIEW, body).json()
    assert (found["seconds"], found["calibrated"]) == (pytest.approx(2.0), True)
    assert Run.objects.count() == 0


def bad(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, **changes}


@pytest.mark.parametrize("address", [RUNS, PREVIEW])
@pytest.mark.parametrize(
    ("change", "code", "field", "remedy"),
    [
        (bad(method="mind_reading"), "spec_invalid", "method", "Known methods: activation_patching"),
        (bad(params={"sites": ["resid_pst"]}), "spec_invalid", "params.sites", "Correct"),
        (bad(params={"sites": []}), "spec_invalid", "params.sites", "Correct"),
        (bad(params={"sites": ["resid_pre"], "over": "layer_head"}), "spec_invalid", "params", "Correct"),
        (bad(params={"metric": "loss"}), "spec_invalid", "params.metric", "Correct"),
        (bad(params={"steps": 3}), "spec_invalid", "params.steps", "Correct"),
        (bad(params={"batch_rows": 0}), "spec_invalid", "params.batch_rows", "Correct"),
        (bad(params=[1]), "invalid", "params", "Correct"),
        (bad(model="gpt-5"), "model_unknown", "model", "/api/v1/models/"),
        (bad(model="../etc"), "invalid", "model", "Correct"),
        (bad(prompts={"id": "01890a5d-ac96-774b-bcce-b302099a8057"}), "prompts_unknown", "prompts", "prompt-sets"),
        (bad(prompts={"id": "x"}), "invalid", "prompts.id", "Correct"),
        (bad(prompts=None), "invalid", "prompts", "Correct"),
        (bad(visibility="secret"), "invalid", "visibility", "Correct"),
        (bad(tags=["x" * 41]), "invalid", "tags.0", "Correct"),
    ],
)
def test_bad_input_is_named_with_a_remedy(
    api: APIClient,
    body: dict[str, Any],
    address: str,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    code: str,
    field: str,
    remedy: str,
    problem: Problem,
) -> None:
    found = problem(api.post(address, change(body)), 400, code)
    assert field in found["fields"], found
    assert all(found["fields"][field])
    assert remedy in found["remedy"]
    assert Run.objects.count() == 0


@pytest.mark.parametrize(
    ("pair", "sentence", "remedy"),
    [
        ({"corrupted": "John gave a drink"}, "clean has 5 tokens, corrupted has 4", "same number of tokens"),
        ({"clean": "  "}, "the clean prompt is empty", "Write a prompt"),
        ({"answer": ["Mary John"]}, "is 2 tokens", "one token"),
        ({"answer": []}, "there is no answer", "Give the token"),
        ({"clean": "John gave a drink to"}, "the same tokens", "Change at least one token"),
        ({"clean": "Mary " * 65, "corrupted": "John " * 65}, "has 65 tokens, the model reads at most 64", "Shorten it"),
    ],
)
def test_prompts_that_do_not_fit_the_model_are_told_pair_by_pair(
    api: APIClient,
    body: dict[str, Any],
    member: User,
    pair: dict[str, Any],
    sentence: str,
    remedy: str,
    problem: Problem,
) -> None:
    good = {"clean": "Mary gave a drink to", "corrupted": "John gave a drink to", "answer": ["Mary"], "foil": []}
    version = PromptSetVersionFactory(prompt_set__owner=member, pairs=[{**good, "label": "", **pair}])
    body["prompts"] = {"id": str(version.prompt_set_id)}
    found = problem(api.post(RUNS, body), 400, "prompt_invalid")
    assert sentence in found["fields"]["prompts"][0]
    assert "Pair 1" in found["detail"]
    assert remedy in found["remedy"]
    assert Run.objects.count() == 0


def test_a_version_that_does_not_exist_is_named(api: APIClient, body: dict[str, Any], problem: Problem) -> None:
    body["prompts"]["version"] = 7
    assert "version 7" in problem(api.post(RUNS, body), 400, "prompts_unknown")["detail"]


def test_prompts_of_others_that_are_private_do_not_exist(
    api: APIClient, body: dict[str, Any], colleague: User, problem: Problem
) -> None:
    hidden = PromptSetVersionFactory(prompt_set__owner=colleague, prompt_set__visibility="private")
    body["prompts"] = {"id": str(hidden.prompt_set_id)}
    problem(api.post(RUNS, body), 400, "prompts_unknown")


def test_over_the_quota_says_what_to_do(api: APIClient, body: dict[str, Any], settings: Any, problem: Problem) -> None:
    settings.QUOTA_QUEUED_RUNS = 1
    assert api.post(RUNS, body).status_code == 201
    found = problem(api.post(RUNS, body), 429, "quota_queued")
    assert "limit is 1" in found["detail"]
    assert found["remedy"]


def test_a_queued_run_is_cancelled_resumed_and_not_cancelled_twice(
    api: APIClient, body: dict[str, Any], problem: Problem
) -> None:
    address = f"{RUNS}{api.post(RUNS, body).json()['id']}/"
    problem(api.post(f"{address}resume/"), 409, "state_conflict")
    assert api.post(f"{address}cancel/").json()["status"] == "cancelled"
    problem(api.post(f"{address}cancel/"), 409, "state_conflict")
    resumed = api.post(f"{address}resume/").json()
    assert (resumed["status"], resumed["can"]["cancel"]) == ("queued", True)


def test_a_running_run_is_cancelling_until_its_worker_stops(api: APIClient, member: User) -> None:
    run = RunFactory(owner=member, status=Status.RUNNING)
    found = api.post(f"{RUNS}{run.pk}/cancel/").json()
    assert (found["status"], found["cancelling"]) == ("running", True)


def test_a_run_is_filed_anew(api: APIClient, body: dict[str, Any], problem: Problem) -> None:
    address = f"{RUNS}{api.post(RUNS, body).json()['id']}/"
    change = {"title": "Better", "tags": ["b", "a"], "visibility": "public", "archived": True}
    found = api.patch(address, change).json()
    assert {name: found[name] for name in change} == {**change, "tags": ["a", "b"]}
    assert "status" in problem(api.patch(address, {"status": "succeeded"}), 400, "invalid")["fields"]
    assert api.get(RUNS).json()["results"] == []
    assert len(api.get(RUNS, {"archived": "true"}).json()["results"]) == 1


def test_a_failure_says_why(api: APIClient, member: User) -> None:
    failure = {"code": "out_of_memory", "text": "No room.", "detail": {"bytes": 1}}
    RunFactory(
        owner=member,
        status=Status.FAILED,
        **{f"failure_{name}": value for name, value in failure.items()},
    )
    assert api.get(RUNS).json()["results"][0]["failure"] == failure


def test_every_filter_narrows_the_history(
    api: APIClient, member: User, colleague: User, model: ModelSource, prompts: PromptSetVersion
) -> None:
    now = timezone.now()
    wanted = RunFactory(owner=colleague, model=model, prompts=prompts, title="Needle", status=Status.FAILED)
    wanted.tags.add(Tag.objects.create(name="odd"))
    other = RunFactory(owner=member, title="Hay")
    Run.objects.filter(pk=other.pk).update(created_at=now - timedelta(days=2), method="attribution_patching")

    def found(**query: Any) -> set[str]:
        return {row["id"] for row in api.get(RUNS, query).json()["results"]}

    needle, hay = str(wanted.pk), str(other.pk)
    assert found() == {needle, hay}
    for query in (
        {"q": "eedl"},
        {"q": "gets the drink"},
        {"status": "failed"},
        {"model": "tiny"},
        {"prompts": str(prompts.prompt_set_id)},
        {"method": "activation_patching"},
        {"tag": "odd"},
        {"owner": "grace"},
        {"owner": str(colleague.public_id)},
        {"since": (now - timedelta(days=1)).isoformat()},
        {"status": "failed", "tag": "odd", "owner": "grace"},
    ):
        assert found(**query) == {needle}, query
    for query in ({"owner": "me"}, {"until": (now - timedelta(days=1)).isoformat()}, {"status": "queued"}):
        assert found(**query) == {hay}, query
    for query in ({"q": "100%"}, {"tag": "even"}, {"model": "none"}, {"owner": "nobody"}, {"prompts": "no-slug"}):
        assert found(**query) == set(), query


def test_a_visitor_has_no_runs_of_their_own(client_for: ClientFor, member: User) -> None:
    RunFactory(owner=member, visibility="public")
    assert client_for(None).get(RUNS, {"owner": "me"}).json()["results"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"status": "done"}, "status"),
        ({"since": "yesterday"}, "since"),
        ({"archived": "maybe"}, "archived"),
        ({"ordering": "title"}, "ordering"),
        ({"q": "x" * 201}, "q"),
        ({"model": "a b"}, "model"),
    ],
)
def test_a_filter_that_makes_no_sense_is_named(
    api: APIClient, query: dict[str, str], field: str, problem: Problem
) -> None:
    assert field in problem(api.get(RUNS, query), 400, "invalid")["fields"]


def test_a_reused_run_shows_the_results_of_its_source(
    api: APIClient, member: User, model: ModelSource, prompts: PromptSetVersion
) -> None:
    source = finished_run(member, model, prompts)
    reused = RunFactory(owner=member, model=model, prompts=prompts, status=Status.SUCCEEDED, reused_from=source)
    for part in ("panels/", "panels/0.bin", "panels/0.csv", "events/"):
        one, other = (api.get(f"{RUNS}{run.pk}/{part}") for run in (source, reused))
        if part == "events/":
            assert one.json()["events"] == other.json()["events"]
        else:
            assert one.content == other.content, part
    detail = api.get(f"{RUNS}{reused.pk}/").json()
    assert [one["name"] for one in detail["artifacts"]] == ["resid_pre.safetensors"]
    assert b"".join(api.get(detail["artifacts"][0]["url"]).streaming_content)[:4] == bytes(range(4))
    assert detail["last_seq"] == source.last_seq


def test_methods_come_with_the_schema_of_their_parameters(api: APIClient, problem: Problem) -> None:
    listed = api.get("/api/v1/methods/").json()["results"]
    one = api.get("/api/v1/methods/activation_patching/").json()
    assert one in listed
    assert one["schema"]["properties"]["sites"]["title"] == "Sites"
    problem(api.get("/api/v1/methods/mind-reading/"), 404, "not_found")


def test_workers_are_listed_with_what_they_can_do(api: APIClient) -> None:
    WorkerFactory(name="b", models_available=["tiny"])
    WorkerFactory(name="a", heartbeat_at=timezone.now() - timedelta(hours=1))
    found = api.get("/api/v1/workers/").json()["results"]
    assert [(row["name"], row["online"], row["models_available"]) for row in found] == [
        ("b", True, ["tiny"]),
        ("a", False, []),
    ]


def test_a_run_looks_the_same_from_its_row_and_from_its_instance(
    api: APIClient, member: User, model: ModelSource, prompts: PromptSetVersion
) -> None:
    source = finished_run(member, model, prompts)
    reused = RunFactory(owner=member, status=Status.SUCCEEDED, reused_from=source, archived_at=None)
    reused.tags.set([Tag.objects.create(name=name) for name in ("b", "a")])
    failed = RunFactory(status=Status.FAILED, failure_code="x", owner=UserFactory(first_name="Ada", last_name="L"))
    rows = {row["id"]: row for row in api.get(RUNS).json()["results"]}
    for run in (source, reused, failed):
        assert rows[str(run.pk)] == slim_run(Run.objects.get(pk=run.pk), member)
