"""Tasks in the words of nnsight 0.8.1, which runs a trace's block as it stands."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import tasks


class Captured:
    """Tasks by captured blocks. Nothing is recorded, so there is no `record_nodes`."""

    def __init__(self, models: Mapping[str, Any]) -> None:
        self._models = models
        self._save = importlib.import_module("nnsight").save

    def one_site(self) -> dict[str, Tensor]:
        model = self._models["small"]
        with model.trace(tasks.CLEAN):
            hidden = model.transformer.h[2].output.save()
            logits = model.lm_head.output.save()
        return {"hidden": hidden, "logits": logits}

    def one_early_site(self) -> dict[str, Tensor]:
        model = self._models["small"]
        with model.trace(tasks.CLEAN) as tracer:
            hidden = model.transformer.h[0].output.save()
            tracer.stop()
        return {"hidden": hidden}

    def invokes(self) -> dict[str, Tensor]:
        model, save = self._models["small"], self._save
        found: list[Tensor] = []
        with model.trace() as tracer:
            kept = save(found)
            for prompt in tasks.MANY:
                with tracer.invoke(prompt):
                    kept.append(model.transformer.h[2].output[:, -1])
        return {"last": torch.stack(kept)}

    def run_nodes(self) -> dict[str, Tensor]:
        model, steps = self._models["small"], tasks.NODES // 2
        with model.trace(tasks.CLEAN):
            value = model.transformer.h[2].output
            for _ in range(steps):
                value = value * 1.001 + 0.001
            kept = value.save()
        return {"value": kept}

    def sweep_traces(self) -> dict[str, Tensor]:
        model = self._models["deep"]
        cells: list[Tensor] = []
        clean = self._clean()
        for layer in range(12):
            for position in range(tasks.TOKENS):
                with model.trace(tasks.CORRUPTED):
                    model.transformer.h[layer].output[:, position] = clean[layer][:, position]
                    cell = model.lm_head.output[0, -1, 5].save()
                cells.append(cell)
        return {"cells": torch.stack(cells)}

    def sweep_invokes(self) -> dict[str, Tensor]:
        model, save = self._models["deep"], self._save
        cells: list[Tensor] = []
        clean = self._clean()
        with model.trace() as tracer:
            kept = save(cells)
            for layer in range(12):
                for position in range(tasks.TOKENS):
                    with tracer.invoke(tasks.CORRUPTED):
                        model.transformer.h[layer].output[:, position] = clean[layer][:, position]
                        kept.append(model.lm_head.output[0, -1, 5])
        return {"cells": torch.stack(kept)}

    def generate(self) -> dict[str, Tensor]:
        model, save, new = self._models["small"], self._save, tasks.NEW_TOKENS
        found: list[Tensor] = []
        block = model.transformer.h[2]
        with model.generate(tasks.CLEAN, max_new_tokens=new, min_new_tokens=new) as tracer:
            kept = save(found)
            for _ in tracer.iter[:new]:
                kept.append(block.output[:, -1])
            made = tracer.result.save()
        return {"ids": made, "steps": torch.stack(kept)}

    def every_layer(self) -> dict[str, Tensor]:
        model, save = self._models["wide"], self._save
        found: list[Tensor] = []
        with model.trace(tasks.LONG):
            kept = save(found)
            for block in model.transformer.h:
                kept.append(block.output)
        return {f"{n}": value for n, value in enumerate(kept)}

    def _clean(self) -> list[Tensor]:
        model, save = self._models["deep"], self._save
        found: list[Tensor] = []
        with model.trace(tasks.CLEAN):
            kept = save(found)
            for layer in range(12):
                kept.append(model.transformer.h[layer].output)
        return list(kept)
