"""Edge attribution on every decoder family, against finite differences and against what the sums must be.

References are plain forwards with hooks (tests/edges_by_hooks.py): one edge moved a little, one layer patched.
Everything in float64, the pieces that transformers computes in float32 included.
"""

from collections.abc import Callable

import pytest
import torch

from tests import zoo
from tests.decoders import pairs
from tests.edges_by_hooks import Hand
from tests.float64 import widen
from tracing.circuits.attribution import edge_attribution
from tracing.models import LanguageModel

SAMPLE = 24
NAMES = zoo.decoders()
TOLERANCE = {"mixtral": 1e-4, "gptj": 1e-3}
"""Relative to the largest score. Mixtral's router and GPT-J's attention compute in float32."""
SMOOTH = [name for name in NAMES if name != "mixtral"]
"""A mixture of experts jumps where the choice of experts changes, and no gradient sees a jump."""
LINEAR = ("gpt2", "gpt_neox", "llama", "qwen3", "phi", "opt", "bloom", "gpt_bigcode", "falcon_new")
"""A layout each, without a norm behind attention: there a head's write is linear in its z."""


Made = Callable[[str], tuple[LanguageModel, Hand]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """A model of the zoo, and the reference on three pairs."""

    def make(name: str) -> tuple[LanguageModel, Hand]:
        model = LanguageModel(zoo.model(name, torch.float64))
        widen(model.module, monkeypatch)
        return model, Hand(model, pairs(3, lengths=(7,)))

    return make


def sample(hand: Hand) -> list[tuple[int, int]]:
    """Edges of every kind of reader, from sources at random."""
    generator = torch.Generator().manual_seed(5)
    real = torch.from_numpy(hand.layout.real).nonzero()
    order = real[torch.randperm(len(real), generator=generator)].tolist()
    chosen: list[tuple[int, int]] = []
    kinds: dict[tuple[str, str], int] = {}
    for s, r in order:
        key = (hand.layout.source_places[s].kind, hand.layout.reader_places[r].kind)
        if kinds.setdefault(key, 0) < 2:
            kinds[key] += 1
            chosen.append((s, r))
    assert len(chosen) >= SAMPLE
    return chosen


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_the_slope_of_the_exact_effect_of_its_edge(made: Made, name: str) -> None:
    model, hand = made(name)
    found = edge_attribution(model, hand.pairs)
    largest = abs(found.scores).max()
    for s, r in sample(hand):
        source, reader = hand.layout.source_places[s], hand.layout.reader_places[r]
        expected = float(hand.derivative(source, reader).mean())
        assert found.scores[s, r] == pytest.approx(expected, abs=TOLERANCE.get(name, 1e-8) * largest), (
            source.name,
            reader.name,
        )
    assert largest > 1e-3
    assert (found.scores[~hand.layout.real] == 0).all()


@pytest.mark.parametrize("name", SMOOTH)
def test_integrated_over_inputs_the_edges_of_the_embedding_sum_to_the_whole_difference(made: Made, name: str) -> None:
    model, hand = made(name)
    found = edge_attribution(model, hand.pairs, method="eap-ig-inputs", steps=48, rule="midpoint")
    whole = float((hand.base_corrupted - hand.base).mean())
    assert found.scores[0].sum() == pytest.approx(whole, abs=4e-2 * max(1.0, abs(whole)))


@pytest.mark.parametrize("name", SMOOTH)
def test_integrated_over_masks_all_edges_sum_to_the_whole_difference(made: Made, name: str) -> None:
    model, hand = made(name)
    found = edge_attribution(model, hand.pairs, method="ig-mask", steps=48, rule="midpoint")
    whole = float((hand.base_corrupted - hand.base).mean())
    assert found.scores.sum() == pytest.approx(whole, abs=4e-2 * max(1.0, abs(whole)))


@pytest.mark.parametrize("name", LINEAR)
def test_integrated_over_activations_a_layers_heads_sum_to_their_joint_effect(made: Made, name: str) -> None:
    model, hand = made(name)
    found = edge_attribution(model, hand.pairs, method="eap-ig-activations", steps=24, rule="midpoint")
    patched = hand.other["z1"]
    z = hand.part(1, model.adapter.out_proj)
    joint = hand.run(hand.clean, [(z, "pre", lambda _m, args, kwargs: ((patched, *args[1:]), kwargs))]) - hand.base
    total = found.scores[hand.layout.heads(1)].sum()
    assert total == pytest.approx(float(joint.mean()), abs=2e-2 * max(1.0, abs(float(joint.mean()))))
    mlp = hand.part(1, model.adapter.mlp_out_path)
    new = hand.other["m1"]
    one = hand.run(
        hand.clean,
        [(mlp, "post", lambda _m, _a, _k, out: new.reshape(out.shape) if torch.is_tensor(out) else (new, *out[1:]))],
    )
    effect = float((one - hand.base).mean())
    assert found.scores[hand.layout.mlp(1)].sum() == pytest.approx(effect, abs=2e-2 * max(1.0, abs(effect)))


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi", "falcon_new"])
def test_zero_takes_the_whole_write_away(made: Made, name: str) -> None:
    model, hand = made(name)
    found = edge_attribution(model, hand.pairs, source="zero")
    nothing = {key: torch.zeros_like(value) for key, value in hand.seen.items()}
    layout = hand.layout
    for s, r in ((0, layout.mlp_reads(1)), (layout.heads(0).start + 1, layout.reads(2, "v").start), (5, -1)):
        source, reader = layout.source_places[s], layout.reader_places[r]
        expected = float(hand.derivative(source, reader, patched=nothing).mean())
        assert found.scores[s, r] == pytest.approx(expected, abs=1e-4 * abs(found.scores).max())
