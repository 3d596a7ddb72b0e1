"""The models that traces are compared on: every architecture of the zoo and the Tracr programs, in float64."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tests import tracr, zoo
from tests.parity import hooks
from tests.parity.conftest import shared
from tracing import LanguageModel, VisionModel, families
from tracing.families import registry

TRACR = tuple(f"tracr_{name}" for name in tracr.NAMES)
NAMES = (*zoo.ZOO, *TRACR)
GENERATING = tuple(name for name in zoo.ZOO if name not in ("bert", "vit"))
UNPADDED = ("gemma2", "bloom", *TRACR)
"""Models that refuse prompts of unequal lengths: in float64, eager attention's float32 softmax makes padding NaN
(transformers' own), and the Tracr modules take no attention mask."""
WITH_HEADS = tuple(name for name in NAMES if name != "mamba" and not name.startswith("t5"))


@dataclass(frozen=True)
class Subject:
    """One model with what the tests need to know of it."""

    name: str
    module: nn.Module
    model: Any
    where: hooks.Where

    def prompt(self, number: int, short: bool = False) -> dict[str, Tensor]:
        """Keyword arguments of one prompt of one row; `short` ones have fewer positions."""
        tokens = 5 if short else 7
        if self.name == "vit":
            return {"pixel_values": zoo.example_inputs("vit", rows=4)["pixel_values"][number : number + 1].double()}
        ids = zoo.ids(6, 7)[number : number + 1, :tokens]
        if self.name.startswith("tracr"):
            size = self.model.facts.vocab_size
            return {"ids": torch.tensor([[(3 * number + 2 * n) % (size - 1) for n in range(4)]])}
        if self.name.startswith("t5"):
            return {"input_ids": ids, "decoder_input_ids": zoo.ids(6, 6)[number + 1 : number + 2, : tokens - 2]}
        return {"input_ids": ids}

    def two(self) -> list[dict[str, Tensor]]:
        """Two prompts, of unequal lengths where the model takes such."""
        return [self.prompt(0, short=self.name not in UNPADDED), self.prompt(1)]

    def arguments(self, prompt: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """What `trace` and `invoke` get: ids alone, or a mapping of names."""
        return (prompt["ids"],) if "ids" in prompt else (dict(prompt),)

    def plain(self, prompt: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the plain call gets: no cache of keys and values, as in a trace."""
        takes = {"bert", "vit"}
        return dict(prompt) if self.name in takes or "ids" in prompt else {**prompt, "use_cache": False}

    def places(self) -> list[tuple[str, int | None, hooks.Place]]:
        """Every site that hooks reach, with its layer."""
        found: list[tuple[str, int | None, hooks.Place]] = [
            ("embed", None, self.where.place("embed", None)),
            ("logits", None, self.where.place("logits", None)),
        ]
        found += [(s, n, self.where.place(s, n)) for n in range(self.layers) for s in self.where.sites]
        if self.name.startswith("t5"):
            encoder = hooks.T5_ENCODER
            found += [(f"encoder_{s}", n, encoder.place(s, n)) for n in range(2) for s in encoder.sites]
            found.append(("encoder_embed", None, encoder.place("embed", None)))
        return found

    @property
    def layers(self) -> int:
        return len(self.module.get_submodule(self.where.blocks))  # type: ignore[arg-type]

    @property
    def middle(self) -> int:
        """A layer with others around it, where there are so many."""
        return min(1, self.layers - 1)

    def site(self, name: str, layer: int | None) -> Any:
        """The trace's proxy of a standard site."""
        found = getattr(self.model.sites, name)
        return found if layer is None else found[layer]


@functools.cache
def generating(name: str) -> Subject:
    """As `subject`; T5 with as many decoder as encoder layers, without which transformers' cache is too short."""
    if not name.startswith("t5"):
        return subject(name)
    module = zoo.double(zoo.model(name, num_decoder_layers=2))
    return Subject(name, module, LanguageModel(module), hooks.WHERE[name])


@functools.cache
def subject(name: str) -> Subject:
    """A model, made once."""
    if name in TRACR:
        own = tracr.load(shared("tracr") / name.removeprefix("tracr_"))
        heads = own.config["num_attention_heads"]
        where = replace(hooks.WHERE["tracr"], heads=heads, kv=heads, d=own.config["head_dim"])
        families.register(tracr.ADAPTER, replace=True)
        try:
            model = LanguageModel(own)
            assert model.adapter is tracr.ADAPTER
        finally:  # other tests expect the family to be unknown
            registry._FAMILIES.pop("tracr")
            registry._OWN.discard("tracr")
        return Subject(name, own, model, where)
    module = zoo.double(zoo.model(name))
    wrap = VisionModel if name == "vit" else LanguageModel
    return Subject(name, module, wrap(module), hooks.WHERE[name])


def error(found: Any, expected: Tensor) -> float:
    """The largest difference, in units of the reference's largest number (at least 1)."""
    value: Tensor = getattr(found, "value", found)
    assert value.shape == expected.shape, (tuple(value.shape), tuple(expected.shape))
    if not expected.numel():
        return 0.0
    off = (value - expected).abs().nan_to_num(posinf=1e300).max()
    return float(off / expected.abs().max().clamp(min=1.0))
