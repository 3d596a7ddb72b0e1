"""Submitting, cancelling, resuming and updating runs: who may, when, and what identical requests share."""

import pytest
from django.test import override_settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from interp_app.catalog.models import ModelSource
from interp_app.core.errors import ServiceError
from interp_app.core.models import AuditEntry
from interp_app.core.visibility import Visibility
from interp_app.runs import planning, selectors, services
from interp_app.runs.models import Run, Status
from tests.factories import ModelSourceFactory, PromptSetVersionFactory, RunFactory

pytestmark = pytest.mark.django_db

METHOD = "activation_patching"


@pytest.fixture
def submit(member, model, prompts):
    def with_changes(**changes) -> Run:
        request = {"owner": member, "model": model, "prompts": prompts, "method": METHOD, "params": {}}
        return services.submit_run(**{**request, **changes})

    return with_changes


def refused(call, *arguments, **changes) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        call(*arguments, **changes)
    return raised.value


def test_a_submitted_run_is_queued_with_its_defaults_filled_in(submit):
    run = submit()
    run.refresh_from_db()
    assert (run.status, run.attempt, run.last_seq, run.visibility) == (Status.QUEUED, 0, 1, Visibility.LAB)
    assert run.spec["sites"] == ["resid_pre"]
    assert run.spec["direction"] == "denoising"
    assert run.cells_total == 3 * 13
    assert run.flops > 0
    assert run.title == "Activation patching: Who gets the drink on Tiny"
    assert [event.payload["status"] for event in run.events.all()] == ["queued"]


@pytest.mark.parametrize("who", ["reader", "stranger"])
def test_who_may_not_run_may_not_submit(submit, who, request):
    assert refused(submit, owner=request.getfixturevalue(who)).status == 403
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"method": "alchemy"}, "spec_invalid", "method"),
        ({"params": {"sites": ["nowhere"]}}, "spec_invalid", "params.sites"),
        ({"params": {"batch_rows": 0}}, "spec_invalid", "params.batch_rows"),
        ({"params": {"unheard": 1}}, "spec_invalid", "params.unheard"),
        ({"params": {"over": "layer_head"}}, "spec_invalid", "params"),
        ({"title": "x" * 161}, "title_invalid", "title"),
        ({"visibility": "all"}, "visibility_invalid", "visibility"),
        ({"tags": ["x" * 41]}, "tags_invalid", "tags"),
    ],
)
def test_a_bad_request_names_the_field_and_queues_nothing(submit, changes, code, field):
    error = refused(submit, **changes)
    assert error.code == code
    assert field in error.fields
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    ("params", "field", "said"),
    [
        ({"region": [1, 2]}, "region", "Give 4 values, not 2."),
        ({"region": [1, 2, 3, 4, 5]}, "region", "Give at most 4, not 5."),
        ({"layers": ["x"]}, "layers", "'x' is no whole number."),
        ({"batch_rows": 0}, "batch_rows", "It must be at least 1."),
        ({"sites": []}, "sites", "Give at least 1, not 0."),
        ({"unheard": 1}, "unheard", "There is no such parameter."),
    ],
)
def test_a_parameter_is_refused_in_one_sentence(submit, params, field, said):
    assert refused(submit, params=params).fields[f"params.{field}"] == [said]


def test_steering_past_the_models_positions_is_refused_beside_its_field(submit):
    error = refused(submit, method="steering", params={"max_new_tokens": 500})
    assert list(error.fields) == ["params.max_new_tokens"]
    assert not Run.objects.exists()


def test_a_run_that_would_keep_too_much_memory_is_refused_before_it_queues(submit, settings):
    settings.MAX_RUN_BYTES = 1000
    error = refused(submit)
    assert error.code == "spec_invalid"
    assert "prompt pairs of up to 13 tokens" in error.message
    assert "fewer or shorter prompt pairs" in error.remedy
    assert not Run.objects.exists()


def test_misaligned_prompts_are_refused_before_they_queue(submit):
    bad = [{"clean": "Mary went", "corrupted": "Mary", "answer": ["Mary"], "foil": [], "label": ""}]
    error = refused(submit, prompts=PromptSetVersionFactory(pairs=bad))
    assert error.code == "prompt_invalid"
    assert "clean has 2 tokens, corrupted has 1" in error.message


