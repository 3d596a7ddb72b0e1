"""Tracr programs as tasks: every input against another one, and the edges their circuits are known to have."""

import functools
import json

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests import decoders
from tests.parity.conftest import shared
from tests.parity.subjects import subject
from tracing.circuits.layout import Layout
from tracing.metrics import Targets
from tracing.models import LanguageModel
from tracing.prompts import TokenizedPair


@functools.cache
def program(name: str) -> tuple[LanguageModel, Layout]:
    """The compiled transformer in float64."""
    model: LanguageModel = subject(f"tracr_{name}").model
    return model, Layout.of(model.facts, model.adapter)


def inputs(name: str, each: int = 40) -> list[TokenizedPair]:
    """Up to `each` inputs of 2, 3 and 4 tokens behind BOS, paired at random with others of the same length."""
    recorded, rng, found = np.load(shared("tracr") / name / "jax_io.npz"), np.random.default_rng(0), []
    for size in (2, 3, 4):
        rows = recorded[f"tokens_{size}"]
        for row in rng.permutation(len(rows))[:each]:
            other = (row + rng.integers(1, len(rows))) % len(rows)
            found.append(decoders.pair(rows[row].tolist(), rows[other].tolist(), (0,), (1,), len(found) + 1))
    return found


def truth(name: str, ablation: str) -> NDArray[np.bool_]:
    """The recorded circuit `[source, reader]` under "resample" or "zero" ablation.

    Edges from the position embedding are left out: it is no source here, and stays as it is under both ablations.
    """
    recorded = json.loads((shared("tracr") / name / "ground_truth.json").read_text(encoding="utf-8"))
    layout = program(name)[1]
    found = np.zeros_like(layout.real)
    for source, reader, slot in recorded["proper"][ablation]["circuit_edges"]:
        if source != "pos_embed":
            to = "logits" if reader == "out" else reader if slot == "in" else f"{reader}<{slot}>"
            found[layout.edge("input" if source == "embed" else source, to)] = True
    return found


def distance(logits: Tensor, targets: Targets) -> Tensor:
    """Squared distance to the clean outputs, mean over positions behind BOS: `[pair, position, output]` to `[pair]`."""
    assert targets.reference is not None
    return (logits - targets.reference)[:, 1:].pow(2).sum(-1).mean(-1)


def correct_output(logits: Tensor, targets: Targets) -> Tensor:
    """The clean run's winning output, or the one number there is, mean over positions behind BOS."""
    assert targets.reference is not None
    best = targets.reference.argmax(-1, keepdim=True)
    found: Tensor = torch.gather(logits, -1, best)[:, 1:, 0].mean(-1)
    return found
