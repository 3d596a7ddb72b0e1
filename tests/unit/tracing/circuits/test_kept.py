"""Unpatched runs that are kept to the end: what they take is what was said, and too much is refused first."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import zoo
from tests.decoders import pairs
from tracing.circuits import kept
from tracing.circuits.acdc import acdc
from tracing.circuits.exact import task
from tracing.circuits.kept import kept_numbers, kept_parts
from tracing.errors import OutOfMemoryError
from tracing.models import LanguageModel
from tracing.patching.paths import path_patching


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)
    elif is_dataclass(value):
        for field in fields(value):
            if field.name != "calls":
                yield from tensors(getattr(value, field.name))


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi", "gemma2"])
@pytest.mark.parametrize("ablation", ["interchange", "mean", "resample"])
def test_the_runs_take_at_most_the_numbers_that_are_said_and_not_much_less(name: str, ablation: Any) -> None:
    model, several = LanguageModel(zoo.model(name)), pairs(6, lengths=(5, 8))
    made = task(model, several, ablation=ablation)
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors(kept_parts(made))}
    said = sum(pair.length for pair in several) * kept_numbers(model.facts) * 4
    assert 0.5 * said < sum(storages.values()) <= said


@pytest.mark.parametrize("method", [path_patching, acdc])
def test_more_than_the_memory_is_refused_before_anything_runs(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, several = LanguageModel(zoo.model("gpt2", torch.float64)), pairs(3, lengths=(5,))
    needed = 15 * kept_numbers(model.facts) * 8
    forwards: list[Any] = []
    model.block_modules[0].register_forward_pre_hook(lambda *_: forwards.append(1))
    monkeypatch.setattr(kept, "device_bytes", lambda _: needed - 1)
    with pytest.raises(OutOfMemoryError, match="The unpatched runs of 3 pairs with 15 tokens take about"):
        method(model, several, threshold=100.0) if method is acdc else method(model, several)
    assert not forwards
    monkeypatch.setattr(kept, "device_bytes", lambda _: needed)
    method(model, several, threshold=100.0) if method is acdc else method(model, several)
    assert forwards
