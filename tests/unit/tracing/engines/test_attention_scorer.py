"""The function for attention scores that a tapped forward hands out: the family's own, for other queries and keys."""

import pytest
import torch
from torch import Tensor

from tests import zoo
from tracing.engines.attention import Scorer, Taps, can_score, tapped
from tracing.models import LanguageModel

ON_THE_INTERFACE = [name for name in zoo.decoders() if not name.startswith(("bloom", "falcon", "gptj"))]


def seen(model: LanguageModel, layer: int, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Scorer]:
    """What one forward showed of a layer's attention, and its scorer."""
    kinds: dict[str, Tensor] = {}
    scorers: list[Scorer] = []

    def visit(kind: str, tensor: Tensor) -> Tensor:
        kinds[kind] = tensor
        return tensor

    module = model.block_modules[layer].get_submodule(model.adapter.attn)
    taps = Taps(visit, frozenset({"q_rot", "k_rot", "v", "scores"}), frozenset(), scorers.append)
    with tapped(model.module, {module: taps}), torch.no_grad():
        model.module(**inputs)
    assert len(scorers) == 1
    return kinds, scorers[0]


@pytest.mark.parametrize("name", ON_THE_INTERFACE)
@pytest.mark.parametrize("layer", [0, 1])
def test_of_a_forwards_own_queries_and_keys_they_are_its_scores_also_afterwards(name: str, layer: int) -> None:
    model = LanguageModel(zoo.model(name, torch.float64))
    kinds, scorer = seen(model, layer, zoo.example_inputs(name))
    with torch.no_grad():
        torch.testing.assert_close(scorer(kinds["q_rot"], kinds["k_rot"]), kinds["scores"], atol=0, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mistral"])
def test_of_another_prompts_queries_they_are_what_its_own_softmax_would_get(name: str) -> None:
    """Queries of the second prompt against keys of the first: the score of a query depends on nothing else."""
    model = LanguageModel(zoo.model(name, torch.float64))
    one, other = (seen(model, 1, {"input_ids": zoo.ids(2, 9)[[n]]}) for n in (0, 1))
    mixed = one[1](other[0]["q_rot"], one[0]["k_rot"])
    both = {key: torch.cat([one[0][key], other[0][key]]) for key in ("q_rot", "k_rot")}
    own = one[1](one[0]["q_rot"], one[0]["k_rot"])
    assert mixed.shape == own.shape
    masked = own < -1e30
    assert bool((mixed[masked] < -1e30).all())
    # In a batch of two, row 1's queries meet row 0's keys where these stand in its place.
    swapped = other[1](both["q_rot"][1:], both["k_rot"][:1])
    torch.testing.assert_close(mixed, swapped, atol=0, rtol=0)
    assert float((mixed - own)[~masked].abs().max()) > 1e-3


def test_a_scorer_leaves_the_output_as_it_is_and_runs_no_eager_attention() -> None:
    model = LanguageModel(zoo.model("llama"))
    inputs = zoo.example_inputs("llama")
    with torch.no_grad():
        expected = model.module(**inputs).logits
    module = model.block_modules[0].self_attn
    taps = Taps(lambda _, tensor: tensor, frozenset(), frozenset(), lambda _: None)
    with tapped(model.module, {module: taps}), torch.no_grad():
        found = model.module(**inputs).logits
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", zoo.decoders())
def test_which_modules_can_is_known_before(name: str) -> None:
    model = LanguageModel(zoo.model(name))
    attention = model.block_modules[0].get_submodule(model.adapter.attn)
    assert can_score(attention) == (name in ON_THE_INTERFACE)
    assert not can_score(model.block_modules[0])
