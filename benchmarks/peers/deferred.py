"""Tasks in the words that our tracer and nnsight 0.4.11 share."""

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import tasks


def real(proxy: Any) -> Tensor:
    """The tensor of a saved proxy."""
    value: Tensor = proxy if type(proxy) is Tensor else proxy.value
    return value


class Deferred:
    """Tasks by recorded traces."""

    def __init__(self, models: Mapping[str, Any]) -> None:
        self._models = models

    def one_site(self) -> dict[str, Tensor]:
        model = self._models["small"]
        with model.trace(tasks.CLEAN):
            hidden = model.transformer.h[2].output.save()
            logits = model.lm_head.output.save()
        return {"hidden": real(hidden), "logits": real(logits)}

    def one_early_site(self) -> dict[str, Tensor]:
        model = self._models["small"]
        with model.trace(tasks.CLEAN):
            hidden = model.transformer.h[0].output.save()
        return {"hidden": real(hidden)}

    def invokes(self) -> dict[str, Tensor]:
        model, found = self._models["small"], []
        with model.trace() as tracer:
            for prompt in tasks.MANY:
                with tracer.invoke(prompt):
                    found.append(model.transformer.h[2].output[:, -1].save())
        return {"last": torch.stack([real(value) for value in found])}

    def record_nodes(self) -> dict[str, Tensor]:
        model = self._models["small"]
        with contextlib.suppress(tasks.Stop), model.trace(tasks.CLEAN):
            value = model.transformer.h[2].output
            for _ in range(tasks.NODES // 2):
                value = value * 1.001 + 0.001
            raise tasks.Stop
        return {}

    def run_nodes(self) -> dict[str, Tensor]:
        model = self._models["small"]
        with model.trace(tasks.CLEAN):
            value = model.transformer.h[2].output
            for _ in range(tasks.NODES // 2):
                value = value * 1.001 + 0.001
            kept = value.save()
        return {"value": real(kept)}

    def sweep_traces(self) -> dict[str, Tensor]:
        model, cells = self._models["deep"], []
        clean = self._clean()
        for layer in range(12):
            for position in range(tasks.TOKENS):
                with model.trace(tasks.CORRUPTED):
                    model.transformer.h[layer].output[:, position] = clean[layer][:, position]
                    cell = model.lm_head.output[0, -1, 5].save()
                cells.append(real(cell))
        return {"cells": torch.stack(cells)}

    def sweep_invokes(self) -> dict[str, Tensor]:
        model, cells = self._models["deep"], []
        clean = self._clean()
        with model.trace() as tracer:
            for layer in range(12):
                for position in range(tasks.TOKENS):
                    with tracer.invoke(tasks.CORRUPTED):
                        model.transformer.h[layer].output[:, position] = clean[layer][:, position]
                        cells.append(model.lm_head.output[0, -1, 5].save())
        return {"cells": torch.stack([real(cell) for cell in cells])}

    def generate(self) -> dict[str, Tensor]:
        model, found, new = self._models["small"], [], tasks.NEW_TOKENS
        block = model.transformer.h[2]
        with model.generate(tasks.CLEAN, max_new_tokens=new, min_new_tokens=new) as tracer:
            found.append(block.output[:, -1].save())
            found += [block.next().output[:, -1].save() for _ in range(new - 1)]
            made = tracer.result.save() if hasattr(type(tracer), "result") else model.generator.output.save()
        return {"ids": real(made), "steps": torch.stack([real(value) for value in found])}

    def every_layer(self) -> dict[str, Tensor]:
        model = self._models["wide"]
        with model.trace(tasks.LONG):
            found = [block.output.save() for block in model.transformer.h]
            logits = model.lm_head.output[0, 0, 0].save()  # the forward runs to its end, as those of the others do
        assert real(logits).isfinite()
        return {f"{n}": real(value) for n, value in enumerate(found)}

    def _clean(self) -> list[Tensor]:
        model = self._models["deep"]
        with model.trace(tasks.CLEAN):
            found = [model.transformer.h[layer].output.save() for layer in range(12)]
        return [real(value) for value in found]