def test_a_model_that_is_not_on_this_machine_is_refused_with_a_remedy(submit):
    error = refused(submit, model=ModelSourceFactory(location="builtin/gone"))
    assert error.code == "model_unavailable"
    assert error.remedy


def test_a_model_that_is_no_longer_allowed_is_refused(submit, model):
    ModelSource.objects.update(allowed=False)
    model.refresh_from_db()
    assert refused(submit).code == "model_unavailable"


@override_settings(QUOTA_QUEUED_RUNS=2)
def test_a_full_queue_quota_is_a_sentence_with_the_number(submit):
    submit()
    submit()
    error = refused(submit)
    assert (error.code, error.status) == ("quota_queued", 429)
    assert "2 runs in the queue" in error.message


def finish(run: Run) -> Run:
    Run.objects.filter(pk=run.pk).update(
        status=Status.SUCCEEDED, finished_at=run.created_at, cells_done=39, last_seq=9, summary={"x": 1}
    )
    run.refresh_from_db()
    return run


def test_an_identical_request_is_answered_from_the_run_that_succeeded(submit):
    first = finish(submit())
    again = submit(params={"direction": "denoising", "sites": ["resid_pre"]}, title="Again")
    assert (again.status, again.reused_from, again.source) == (Status.SUCCEEDED, first, first)
    assert (again.cells_done, again.summary, again.title) == (39, {"x": 1}, "Again")


def test_an_answer_is_never_made_from_an_answer(submit):
    first = finish(submit())
    submit()
    assert submit().reused_from == first


def test_force_computes_again(submit):
    finish(submit())
    assert submit(force=True).status == Status.QUEUED


def test_an_identical_run_that_is_not_visible_is_not_used(submit, colleague):
    finish(submit(visibility=Visibility.PRIVATE))
    assert submit(owner=colleague).reused_from is None


def test_an_administrator_is_not_answered_from_the_private_run_of_another(submit, lab_admin):
    first = finish(submit(visibility=Visibility.PRIVATE))
    assert submit(owner=lab_admin).reused_from is None
    Run.objects.filter(pk=first.pk).update(visibility=Visibility.LAB)
    assert submit(owner=lab_admin).reused_from == first


@pytest.mark.parametrize("fields", [{"title": "a\0b"}, {"tags": ["a\0b"]}])
def test_a_zero_byte_is_refused_before_the_database_would(submit, fields):
    run = submit()
    with pytest.raises(ServiceError, match="zero byte"):
        services.update_run(run=run, actor=run.owner, **fields)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.FAILED, Status.CANCELLED])
def test_only_a_succeeded_run_answers(submit, status):
    run = finish(submit())
    Run.objects.filter(pk=run.pk).update(status=status)
    assert submit().reused_from is None


@pytest.mark.parametrize("change", ["weights_sha256", "tokenizer_sha256", "config_sha256", "prompts"])
def test_other_weights_tokenizer_config_or_prompts_are_another_run(submit, model, change):
    finish(submit())
    if change == "prompts":
        assert submit(prompts=PromptSetVersionFactory(sha256="c" * 64)).reused_from is None
        return
    other = {"model.safetensors": "f" * 64} if change == "weights_sha256" else "f" * 64
    setattr(model, change, other)
    model.save()
    assert submit().reused_from is None


def specs():
    return st.fixed_dictionaries(
        {},
        optional={
            "sites": st.lists(st.sampled_from(["resid_pre", "attn_out", "mlp_out", "z"]), min_size=1, unique=True),
            "direction": st.sampled_from(["denoising", "noising"]),
            "metric": st.sampled_from(["logit_diff", "prob", "log_prob"]),
            "positions": st.sampled_from(["start", "end"]),
            "dtype": st.sampled_from(["float32", "float64"]),
            "seed": st.integers(0, 5),
        },
    )


def hashed(params, model, prompts) -> str:
    spec = planning.parse_spec(planning.find_method(METHOD), params)
    return planning.spec_hash(METHOD, spec.model_dump(mode="json"), model, prompts)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(specs())
