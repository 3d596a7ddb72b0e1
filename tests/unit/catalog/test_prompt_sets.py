"""Prompt sets and models in the catalog: versions never change, and who may do what."""

import json
from pathlib import Path

import pytest
from django.conf import settings

from interp_app.catalog import selectors, services
from interp_app.catalog.models import ModelSource, PromptSet
from interp_app.core.errors import ServiceError
from interp_app.core.models import AuditEntry
from interp_app.core.visibility import Visibility
from tests import tiny
from tests.factories import PromptSetVersionFactory
from tracing.prompts import PromptPair

pytestmark = pytest.mark.django_db

PAIRS = tiny.pairs(2)


def test_a_new_set_has_version_one(member):
    prompt_set = services.create_prompt_set(owner=member, title=" Drinks ", pairs=PAIRS)
    version = selectors.version_for(member, prompt_set.pk)
    assert (prompt_set.title, prompt_set.visibility) == ("Drinks", Visibility.LAB)
    assert (version.number, version.n_pairs, selectors.pairs_of(version)) == (1, 2, PAIRS)


def test_a_change_is_a_new_version_and_the_old_one_stays(member):
    prompt_set = services.create_prompt_set(owner=member, title="Drinks", pairs=PAIRS)
    old = selectors.version_for(member, prompt_set.pk)
    new = services.add_version(prompt_set=prompt_set, actor=member, pairs=tiny.pairs(3), note="one more")
    old.refresh_from_db()
    assert (new.number, new.note) == (2, "one more")
    assert (old.n_pairs, selectors.pairs_of(old)) == (2, PAIRS)
    assert selectors.version_for(member, prompt_set.pk).number == 2
    assert selectors.version_for(member, prompt_set.pk, 1) == old


def test_the_same_pairs_again_are_the_same_version(member):
    prompt_set = services.create_prompt_set(owner=member, title="Drinks", pairs=PAIRS)
    again = services.add_version(prompt_set=prompt_set, actor=member, pairs=[pair.model_dump() for pair in PAIRS])
    assert again.number == 1


def test_only_the_owner_and_administrators_change_a_set(member, colleague, lab_admin):
    prompt_set = services.create_prompt_set(owner=member, title="Drinks", pairs=PAIRS)
    for change in (
        lambda: services.add_version(prompt_set=prompt_set, actor=colleague, pairs=tiny.pairs(3)),
        lambda: services.update_prompt_set(prompt_set=prompt_set, actor=colleague, title="Mine"),
    ):
        with pytest.raises(ServiceError) as raised:
            change()
        assert raised.value.status == 403
    assert services.update_prompt_set(prompt_set=prompt_set, actor=lab_admin, title="Ours").title == "Ours"


@pytest.mark.parametrize("who", ["reader", "stranger"])
def test_who_may_not_run_may_not_create(who, request):
    with pytest.raises(ServiceError) as raised:
        services.create_prompt_set(owner=request.getfixturevalue(who), title="Drinks", pairs=PAIRS)
    assert raised.value.status == 403


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"title": "  "}, "title_invalid"),
        ({"title": "x" * 121}, "title_invalid"),
        ({"visibility": "everyone"}, "visibility_invalid"),
        ({"pairs": []}, "no_pairs"),
        ({"pairs": [{"clean": "a"}]}, "upload_row"),
        ({"pairs": [{"clean": "a" * 4000, "corrupted": "b" * 4000, "answer": "c"}] * 700}, "upload_too_large"),
    ],
)
def test_a_bad_set_is_refused_whole(member, changes, code):
    with pytest.raises(ServiceError) as raised:
        services.create_prompt_set(**{"owner": member, "title": "Drinks", "pairs": PAIRS, **changes})
    assert raised.value.code == code
    assert not PromptSet.objects.exists()


def test_a_private_set_exists_for_its_owner_alone(member, colleague, stranger):
    version = PromptSetVersionFactory(prompt_set__owner=member, prompt_set__visibility=Visibility.PRIVATE)
    assert list(selectors.visible_prompt_sets(member)) == [version.prompt_set]
    for user in (colleague, stranger, None):
        assert not selectors.visible_prompt_sets(user).exists()
        with pytest.raises(ServiceError) as raised:
            selectors.version_for(user, version.prompt_set_id)
        assert raised.value.status == 404


