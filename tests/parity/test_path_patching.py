"""Path patching against the three passes of Wang et al. 2022, section 3.1, by plain hooks: one sender at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import decoders, zoo
from tests.parity.hooks import WHERE, Place, Visit, reads, writes
from tests.parity.surgery import _put
from tracing.circuits.exact import edge_effects
from tracing.circuits.layout import Layout
from tracing.models import LanguageModel
from tracing.patching.paths import path_patching
from tracing.prompts import TokenizedPair

ROUNDED = 2e-6
EXACT = 1e-10
EXACT_FAMILIES = ("gpt2", "gpt_bigcode", "gpt_bigcode_heads", "opt")
"""Every piece of these computes in float64; of the others, norms or rotary tables in float32."""


def pairs() -> list[TokenizedPair]:
    ids = zoo.ids(2, 7)
    other = ids.clone()
    other[0, 2], other[0, 6], other[1, 4], other[1, 1] = 11, 31, 17, 23
    return [
        decoders.pair(clean, corrupted, (n + 3,), (n + 50,), n + 1)
        for n, (clean, corrupted) in enumerate(zip(ids.tolist(), other.tolist(), strict=True))
    ]


class Passes:
    """The three passes for one model and one direction, noising."""

    def __init__(self, name: str, model: LanguageModel, several: Sequence[TokenizedPair]) -> None:
        self.where, self.module, self.layers = WHERE[name], model.module, model.facts.n_layers
        self.pairs = several
        self.base: dict[str, Any] = {"input_ids": torch.tensor([p.clean_ids for p in several]), "use_cache": False}
        self.source: dict[str, Any] = {**self.base, "input_ids": torch.tensor([p.corrupted_ids for p in several])}

    def read(self, inputs: dict[str, Any], place: Place) -> Tensor:
        return reads(self.module, inputs, [place])[0][0]

    def metric(self, edits: Sequence[tuple[Place, Visit]]) -> np.ndarray:
        last = writes(self.module, self.base, edits)[0][:, -1]
        return np.array(
            [float(row[p.answer_ids[0]] - row[p.foil_ids[0]]) for row, p in zip(last, self.pairs, strict=True)]
        )

    def run(self, sender: str, receivers: Sequence[str], live: bool, positions: Sequence[int] | None) -> np.ndarray:
        given = []
        for receiver in receivers:
            place, heads = self.output(receiver)
            # The receiver itself runs in the second pass, whatever is held.
            edits = self.second_pass(sender, live, positions, free=place)
            value = writes(self.module, self.base, edits, [place])[1][0]
            given.append((place, partial(_set, value) if heads is None else partial(_put, heads, value)))
        return self.metric(given)

    def second_pass(
        self, sender: str, live: bool, positions: Sequence[int] | None, free: Place
    ) -> list[tuple[Place, Visit]]:
        layer = int(sender[1:].split(".")[0])
        if sender.startswith("m"):
            changed, head = self.where.place("mlp_out", layer), None
        else:
            changed, head = self.where.place("z", layer), int(sender.split(".h")[1])
        source, base = self.read(self.source, changed), self.read(self.base, changed)
        if positions is not None:
            kept = base.clone()
            kept[:, list(positions)] = source[:, list(positions)]
            source = kept
        edits: list[tuple[Place, Visit]] = [
            (changed, partial(_set, source) if head is None else partial(_put, [head], source))
        ]
        for other in range(self.layers):
            for site in ("attn_out", "mlp_out"):
                place = self.where.place(site, other)
                mine = other == layer and (site == "mlp_out") == (head is None)
                if mine or place == free or (live and site == "mlp_out"):
                    continue
                edits.append((place, partial(_set, self.read(self.base, place))))
        return edits

    def output(self, receiver: str) -> tuple[Place, list[int] | None]:
        """What is read off the second pass and put into the third."""
        if receiver == "logits":
            return self.where.place("resid_post", self.layers - 1), None
        layer = int(receiver[1:].split(".")[0])
        if receiver.startswith("m"):
            return self.where.place("mlp_out", layer), None
        stem, letter = receiver.removesuffix(">").split("<")
        return self.where.place(letter, layer), [int(stem.split(".")[1].lstrip("hkv"))]


def _set(value: Tensor, part: Tensor) -> Tensor:
    return value.clone()


def compare(
    name: str, receivers: Sequence[str], senders: Sequence[str], *, live: bool, positions: Sequence[int] | None = None
) -> None:
    model, several = LanguageModel(zoo.double(zoo.model(name))), pairs()
    grid = path_patching(
        model, several, senders=senders, receivers=receivers, mlps="live" if live else "direct", positions=positions
    )
    passes = Passes(name, model, several)
    np.testing.assert_allclose(grid.clean, passes.metric([]), atol=1e-9, rtol=0)
    tolerance = EXACT if name in EXACT_FAMILIES else ROUNDED
    moved = 0.0
    for sender in senders:
        layer, rest = int(sender[1:].split(".")[0]), sender.partition(".h")[2]
        column = int(rest) if rest else len(grid.columns) - 1
        expected = passes.run(sender, receivers, live, positions)
        np.testing.assert_allclose(grid.examples[:, layer, column], expected, atol=tolerance, rtol=0, err_msg=sender)
        moved = max(moved, float(np.abs(expected - grid.clean).max()))
    assert moved > 100 * tolerance, "no path has an effect"


SENDERS = ("a0.h1", "a1.h3", "m0", "a2.h0", "m2")


@pytest.mark.parametrize("live", [False, True], ids=["direct", "live MLPs"])
@pytest.mark.parametrize("name", zoo.decoders())
def test_paths_into_the_logits_equal_three_hooked_passes(name: str, live: bool) -> None:
    compare(name, ["logits"], SENDERS, live=live)


@pytest.mark.parametrize("live", [False, True], ids=["direct", "live MLPs"])
@pytest.mark.parametrize("name", zoo.decoders())
def test_paths_into_a_query_a_key_and_an_mlp_equal_three_hooked_passes(name: str, live: bool) -> None:
    layout = Layout.of(*(lambda model: (model.facts, model.adapter))(LanguageModel(zoo.model(name))))
    key = [reader for reader in layout.readers if reader.startswith("a2.") and reader.endswith("<k>")][-1]
    compare(name, ["a1.h2<q>", "m1", key], ("a0.h1", "m0", "a1.h3"), live=live)


@pytest.mark.parametrize("live", [False, True], ids=["direct", "live MLPs"])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2"])
def test_a_sender_changed_at_some_positions_equals_three_hooked_passes(name: str, live: bool) -> None:
    compare(name, ["logits"], ("a0.h1", "m0"), live=live, positions=[-1, 4])


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox"])
def test_a_direct_path_into_one_receiver_is_one_edge(name: str) -> None:
    model, several = LanguageModel(zoo.double(zoo.model(name))), pairs()
    edges = edge_effects(model, several)
    for reader in ("a1.h2<q>", "m2", "logits"):
        grid = path_patching(model, several, receivers=reader)
        for layer in range(3):
            for head in range(4):
                column = edges.readers.index(reader)
                row = edges.sources.index(f"a{layer}.h{head}")
                expected = edges.scores[row, column]
                found = float((grid.examples[:, layer, head] - grid.clean).mean())
                assert found == pytest.approx(expected, abs=1e-6 if name != "gpt2" else 1e-10)
                if not edges.real[row, column]:
                    assert found == 0.0


def test_denoising_is_noising_of_the_swapped_pairs() -> None:
    model, several = LanguageModel(zoo.double(zoo.model("gpt2"))), pairs()
    swapped = [
        decoders.pair(list(p.corrupted_ids), list(p.clean_ids), p.answer_ids, p.foil_ids, p.number) for p in several
    ]
    one = path_patching(model, several, direction="denoising", mlps="live")
    other = path_patching(model, swapped, direction="noising", mlps="live")
    np.testing.assert_allclose(one.examples, other.examples, atol=1e-12, rtol=0)
    np.testing.assert_allclose(one.planes["effect"], other.planes["effect"], atol=1e-6, rtol=0)
    np.testing.assert_allclose((one.clean, one.corrupted), (other.corrupted, other.clean), atol=1e-12, rtol=0)


def test_batches_and_other_lengths_in_the_set_change_nothing() -> None:
    model = LanguageModel(zoo.double(zoo.model("llama")))
    several = decoders.pairs(5)
    together = path_patching(model, several, receivers=["a2.h1<q>", "m2"], mlps="live")
    alone = path_patching(model, several, receivers=["a2.h1<q>", "m2"], mlps="live", batch=1)
    np.testing.assert_allclose(together.examples, alone.examples, atol=1e-6, rtol=0)
    for number, pair in enumerate(several):
        one = path_patching(model, [pair], receivers=["a2.h1<q>", "m2"], mlps="live")
        np.testing.assert_allclose(together.examples[number], one.examples[0], atol=1e-6, rtol=0)