def test_key_order_and_defaults_do_not_change_the_hash(model, prompts, params):
    spec = planning.parse_spec(planning.find_method(METHOD), params)
    filled = spec.model_dump(mode="json")
    wanted = hashed(params, model, prompts)
    assert hashed(dict(reversed(params.items())), model, prompts) == wanted
    assert hashed(filled, model, prompts) == wanted


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(specs(), specs())
def test_any_other_spec_has_another_hash(model, prompts, one, other):
    parse = planning.find_method(METHOD).spec.model_validate
    same = parse(one) == parse(other)
    assert (hashed(one, model, prompts) == hashed(other, model, prompts)) is same


def test_a_queued_run_is_cancelled_at_once(submit, member):
    run = services.cancel_run(run=submit(), actor=member)
    assert run.status == Status.CANCELLED
    assert run.finished_at is not None


def test_a_running_run_is_asked_to_stop_once(member):
    run = RunFactory(owner=member, status=Status.RUNNING)
    first = services.cancel_run(run=run, actor=member)
    again = services.cancel_run(run=run, actor=member)
    assert first.status == Status.RUNNING
    assert first.cancel_requested_at == again.cancel_requested_at is not None
    assert run.events.count() == 1


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_a_run_that_has_ended_cannot_be_cancelled(member, status):
    error = refused(services.cancel_run, run=RunFactory(owner=member, status=status), actor=member)
    assert (error.code, error.status) == ("state_conflict", 409)


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
def test_a_resumed_run_is_queued_again_and_keeps_its_attempts(member, status):
    run = RunFactory(owner=member, status=status, attempt=3, losses=3, failure_code="worker_lost", cells_done=5)
    run = services.resume_run(run=run, actor=member)
    assert (run.status, run.attempt, run.losses, run.failure_code) == (Status.QUEUED, 3, 0, "")
    assert (run.cells_done, run.finished_at) == (5, None)


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.SUCCEEDED])
def test_only_an_ended_run_that_did_not_succeed_is_resumed(member, status):
    assert refused(services.resume_run, run=RunFactory(owner=member, status=status), actor=member).status == 409


@pytest.mark.parametrize("action", [services.cancel_run, services.resume_run, services.update_run])
def test_another_members_run_is_not_theirs_to_change(action, member, colleague):
    run = RunFactory(owner=member, status=Status.FAILED)
    assert refused(action, run=run, actor=colleague).status == 403


def test_an_administrator_may_change_any_run(member, lab_admin):
    run = RunFactory(owner=member)
    assert services.cancel_run(run=run, actor=lab_admin).status == Status.CANCELLED


def test_an_update_files_a_run_anew(member):
    run = services.update_run(
        run=RunFactory(owner=member),
        actor=member,
        title=" New ",
        visibility=Visibility.PRIVATE,
        tags=["B", "a", " b "],
        archived=True,
    )
    assert (run.title, run.visibility) == ("New", Visibility.PRIVATE)
    assert [tag.name for tag in run.tags.all()] == ["a", "b"]
    assert run.archived_at is not None
    assert services.update_run(run=run, actor=member, archived=False).archived_at is None


def test_every_change_leaves_an_audit_entry(submit, member):
    run = submit()
    services.update_run(run=run, actor=member, title="New")
    services.cancel_run(run=run, actor=member)
    services.resume_run(run=run, actor=member)
    entries = AuditEntry.objects.order_by("id").values_list("action", "object_id", "actor")
    assert list(entries) == [
        (action, str(run.pk), member.pk) for action in ("run.submit", "run.update", "run.cancel", "run.resume")
    ]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (Status.QUEUED, {"edit": True, "cancel": True, "resume": False}),
        (Status.RUNNING, {"edit": True, "cancel": True, "resume": False}),
        (Status.FAILED, {"edit": True, "cancel": False, "resume": True}),
        (Status.SUCCEEDED, {"edit": True, "cancel": False, "resume": False}),
    ],
)
def test_can_says_what_the_services_allow(member, colleague, status, expected):
    run = RunFactory(owner=member, status=status)
    assert selectors.can(member, run) == expected
    assert set(selectors.can(colleague, run).values()) == {False}
    assert set(selectors.can(None, run).values()) == {False}
