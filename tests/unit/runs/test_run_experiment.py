"""run_experiment: files in, a run followed to its end, results and a notebook out; every fault is a sentence."""

import io
import json
import threading
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from interp_app.catalog.models import PromptSet
from interp_app.runs.models import Run, Status, Worker
from interp_app.runs.worker import WorkerProcess
from tracing import experiments, results
from tracing.experiments import registry
from tracing.experiments.notebook import code_of
from tracing.results import Grid


def called(*arguments: str) -> str:
    output = io.StringIO()
    call_command("run_experiment", *arguments, stdout=output)
    return output.getvalue()


def spec_file(folder: Path, **changes) -> str:
    body = {"method": "activation_patching", "model": "tiny", "prompts": "drinks", **changes}
    path = folder / "spec.json"
    path.write_text(json.dumps({name: value for name, value in body.items() if value is not None}))
    return str(path)


@pytest.fixture
def drinks(prompts):
    PromptSet.objects.filter(pk=prompts.prompt_set_id).update(slug="drinks")
    return prompts


@pytest.mark.django_db(transaction=True)
def test_an_experiment_runs_through_the_queue_to_its_end(tiny_model, drinks, member, tmp_path):
    worker = WorkerProcess("cli", leave=lambda _: None)

    def work() -> None:
        try:
            worker.run_forever()
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        said = called(spec_file(tmp_path), "--user", member.username)
        again = called(spec_file(tmp_path, prompts={"slug": "drinks"}), "--user", member.username, "--wait")
    finally:
        worker.stop()
        thread.join(20)
        worker.close()
    run = Run.objects.get(reused_from=None)
    assert f"run {run.pk}" in said
    assert "Activation patching on" in said
    assert "39 cells" in said
    assert "39/39 cells" in said
    assert "succeeded" in said
    assert f"(answered from {run.pk})" in again
    assert "39/39 cells" in again


@pytest.mark.django_db(transaction=True)
def test_here_computes_without_a_worker_and_writes_everything(tiny_model, drinks, member, tmp_path):
    out = tmp_path / "out"
    said = called(spec_file(tmp_path, title="From a file"), "--user", member.username, "--here", "--out", str(out))
    run = Run.objects.get()
    assert (run.status, run.title) == (Status.SUCCEEDED, "From a file")
    assert "39/39 cells" in said
    names = {path.name for path in out.iterdir()}
    assert {"resid_pre.json", "resid_pre.safetensors", "resid_pre.csv", "notebook.ipynb", "run.json"} == names
    found = results.from_files(out / "resid_pre")
    assert isinstance(found, Grid)
    assert found.to_csv() == (out / "resid_pre.csv").read_text()
    compile(code_of(json.loads((out / "notebook.ipynb").read_text())), "notebook", "exec")
    assert json.loads((out / "run.json").read_text())["id"] == str(run.pk)
    assert Worker.objects.get().stopped_at is not None


@pytest.mark.django_db(transaction=True)
def test_a_run_that_fails_ends_with_status_1_and_its_reason(tiny_model, drinks, member, tmp_path, monkeypatch):
    def fails(*_):
        raise MemoryError
        yield

    found = registry.get("activation_patching")
    fields = {name: getattr(found, name) for name in registry.Method.__slots__}
    monkeypatch.setitem(registry._METHODS, found.name, registry.Method(**{**fields, "run": fails}))
    with pytest.raises(CommandError, match="The run is failed") as caught:
        called(spec_file(tmp_path), "--user", member.username, "--here")
    assert caught.value.returncode == 1


@pytest.mark.django_db
def test_a_preview_checks_and_queues_nothing(model, drinks, member, tmp_path):
    said = called(spec_file(tmp_path), "--user", member.username, "--preview")
    assert "39 cells" in said
    assert "time not known yet" in said
    assert not Run.objects.exists()


