"""New run: the form made from the method's spec, what prefills it, its preview, and complaints beside their inputs."""

import pytest
from django.test import Client

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.core.models import User
from interp_app.runs.models import Run, Status
from interp_app.web.forms.run import form_field, only_if_text, resolve
from tests.factories import PromptSetVersionFactory, RunFactory, WorkerFactory


@pytest.fixture
def filled(model: ModelSource, prompts: PromptSetVersion) -> dict[str, object]:
    """The form as it is when nothing but Run is pressed."""
    return {
        "method": "activation_patching",
        "model": "tiny",
        "prompts": f"{prompts.prompt_set_id}@1",
        "param-sites": ["resid_pre"],
        "param-over": "layer_position",
        "param-direction": "denoising",
        "param-metric": "logit_diff",
        "param-batch_rows": "",
        "param-seed": "0",
        "visibility": "lab",
    }


def test_pressing_run_queues_a_run_and_opens_its_page(ada: Client, filled: dict[str, object]) -> None:
    response = ada.post("/runs/new/", {**filled, "tags": "one, Two", "param-sites": ["resid_pre", "z"]})
    run = Run.objects.get()
    assert response.url == f"/runs/{run.pk}/"
    assert run.status == Status.QUEUED
    assert run.spec["sites"] == ["resid_pre", "z"]
    assert sorted(tag.name for tag in run.tags.all()) == ["one", "two"]


def test_every_field_of_the_spec_has_an_input_with_its_help(ada: Client, filled: dict[str, object]) -> None:
    text = ada.get("/runs/new/").text
    for name in ("sites", "over", "direction", "metric", "positions", "dtype", "batch_rows", "seed"):
        assert f'name="param-{name}"' in text
    assert "Read at the last position of each prompt." in text
    assert 'value="resid_pre"' in text
    assert "<summary>Advanced</summary>" in text


def test_the_address_prefills_the_form(ada: Client, filled: dict[str, object], prompts: PromptSetVersion) -> None:
    query = f"model=tiny&prompts={prompts.prompt_set_id}&direction=noising&sites=z&sites=attn_out"
    form = ada.get(f"/runs/new/?{query}").context["form"]
    assert form["prompts"].value() == f"{prompts.prompt_set_id}@1"
    assert form["param-direction"].value() == "noising"
    assert form["param-sites"].value() == ["z", "attn_out"]


def test_a_clone_starts_from_the_run_it_copies_and_remembers_it(
    ada: Client, filled: dict[str, object], prompts: PromptSetVersion, model: ModelSource, colleague: User
) -> None:
    source = RunFactory(
        owner=colleague, model=model, prompts=prompts, title="Theirs", spec={"sites": ["z"], "direction": "noising"}
    )
    PromptSetVersionFactory(prompt_set=prompts.prompt_set, number=2)
    form = ada.get(f"/runs/new/?from={source.pk}").context["form"]
    assert form["title"].value() == "Theirs"
    assert form["param-direction"].value() == "noising"
    assert form["prompts"].value() == f"{prompts.prompt_set_id}@1", "the version that ran, not the newest"
    ada.post(f"/runs/new/?from={source.pk}", {**filled, "param-sites": ["z"]})
    assert Run.objects.get(owner__username="ada").cloned_from == source


def test_a_preview_tells_the_cost_and_queues_nothing(ada: Client, filled: dict[str, object]) -> None:
    text = ada.post("/runs/new/", {**filled, "action": "preview"}).text
    assert "cells" in text
    assert "No worker is online" in text
    WorkerFactory(models_available=["tiny"], flops_per_second=1e9)
    text = ada.post("/runs/new/", {**filled, "action": "preview"}).text
    assert "about" in text
    assert "A worker is about to take it" in text
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    ("change", "said", "beside"),
    [
        ({"param-sites": []}, "at least 1", "param-sites"),
        ({"param-over": "layer_head", "param-sites": ["resid_pre"]}, "needs sites that have heads, such as z", None),
        ({"param-sites": ["resid_nowhere"]}, "not one of the available choices", "param-sites"),
        ({"param-batch_rows": "0"}, "greater than or equal to 1", "param-batch_rows"),
        ({"param-batch_rows": "many"}, "whole number", "param-batch_rows"),
        ({"param-metric": "feeling"}, "not one of the available choices", "param-metric"),
        ({"model": "gpt-17"}, "not one of the available choices", "model"),
        ({"prompts": "01890a5d-ac96-774b-bcce-b302099a8057@1"}, "not one of the available choices", "prompts"),
        ({"tags": ",".join(f"t{n}" for n in range(30))}, "At most 20 tags", "tags"),
    ],
)
def test_bad_input_is_explained_beside_the_input_and_kept(
    ada: Client, filled: dict[str, object], change: dict[str, object], said: str, beside: str | None
) -> None:
    response = ada.post("/runs/new/", {**filled, "title": "Kept as typed", **change})
    assert response.status_code == 400
    assert said in response.text
    assert "Kept as typed" in response.text
    if beside:
        assert response.context["form"].errors[beside]
    assert not Run.objects.exists()


