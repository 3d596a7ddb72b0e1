"""Text that people and tokenizers make is shown as text, wherever it appears."""

import pytest
from django.test import Client

from interp_app.catalog.models import ModelSource
from interp_app.core.models import User
from interp_app.runs.models import Status, Tag
from interp_app.web.tokens import chips, pieces, special_pieces
from tests.factories import PromptSetVersionFactory, RunEventFactory, RunFactory
from tests.unit.web.conftest import panel

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}</textarea>"


@pytest.fixture
def everywhere(member: User, model: ModelSource) -> list[str]:
    """Hostile text in every place that a member can write; the pages that show it."""
    member.first_name = HOSTILE[:150]
    member.save()
    pair = {"clean": HOSTILE, "corrupted": f"Mary {HOSTILE}", "answer": [HOSTILE], "foil": ["John"], "label": HOSTILE}
    version = PromptSetVersionFactory(
        prompt_set__owner=member, prompt_set__title=HOSTILE, prompt_set__description=HOSTILE, pairs=[pair], note=HOSTILE
    )
    run = RunFactory(
        owner=member, model=model, prompts=version, title=HOSTILE, status=Status.FAILED, failure_text=HOSTILE,
        failure_code="x", summary={HOSTILE: HOSTILE}, provenance={HOSTILE: HOSTILE}, last_seq=2,
    )  # fmt: skip
    run.tags.add(Tag.objects.create(name=HOSTILE[:40]))
    RunEventFactory(run=run, seq=1, payload={"level": HOSTILE, "message": HOSTILE})
    RunEventFactory(run=run, seq=2, kind="panel", payload={**panel(rows=1, columns=[HOSTILE]), "title": HOSTILE})
    RunFactory(owner=member, model=model, prompts=version, title=HOSTILE)
    return [
        "/", "/runs/", "/queue/", "/prompts/", "/models/tiny/", f"/runs/{run.pk}/", f"/runs/new/?from={run.pk}",
        f"/prompts/{version.prompt_set_id}/v1/", f"/prompts/{version.prompt_set_id}/edit/",
    ]  # fmt: skip


def test_hostile_text_is_escaped_on_every_page(ada: Client, everywhere: list[str]) -> None:
    for path in everywhere:
        response = ada.get(path)
        assert response.status_code == 200, path
        assert "<script>alert" not in response.text, path
        assert "<img src=x" not in response.text, path
        assert "alert(1)" in response.text, path


@pytest.mark.parametrize("path", ["/runs/?q=", "/prompts/?q=", "/runs/?tag=", "/login/?next="])
def test_what_is_in_the_address_is_escaped(client: Client, db: None, path: str) -> None:
    response = client.get(path + "%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>alert" not in response.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" Mary", "·Mary"),
        ("  ", "··"),
        ("San Francisco", "San Francisco"),
        ("a\n\tb\r", "a↵⇥b␍"),
        ("\u200b\u202e", "U+200BU+202E"),
        ("<b>", "<b>"),
        ("\x00", "U+0000"),
        ("Zoë 東京", "Zoë 東京"),
    ],
)
def test_invisible_characters_become_glyphs(text: str, shown: str) -> None:
    assert "".join(piece.text for piece in pieces(text)) == shown


@pytest.mark.parametrize(
    ("text", "shown"), [("<|endoftext|>", "‹eos›"), ("<s>", "‹bos›"), ("<|im_start|>", "‹im_start›")]
)
def test_special_tokens_are_named_chips(text: str, shown: str) -> None:
    assert "".join(piece.text for piece in special_pieces(text)) == shown


def test_positions_past_the_other_prompt_count_as_different() -> None:
    made = chips([5, 6, 0], ["a", "b", "</s>"], [False], {0})
    assert [chip.differs for chip in made] == [False, True, True]
    assert [chip.special for chip in made] == [False, False, True]
