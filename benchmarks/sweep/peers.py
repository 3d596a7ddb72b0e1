"""The same sweeps in the words of the peers. Imported only in processes that have them on their path."""

import importlib
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from benchmarks.sweep.tasks import Task, logit_difference

Cells = Sequence[tuple[int, ...]]


def _index(task: Task, place: Sequence[int], width: int) -> tuple[Any, ...]:
    at = dict(zip(task.axes, place, strict=True))
    features = slice(at["head"] * width, (at["head"] + 1) * width) if "head" in at else slice(None)
    return slice(None), at.get("position", slice(None)), features


def _tokenizer() -> Any:
    """nnsight wants one, though all prompts are ids."""
    words: Any = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    fast: Any = PreTrainedTokenizerFast
    return fast(tokenizer_object=words, pad_token="a", eos_token="a", unk_token="a")


class Nnsight:
    """One trace a cell, as its tutorials patch."""

    whole = False

    def __init__(self, network: Any) -> None:
        nnsight = importlib.import_module("nnsight")
        self._model, self._save = nnsight.LanguageModel(network, tokenizer=_tokenizer()), nnsight.save
        self._width = network.config.n_embd // network.config.n_head

    @torch.inference_mode()
    def run(self, task: Task, cells: Cells) -> Tensor:
        model = self._model
        clean, corrupted = (ids.to(model.device) for ids in task.prompts())
        kept, found = self._clean(task, clean), []
        for layer, *place in cells:
            index = _index(task, place, self._width)
            site = self._site(task, layer)
            with model.trace(corrupted):
                hidden = site.input.clone()
                hidden[index] = kept[layer][index]
                site.input = hidden
                logits = model.lm_head.output[:, -1].save()
            found.append(logit_difference(logits).mean())
        return torch.stack(found).cpu()

    def _site(self, task: Task, layer: int) -> Any:
        block = self._model.transformer.h[layer]
        return block if task.site == "resid_pre" else block.attn.c_proj

    def _clean(self, task: Task, ids: Tensor) -> list[Tensor]:
        model, save = self._model, self._save
        values: list[Tensor] = []
        with model.trace(ids):
            kept = save(values)
            for block in model.transformer.h:
                kept.append(block.input if task.site == "resid_pre" else block.attn.c_proj.input)
        return list(kept)


class NnsightBatched(Nnsight):
    """Its best batching: the cells of a layer are rows of one trace, with the last logits alone."""

    whole = True

    @torch.inference_mode()
    def run(self, task: Task, cells: Cells) -> Tensor:
        model, width = self._model, self._width
        clean, corrupted = (ids.to(model.device) for ids in task.prompts())
        kept, found = self._clean(task, clean), []
        for layer, group in groupby(cells, key=lambda cell: cell[0]):
            places = [_index(task, place, width) for _, *place in group]
            rows, new = corrupted.repeat(len(places), 1), kept[layer]
            site = self._site(task, layer)
            with model.trace(rows, logits_to_keep=1):
                hidden = site.input.unflatten(0, (len(places), -1)).clone()
                for row, index in enumerate(places):
                    hidden[row][index] = new[index]
                site.input = hidden.flatten(0, 1)
                logits = model.lm_head.output[:, -1].save()
            found.append(torch.unflatten(logit_difference(logits), 0, (len(places), -1)).mean(1))
        return torch.cat(found).cpu()


class Lens:
    """TransformerLens: what its activation patching does, one hooked forward a cell."""

    whole = False

    def __init__(self, network: Any) -> None:
        builder = importlib.import_module("transformer_lens.model_bridge.sources._bridge_builder")
        self._model = builder.build_bridge_from_module(network, "GPT2LMHeadModel", hf_config=network.config)
        self._device = network.device

    @torch.inference_mode()
    def run(self, task: Task, cells: Cells) -> Tensor:
        model = self._model
        clean, corrupted = (ids.to(self._device) for ids in task.prompts())
        name = "blocks.{}.hook_resid_pre" if task.site == "resid_pre" else "blocks.{}.attn.hook_z"
        names = {name.format(layer) for layer in range(model.cfg.n_layers)}
        _, kept = model.run_with_cache(clean, names_filter=lambda one: one in names)
        found = []
        for layer, *place in cells:
            at = dict(zip(task.axes, place, strict=True))
            index = (slice(None), at.get("position", slice(None)), *([at["head"]] if "head" in at else []))

            def patch(value: Tensor, hook: Any, layer: int = layer, index: Any = index) -> Tensor:
                value[index] = kept[name.format(layer)][index]
                return value

            logits = model.run_with_hooks(corrupted, fwd_hooks=[(name.format(layer), patch)])
            found.append(logit_difference(logits[:, -1]).mean())
        return torch.stack(found).cpu()


PEERS: Final = {"nnsight": Nnsight, "nnsight batched": NnsightBatched, "TransformerLens": Lens}