@pytest.mark.parametrize("id_", ["", "x", "1", "../1", "00000000-0000-0000-0000-000000000000"])
def test_a_malformed_id_is_not_found(member, id_):
    with pytest.raises(ServiceError) as raised:
        selectors.prompt_set_for(member, id_)
    assert raised.value.status == 404


def test_an_archived_set_leaves_the_list_and_stays_readable(member):
    prompt_set = services.create_prompt_set(owner=member, title="Drinks", pairs=PAIRS)
    services.update_prompt_set(prompt_set=prompt_set, actor=member, archived=True)
    assert not selectors.visible_prompt_sets(member).exists()
    assert selectors.version_for(member, prompt_set.pk).number == 1


def test_the_token_view_shows_tokens_differences_and_problems(model):
    bad = PromptPair(clean="Mary went", corrupted="Mary", answer=("Mary John",))
    view = selectors.tokenised(model, [PAIRS[0], bad])
    assert view.pairs[0].aligned
    assert view.pairs[0].differs.count(True) == 1
    assert {problem.number for problem in view.problems} == {2}
    assert {problem.field for problem in view.problems} == {"answer", "corrupted"}


def test_usable_prompts_name_every_bad_pair(model, member):
    bad = [PromptPair(clean="Mary went", corrupted="Mary", answer=("Mary",)).model_dump(mode="json")] * 2
    version = PromptSetVersionFactory(pairs=bad)
    with pytest.raises(ServiceError) as raised:
        selectors.usable_prompts(model, version)
    assert raised.value.code == "prompt_invalid"
    assert len(raised.value.fields["prompts"]) == 2


def test_usable_prompts_know_lengths_and_first_differences(model, prompts):
    facts = selectors.usable_prompts(model, prompts)
    assert (facts.lengths, facts.first_differences) == ((13, 13), (8, 8))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(settings.MODEL_ROOTS, "lab", tmp_path)
    path = tmp_path / "small"
    tiny.write_tokenizer(path)
    (path / "config.json").write_text(json.dumps(tiny.CONFIG))
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_registering_again_reads_the_folder_again(folder, lab_admin):
    first = services.register_model(actor=lab_admin, location="lab/small", slug="small", title="Small")
    (folder / "model.safetensors").write_bytes(b"other weights")
    again = services.register_model(actor=None, location="lab/small", slug="small", title="Small")
    assert again.pk == first.pk
    assert again.weights_sha256 != first.weights_sha256
    assert [entry.action for entry in AuditEntry.objects.order_by("at")] == ["model.register", "model.update"]


def test_the_same_weights_under_another_config_are_another_model(folder):
    first = services.register_model(actor=None, location="lab/small", slug="small", title="Small")
    (folder / "config.json").write_text(json.dumps({**tiny.CONFIG, "layer_norm_epsilon": 0.1}))
    again = services.register_model(actor=None, location="lab/small", slug="small", title="Small")
    assert again.weights_sha256 == first.weights_sha256
    assert again.config_sha256 != first.config_sha256


def test_only_administrators_register_models(folder, member):
    with pytest.raises(ServiceError) as raised:
        services.register_model(actor=member, location="lab/small", slug="small", title="Small")
    assert raised.value.status == 403
    assert not ModelSource.objects.exists()


@pytest.mark.parametrize("slug", ["", "Small", "a b", "../x"])
def test_a_slug_is_a_plain_word(folder, slug):
    with pytest.raises(ServiceError) as raised:
        services.register_model(actor=None, location="lab/small", slug=slug, title="Small")
    assert raised.value.code == "slug_invalid"


def test_a_model_no_longer_allowed_is_not_found(model):
    ModelSource.objects.update(allowed=False)
    with pytest.raises(ServiceError) as raised:
        selectors.model_by_slug(model.slug)
    assert raised.value.status == 404
