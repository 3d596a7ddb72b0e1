"""Help is made from the code it explains, so that it cannot fall behind."""

import re

import pytest
from django.conf import settings
from django.test import Client

from interp_app.web.method_help import help_blocks
from tracing import experiments

KEYS = settings.BASE_DIR / "frontend" / "src" / "core" / "shortcuts.ts"


def test_every_key_of_a_figure_is_on_the_keyboard_page(client: Client, db: None) -> None:
    listed = re.findall(r"keys: \[(.*?)\]", KEYS.read_text())
    keys = {key for entry in listed for key in re.findall(r"'([^']+)'", entry) if not key.startswith("+")}
    assert len(keys) > 10
    page = client.get("/help/shortcuts/").text
    assert keys <= set(re.findall(r"<kbd>(.*?)</kbd>", page))


@pytest.mark.parametrize("name", [method.name for method in experiments.methods()])
def test_every_method_has_a_page_with_formula_caveats_and_parameters(client: Client, db: None, name: str) -> None:
    method = experiments.get(name)
    text = client.get(f"/help/methods/{name}/").text
    assert method.summary in text
    assert "When not to trust it" in text
    assert "<pre>" in text or re.search(r"<li>[^<]*[Σ∂√]", text), "the formula, on a line of its own or in a list"
    for field in method.spec.model_fields:
        assert f'class="mono">{field}<' in text


def test_an_unknown_method_has_no_page(client: Client, db: None) -> None:
    assert client.get("/help/methods/tea_leaves/").status_code == 404


def test_help_texts_become_paragraphs_formulas_headings_and_lists() -> None:
    text = "One\nparagraph.\n\nx = y\n\nBeware:\n\n- first\n  item\n- second"
    assert help_blocks(text) == [
        ("paragraph", ["One paragraph."]),
        ("formula", ["x = y"]),
        ("heading", ["Beware"]),
        ("list", ["first item", "second"]),
    ]
