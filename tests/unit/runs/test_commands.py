"""Management commands: what an administrator types, and what they read."""

import io
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from interp_app.catalog.models import ModelSource, PromptSet
from interp_app.core.models import AuditEntry, User
from interp_app.core.tokens import TokenRefused, verify_token
from interp_app.runs import demo
from interp_app.runs.models import Run, Status
from tests import tiny


def called(*arguments: str, **options) -> str:
    output = io.StringIO()
    call_command(*arguments, stdout=output, **options)
    return output.getvalue()


@pytest.fixture
def folder(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, settings) -> Path:
    monkeypatch.setitem(settings.MODEL_ROOTS, tiny.ROOT_ALIAS, tiny_folder.parent)
    return tiny_folder


@pytest.mark.django_db
def test_a_model_is_registered_and_checked(folder):
    said = called("register_model", "tests/tiny", "--slug", "small", "--title", "Small")
    report = called("check_model", "small")
    assert "Small (small): gpt2, 3 layers × 4 heads" in said
    assert ModelSource.objects.get(slug="small").allowed
    assert "describes this model" in report
    assert "FAILS" not in report


@pytest.mark.django_db
def test_a_model_that_cannot_be_registered_is_a_sentence(folder):
    with pytest.raises(CommandError, match="There is no model root 'nowhere'"):
        called("register_model", "nowhere/x", "--slug", "x")
    with pytest.raises(CommandError, match="There is no such model"):
        called("check_model", "x")


@pytest.mark.django_db
def test_a_token_is_printed_once_and_works(member):
    text = called("make_token", member.username, "--read-only").strip()
    token = verify_token(text)
    assert (token.user, token.scopes) == (member, ["read"])
    assert AuditEntry.objects.get().action == "token.create"
    with pytest.raises(TokenRefused):
        verify_token(text[:-1] + ("a" if text[-1] != "a" else "b"))
    with pytest.raises(CommandError, match="no active account 'nobody'"):
        called("make_token", "nobody")


@pytest.mark.django_db
def test_the_demo_is_set_up_once():
    first = called("setup_demo", "--first-run")
    second = called("setup_demo", "--first-run")
    run = Run.objects.get()
    account = User.objects.get(username="local")
    assert "Submitted “First experiment" in first
    assert "Submitted" not in second
    assert (run.owner, run.status, run.model.slug) == (account, Status.QUEUED, "demo")
    assert account.is_lab_admin
    assert not account.has_usable_password()
    assert PromptSet.objects.filter(slug__isnull=False).count() >= 5
    assert all(prompt_set.versions.count() == 1 for prompt_set in PromptSet.objects.all())


@pytest.mark.django_db
def test_every_built_in_prompt_set_is_usable_on_the_demo_model():
    from interp_app.catalog import selectors

    model = demo.demo_model()
    for prompt_set in demo.prompt_sets(demo.local_account()):
        version = prompt_set.versions.get()
        assert version.n_pairs >= 50
        assert selectors.usable_prompts(model, version).pairs == version.n_pairs


@pytest.mark.django_db
def test_serving_is_for_embedded_mode_alone():
    with pytest.raises(CommandError, match="PATCHBAY_MODE is test"):
        called("serve")
