"""The four methods against a model with every edge written out and a mask on each (tests/edges_written_out.py).

Float64, to 1e-12: the same numbers from one gradient per mask as from hooks, head-space gradients and a contraction.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.decoders import gpt2, pairs
from tests.edges_written_out import WrittenOut
from tracing.circuits.attribution import edge_attribution
from tracing.circuits.edge_batches import Options
from tracing.models import LanguageModel

EXACT = 1e-12
PAIRS = pairs(3, lengths=(6,))
STEPS = 3


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(gpt2(), dtype="float64")


@pytest.fixture(scope="module")
def written_out(model: LanguageModel) -> WrittenOut:
    return WrittenOut(model.module)


def ids(direction: str, *, own: bool) -> Tensor:
    clean = own == (direction == "noising")
    return torch.tensor([pair.clean_ids if clean else pair.corrupted_ids for pair in PAIRS])


def metric(logits: Tensor) -> Tensor:
    found = [
        row[list(p.answer_ids)].mean() - row[list(p.foil_ids)].mean() for row, p in zip(logits, PAIRS, strict=True)
    ]
    return torch.stack(found)


def alphas(rule: str) -> list[float]:
    """From the corrupted end, 0, to the clean end, 1."""
    return {"left": [0, 1 / 3, 2 / 3], "right": [1 / 3, 2 / 3, 1], "midpoint": [1 / 6, 1 / 2, 5 / 6]}[rule]


def patched_writes(written_out: WrittenOut, direction: str, source: str) -> Tensor:
    with torch.no_grad():
        other = written_out.run(ids(direction, own=False))[1]
    if source == "zero":
        return torch.zeros_like(other)
    return other.mean(1, keepdim=True).expand_as(other) if source == "mean" else other


def ways(direction: str, rule: str, source: str) -> list[float]:
    """How much of the patch is in place at each step."""
    from_patch = direction == "noising" or source != "interchange"
    return [1 - alpha if from_patch else alpha for alpha in alphas(rule)]


@pytest.mark.parametrize("source", ["interchange", "zero", "mean"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("rule", ["left", "right", "midpoint"])
class TestMethods:
    def test_eap(self, model: Any, written_out: WrittenOut, direction: str, rule: str, source: str) -> None:
        own = written_out.run(ids(direction, own=True))[1].detach()
        change = patched_writes(written_out, direction, source) - own
        expected = written_out.slopes(ids(direction, own=True), metric, 0.0, change=change)
        found = edge_attribution(model, PAIRS, direction=direction, rule=rule, source=source)
        np.testing.assert_allclose(found.scores, expected, atol=EXACT, rtol=0)

    def test_integrated_over_inputs(
        self, model: Any, written_out: WrittenOut, direction: str, rule: str, source: str
    ) -> None:
        own = written_out.run(ids(direction, own=True))[1].detach()
        change = patched_writes(written_out, direction, source) - own
        expected = sum(
            written_out.slopes(
                ids(direction, own=True), metric, 0.0, change=change, override={0: own[0] + w * change[0]}
            )
            for w in ways(direction, rule, source)
        )
        found = edge_attribution(
            model, PAIRS, method="eap-ig-inputs", steps=STEPS, direction=direction, rule=rule, source=source
        )
        np.testing.assert_allclose(found.scores, expected / STEPS, atol=EXACT, rtol=0)

    def test_integrated_over_activations(
        self, model: Any, written_out: WrittenOut, direction: str, rule: str, source: str
    ) -> None:
        own = written_out.run(ids(direction, own=True))[1].detach()
        change = patched_writes(written_out, direction, source) - own
        heads = written_out.heads
        expected = torch.zeros(len(own), 40, dtype=torch.float64)
        groups = [[0]]
        for layer in range(written_out.layers):
            first = 1 + layer * (heads + 1)
            groups += [list(range(first, first + heads)), [first + heads]]
        for group in groups:
            for w in ways(direction, rule, source):
                override = {row: own[row] + w * change[row] for row in group}
                slopes = written_out.slopes(ids(direction, own=True), metric, 0.0, change=change, override=override)
                expected[group] += slopes[group] / STEPS
        found = edge_attribution(
            model, PAIRS, method="eap-ig-activations", steps=STEPS, direction=direction, rule=rule, source=source
        )
        np.testing.assert_allclose(found.scores, expected, atol=EXACT, rtol=0)

    def test_integrated_over_masks(
        self, model: Any, written_out: WrittenOut, direction: str, rule: str, source: str
    ) -> None:
        patched = patched_writes(written_out, direction, source)
        expected = sum(
            written_out.slopes(ids(direction, own=True), metric, w, patched=patched)
            for w in ways(direction, rule, source)
        )
        found = edge_attribution(
            model, PAIRS, method="ig-mask", steps=STEPS, direction=direction, rule=rule, source=source
        )
        np.testing.assert_allclose(found.scores, expected / STEPS, atol=EXACT, rtol=0)


def test_the_reference_is_the_model(model: LanguageModel, written_out: WrittenOut) -> None:
    inputs = ids("noising", own=True)
    expected = model.module(input_ids=inputs).logits[:, -1]
    torch.testing.assert_close(written_out.run(inputs)[0], expected, atol=EXACT, rtol=0)


def test_the_left_rule_starts_at_the_corrupted_end_in_both_directions() -> None:
    assert Options("eap-ig-inputs", 4, "left", "noising").weights() == [1.0, 0.75, 0.5, 0.25]
    assert Options("eap-ig-inputs", 4, "left", "denoising").weights() == [0.0, 0.25, 0.5, 0.75]
    assert Options("eap-ig-inputs", 2, "right", "noising").weights() == [0.5, 0.0]
    assert Options("eap-ig-inputs", 2, "midpoint", "denoising").weights() == [0.25, 0.75]
    assert Options("eap-ig-inputs", 2, "left", "denoising", "zero").weights() == [1.0, 0.5]
    assert Options("eap", 9).weights() == [0.0]
