"""The floor: torch hooks written by hand, for each task the least that gives its values."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import tasks


class Plain:
    """Tasks by forward hooks."""

    def __init__(self, models: Mapping[str, Any]) -> None:
        self._models = models
        self._blocks = {name: model.transformer.h for name, model in models.items()}

    @torch.inference_mode()
    def forward_alone(self) -> dict[str, Tensor]:
        """No hook at all."""
        return {"logits": self._models["small"](input_ids=tasks.CLEAN, use_cache=False).logits}

    def one_site(self) -> dict[str, Tensor]:
        hidden, logits = self._read("small", tasks.CLEAN, 2)
        return {"hidden": hidden, "logits": logits}

    def one_early_site(self) -> dict[str, Tensor]:
        return {"hidden": self._read("small", tasks.CLEAN, 0)[0]}

    def invokes(self) -> dict[str, Tensor]:
        hidden, _ = self._read("small", torch.cat(tasks.MANY), 2)
        return {"last": torch.stack([hidden[row : row + 1, -1].clone() for row in range(tasks.INVOKES)])}

    def run_nodes(self) -> dict[str, Tensor]:
        found: list[Tensor] = []

        def compute(_: object, __: object, value: Tensor) -> None:
            for _step in range(tasks.NODES // 2):
                value = value * 1.001 + 0.001
            found.append(value)

        self._hooked("small", 2, compute, tasks.CLEAN)
        return {"value": found[0]}

    def sweep_traces(self) -> dict[str, Tensor]:
        clean = self._every_layer("deep", tasks.CLEAN)
        cells = []
        for layer in range(12):
            for position in range(tasks.TOKENS):

                def patch(_: object, __: object, value: Tensor, layer: int = layer, at: int = position) -> Tensor:
                    value = value.clone()
                    value[:, at] = clean[layer][:, at]
                    return value

                cells.append(self._hooked("deep", layer, patch, tasks.CORRUPTED)[0, -1, 5])
        return {"cells": torch.stack(cells)}

    def sweep_invokes(self) -> dict[str, Tensor]:
        clean = self._every_layer("deep", tasks.CLEAN)
        handles = []
        for layer, block in enumerate(self._blocks["deep"]):

            def patch(_: object, __: object, value: Tensor, layer: int = layer) -> Tensor:
                value = value.clone()
                for position in range(tasks.TOKENS):
                    value[layer * tasks.TOKENS + position, position] = clean[layer][0, position]
                return value

            handles.append(block.register_forward_hook(patch))
        try:
            logits = self._forward("deep", tasks.CORRUPTED.expand(12 * tasks.TOKENS, -1))
        finally:
            for handle in handles:
                handle.remove()
        return {"cells": logits[:, -1, 5]}

    @torch.inference_mode()
    def generate(self) -> dict[str, Tensor]:
        found: list[Tensor] = []
        handle = self._blocks["small"][2].register_forward_hook(lambda _, __, value: found.append(value[:, -1].clone()))
        try:
            new = tasks.NEW_TOKENS
            made = self._models["small"].generate(
                tasks.CLEAN, attention_mask=torch.ones_like(tasks.CLEAN), max_new_tokens=new, min_new_tokens=new
            )
        finally:
            handle.remove()
        return {"ids": made, "steps": torch.stack(found)}

    def every_layer(self) -> dict[str, Tensor]:
        return {f"{n}": value for n, value in enumerate(self._every_layer("wide", tasks.LONG))}

    # -- helpers ------------------------------------------------------------------------------------------------------
    @torch.inference_mode()
    def _forward(self, model: str, ids: Tensor) -> Tensor:
        logits: Tensor = self._models[model](input_ids=ids, use_cache=False).logits
        return logits

    def _hooked(self, model: str, layer: int, hook: Callable[..., Any], ids: Tensor) -> Tensor:
        handle = self._blocks[model][layer].register_forward_hook(hook)
        try:
            return self._forward(model, ids)
        finally:
            handle.remove()

    def _read(self, model: str, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        found: list[Tensor] = []
        logits = self._hooked(model, layer, lambda _, __, value: found.append(value), ids)
        return found[0], logits

    def _every_layer(self, model: str, ids: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        handles = [
            block.register_forward_hook(lambda _, __, value: found.append(value)) for block in self._blocks[model]
        ]
        try:
            self._forward(model, ids)
        finally:
            for handle in handles:
                handle.remove()
        return found