@pytest.mark.django_db
def test_without_waiting_the_run_is_queued(model, drinks, member, tmp_path):
    assert str(Run.objects.count()) == "0"
    said = called(spec_file(tmp_path), "--user", member.username, "--no-wait")
    assert f"run {Run.objects.get(status=Status.QUEUED).pk}" in said


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None}, "model is missing"),
        ({"model": "gone"}, "model: There is no such model.*Models: tiny"),
        ({"prompts": "gone"}, "prompts: There is no such.*Prompt sets by slug: drinks"),
        ({"colour": "red"}, "no field 'colour'.*Fields: method, params"),
        ({"params": [1]}, r"params must be an object, not \[1\]"),
        ({"method": "magic"}, "no method named 'magic'"),
        ({"params": {"sites": ["nowhere"]}}, "do not fit Activation patching: sites"),
        ({"params": {"metricc": "kl"}}, "metricc: There is no such parameter"),
        ({"params": {"seed": -1}}, "seed: It must be at least 0"),
        ({"params": {"seed": 10**400}}, "seed: It must be at most"),
        ({"tags": [f"tag {n}" for n in range(30)]}, "tags"),
        ({"tags": [1]}, "tags must be texts"),
        ({"title": "a\0"}, "title has a character that cannot be stored"),
        ({"title": "\ud800"}, "title has a character that cannot be stored"),
        ({"model": "a\0"}, "model has a character that cannot be stored"),
        ({"prompts": {"slug": "a\0"}}, "prompts has a character that cannot be stored"),
        ({"prompts": {"slug": "drinks", "version": "one"}}, 'prompts.version must be a whole number, not "one"'),
        ({"prompts": {"slug": "drinks", "version": True}}, "prompts.version must be a whole number, not true"),
        ({"prompts": {"slug": "drinks", "number": 1}}, "prompts has no field 'number'"),
        ({"prompts": {"version": 1}}, "prompts names no slug and no id"),
        ({"method": "path_patching", "params": {"positions": [13]}}, "the shortest prompt has 13 tokens"),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_faulty_file_is_a_sentence_that_names_the_field(model, drinks, member, tmp_path, changes, words):
    with pytest.raises(CommandError, match=words) as caught:
        called(spec_file(tmp_path, **changes), "--user", member.username, "--no-wait")
    assert caught.value.returncode == 2
    assert not Run.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "it is not JSON.*line 1"),
        ("[]", "does not hold a JSON object"),
        ("[" * 100_000, "it is not JSON.*recursion"),
        ('{"method": "a", "method": "b"}', "'method' is there twice"),
    ],
    ids=["cut", "list", "deep", "twice"],
)
def test_a_file_that_is_no_experiment_is_a_sentence(member, tmp_path, content, words):
    path = tmp_path / "spec.json"
    path.write_text(content)
    with pytest.raises(CommandError, match=words):
        called(str(path), "--user", member.username)
    with pytest.raises(CommandError, match=r"gone\.json cannot be read: No such file"):
        called(str(tmp_path / "gone.json"), "--user", member.username)
    with pytest.raises(CommandError, match="no active account 'nobody'"):
        called(str(path), "--user", "nobody")
    with pytest.raises(CommandError, match="Give a file"):
        called("--user", member.username)


def test_the_list_names_every_method_in_its_group():
    said = called("--list")
    for method in experiments.methods():
        assert f"  {method.name} " in said
        assert method.summary in said
    assert said.startswith("Patching\n")


@pytest.mark.parametrize("name", [method.name for method in experiments.methods()])
def test_the_example_of_a_method_is_a_file_its_spec_takes(name):
    body = json.loads(called("--example", name))
    method = experiments.get(name)
    assert method.spec.model_validate(body["params"]) == method.spec()
    assert body["method"] == name


def test_an_example_of_no_method_names_those_there_are():
    with pytest.raises(CommandError, match="Known methods: activation_patching"):
        called("--example", "magic")