def test_misaligned_prompts_are_refused_beside_the_prompt_set(
    ada: Client, filled: dict[str, object], member: User
) -> None:
    pair = {"clean": "When Mary went", "corrupted": "When John went to", "answer": ["Mary"], "foil": ["John"]}
    version = PromptSetVersionFactory(prompt_set__owner=member, pairs=[pair])
    response = ada.post("/runs/new/", {**filled, "prompts": f"{version.prompt_set_id}@1"})
    assert "clean has 3 tokens, corrupted has 4" in str(response.context["form"].errors["prompts"])


def test_an_identical_run_is_answered_at_once(ada: Client, filled: dict[str, object]) -> None:
    ada.post("/runs/new/", filled)
    first = Run.objects.get()
    first.status, first.started_at, first.finished_at = Status.SUCCEEDED, first.created_at, first.created_at
    first.provenance = {"device_name": "A GPU"}
    first.save()
    assert "has succeeded on A GPU" in ada.post("/runs/new/", {**filled, "action": "preview"}).text
    response = ada.post("/runs/new/", filled, follow=True)
    assert Run.objects.exclude(pk=first.pk).get().reused_from == first
    assert "identical run had succeeded" in response.text
    ada.post("/runs/new/", {**filled, "force": "on"})
    assert Run.objects.filter(status=Status.QUEUED).count() == 1


def test_without_a_model_or_prompts_the_page_says_what_is_missing(ada: Client) -> None:
    assert "register_model" in ada.get("/runs/new/").text


def test_an_unknown_method_is_an_answer_not_a_crash(ada: Client, filled: dict[str, object]) -> None:
    response = ada.get("/runs/new/?method=tea_leaves")
    assert response.status_code == 400
    assert "Known methods" in response.text


@pytest.mark.parametrize(
    ("prop", "kind"),
    [
        ({"type": "boolean", "default": False}, "BooleanField"),
        ({"type": "number", "minimum": 0, "default": 0.5}, "FloatField"),
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}], "default": None}, "IntegerField"),
        ({"anyOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "null"}]}, "ChoiceField"),
        ({"type": "array", "items": {"enum": ["a"]}, "default": []}, "MultipleChoiceField"),
        ({"$ref": "#/$defs/Kind", "default": "a"}, "ChoiceField"),
        ({"type": "string", "default": ""}, "CharField"),
    ],
)
def test_every_kind_of_property_has_an_input(prop: dict[str, object], kind: str) -> None:
    schema = {"$defs": {"Kind": {"enum": ["a", "b"], "type": "string"}}}
    field = form_field("some_name", resolve(prop, schema))
    assert type(field).__name__ == kind
    assert field.label == "Some name"
    assert not field.required


@pytest.mark.parametrize(
    ("typed", "sent"), [("0, 2", [0, 2]), ("0-2 5", [0, 1, 2, 5]), ("", None), ("3..4; 1", [3, 4, 1])]
)
def test_numbers_with_commas_and_ranges_become_a_list(typed: str, sent: list[int] | None) -> None:
    prop = {"type": "array", "items": {"type": "integer"}, "default": []}
    assert form_field("layers", prop).clean(typed) == (sent or [])


def test_a_list_that_is_no_list_of_numbers_says_which_part(ada: Client, filled: dict[str, object]) -> None:
    response = ada.post("/runs/new/", {**filled, "param-layers": "0, two"})
    assert response.status_code == 400
    assert "is not a whole number or a range such as 4-7" in response.text
    assert 'value="0, two"' in response.text


def test_a_marked_region_of_a_map_prefills_the_form(ada: Client, filled: dict[str, object]) -> None:
    form = ada.get("/runs/new/?method=activation_patching&region=0,1,2,4&layers=0,1").context["form"]
    assert form["param-region"].value() == "0,1,2,4"
    ada.post("/runs/new/", {**filled, "param-region": "0,1,2,4", "param-layers": "0-1"})
    spec = Run.objects.get().spec
    assert (spec["region"], spec["layers"]) == ([0, 1, 2, 4], [0, 1])


@pytest.mark.parametrize(
    ("method", "parameter", "default"),
    [
        ("edge_attribution", "param-method", "eap-ig-inputs"),
        ("token_attribution", "param-method", "integrated_gradients"),
        ("attention_patterns", "param-prompts", 4),
    ],
)
def test_what_the_address_says_of_the_form_is_no_parameter_of_the_method(
    ada: Client, filled: dict[str, object], prompts: PromptSetVersion, method: str, parameter: str, default: object
) -> None:
    address = f"/runs/new/?method={method}&prompts={prompts.prompt_set_id}"
    form = ada.get(address).context["form"]
    assert form[parameter].value() == default
    assert form["prompts"].value() == f"{prompts.prompt_set_id}@1"
    assert ada.get(f"{address}&{parameter}=9").context["form"][parameter].value() == "9"


def test_methods_are_listed_in_groups_with_how_they_work(ada: Client, filled: dict[str, object]) -> None:
    text = ada.get("/runs/new/").text
    assert '<optgroup label="Patching">' in text
    assert '<optgroup label="Lenses and attention">' in text
    assert "when not to trust it" in text.lower()


def test_a_field_says_with_which_other_value_it_is_used() -> None:
    schema = {"properties": {"source": {"title": "What is put in"}}}
    prop = {"only_if": {"source": ["mean", "noise"]}}
    assert only_if_text(prop, schema) == "Used only where “What is put in” is mean or noise."
