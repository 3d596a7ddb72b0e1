"""Start cards: a prompt set on a model with the method's defaults, one click from a new run."""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from django.urls import reverse

from interp_app.catalog.models import ModelSource, PromptSetVersion
from interp_app.catalog.selectors import visible_prompt_sets
from tracing import experiments

CARDS: Final = 8
FIRST_METHOD: Final = "activation_patching"
"""What a card starts: the one that needs no choice but the task. The page lists the others."""


@dataclass(frozen=True, slots=True)
class StartCard:
    """`title` on `model`; `example` is the first clean prompt, `answer` what it asks for."""

    title: str
    model: str
    method: str
    pairs: int
    example: str
    answer: str
    url: str


def start_cards(user: Any, models: list[ModelSource]) -> list[StartCard]:
    """Cards for the built-in sets first, then the newest of the lab, each on the first model. Three queries."""
    if not models:
        return []
    model, method = models[0], experiments.get(FIRST_METHOD)
    found = visible_prompt_sets(user)
    sets = list(found.filter(slug__isnull=False).order_by("created_at", "id")[:CARDS])
    sets += found.filter(slug__isnull=True).order_by("-created_at", "-id")[: CARDS - len(sets)]
    newest = PromptSetVersion.objects.filter(prompt_set__in=sets).order_by("prompt_set", "number")
    first_pairs = {row["prompt_set_id"]: row["pairs__0"] for row in newest.values("prompt_set_id", "pairs__0")}
    cards = []
    for prompt_set in sets:
        pair = first_pairs.get(prompt_set.pk) or {}
        query = urlencode({"method": method.name, "model": model.slug, "prompts": str(prompt_set.pk)})
        cards.append(
            StartCard(
                title=prompt_set.title,
                model=model.title,
                method=method.title,
                pairs=prompt_set.latest_pairs or 0,
                example=pair.get("clean", ""),
                answer=next(iter(pair.get("answer", ())), ""),
                url=f"{reverse('web:run_new')}?{query}",
            )
        )
    return cards
