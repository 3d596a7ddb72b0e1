"""Sweeps without a peer: ours, plain hooks, and a packed version written by hand for GPT-2 alone."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.sweep.tasks import ANSWER, FOIL, Task, logit_difference
from tracing.models import LanguageModel
from tracing.patching import sweep
from tracing.prompts import TokenizedPair

Cells = Sequence[tuple[int, ...]]


class Ours:
    """`tracing.patching.sweep`, baselines included."""

    whole = True

    def __init__(self, network: Any) -> None:
        self._model = LanguageModel(network)

    def run(self, task: Task, cells: Cells) -> Tensor:
        clean, corrupted = task.prompts()
        pairs = [_pair(n, a.tolist(), b.tolist()) for n, (a, b) in enumerate(zip(clean, corrupted, strict=True))]
        grid = sweep(self._model, pairs, sites=task.site, over=("layer", *task.axes))
        return torch.from_numpy(grid.examples).mean(0).flatten()

    def flops(self, task: Task) -> tuple[float, float]:
        """Of our plan, and of one full forward a cell."""
        from tracing.patching import prepare

        clean, corrupted = task.prompts()
        pairs = [_pair(n, a.tolist(), b.tolist()) for n, (a, b) in enumerate(zip(clean, corrupted, strict=True))]
        plan = prepare(self._model, pairs, sites=task.site, over=("layer", *task.axes)).plan
        return plan.flops, plan.naive_flops


def _pair(number: int, clean: list[int], corrupted: list[int]) -> TokenizedPair:
    texts = tuple(map(str, clean)), tuple(map(str, corrupted))
    return TokenizedPair(number + 1, tuple(clean), tuple(corrupted), *texts, (ANSWER,), (FOIL,))


class Hooks:
    """What a researcher writes first: one full forward a cell, with a hook at the site."""

    whole = False

    def __init__(self, network: Any) -> None:
        self._network = network

    @torch.inference_mode()
    def run(self, task: Task, cells: Cells) -> Tensor:
        network, width = self._network, self._network.config.n_embd // self._network.config.n_head
        clean, corrupted = (ids.to(network.device) for ids in task.prompts())
        sites = [block if task.site == "resid_pre" else block.attn.c_proj for block in network.transformer.h]
        saved: list[Tensor] = []
        handles = [site.register_forward_pre_hook(lambda _, args: saved.append(args[0])) for site in sites]
        network(clean, use_cache=False)
        for handle in handles:
            handle.remove()
        found = []
        for layer, *place in cells:
            index = where(task, place, width)

            def patch(_: object, args: tuple[Tensor, ...], layer: int = layer, index: Any = index) -> object:
                hidden = args[0].clone()
                hidden[index] = saved[layer][index]
                return (hidden, *args[1:])

            handle = sites[layer].register_forward_pre_hook(patch)
            found.append(logit_difference(network(corrupted, use_cache=False).logits[:, -1]).mean())
            handle.remove()
        return torch.stack(found).cpu()


def where(task: Task, place: Sequence[int], width: int) -> tuple[Any, ...]:
    """The index of a cell's patch in `[pair, position, width]`."""
    at = dict(zip(task.axes, place, strict=True))
    features = slice(at["head"] * width, (at["head"] + 1) * width) if "head" in at else slice(None)
    return slice(None), at.get("position", slice(None)), features


class ByHand:
    """GPT-2 from its weights: one walk through the layers, which the patches of each layer join. Nothing generic.

    The rows of a layer (positions, heads, or both) that start at one position lie side by side in one sequence, which
    attends to the corrupted run's keys and values; layers, heads and pairs are rows of the batch.
    """

    whole = True

    def __init__(self, network: Any) -> None:
        self._network, self._heads = network, network.config.n_head

    @torch.inference_mode()
    def run(self, task: Task, cells: Cells) -> Tensor:
        body, heads = self._network.transformer, self._heads
        clean, base = (self._forward(ids.to(self._network.device)) for ids in task.prompts())
        pairs, length = task.pairs, task.tokens
        by_position = "position" in task.axes
        firsts = range(length) if by_position else (0,)
        rows = torch.cat([torch.full((length - p,), p) for p in firsts])
        positions = torch.cat([torch.arange(p, length) for p in firsts])
        own = (rows[:, None] == rows[None]) & (positions[None] <= positions[:, None])
        prefix = length if by_position else 0
        before = torch.arange(prefix)[None] < rows[:, None]
        seen = torch.cat([before, own], 1)
        device, dtype = base["resid"][0].device, base["resid"][0].dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf).to(device)
        patched = ((rows == positions) if by_position else torch.ones_like(rows, dtype=torch.bool)).to(device)
        positions, last = positions.to(device), (positions == length - 1).to(device)
        batch = torch.empty(0, len(positions), body.wte.weight.shape[1], dtype=dtype, device=device)
        count = len(body.h)
        for layer, block in enumerate(body.h):
            if task.site == "resid_pre":
                entering = base["resid"][layer][:, positions]
                entering[:, patched] = clean["resid"][layer][:, positions[patched]]
                batch = torch.cat([batch, entering])
            elif layer:
                entering = base["resid"][layer][:, positions].repeat(heads, 1, 1)
                entering[:, patched] = self._heads_of(clean, base, layer - 1, positions[patched])
                batch = torch.cat([batch, entering])
            if not len(batch):
                continue
            q, k, v = _linear(block.ln_1(batch), block.attn.c_attn).tensor_split(3, -1)
            repeats = len(batch) // pairs
            k, v = (
                torch.cat([old[layer][:, :, :prefix].repeat(repeats, 1, 1, 1), self._split(new)], 2)
                for old, new in ((base["k"], k), (base["v"], v))
            )
            here = mask
            if layer == count - 1:
                q, batch, here = q[:, last], batch[:, last], mask[last]
            z = functional.scaled_dot_product_attention(self._split(q), k, v, attn_mask=here).transpose(1, 2).flatten(2)
            batch = batch + _linear(z, block.attn.c_proj)
            batch = batch + _linear(block.mlp.act(_linear(block.ln_2(batch), block.mlp.c_fc)), block.mlp.c_proj)
        if task.site == "z":  # heads of the last layer: no block runs
            at = torch.tensor([length - 1], device=device)
            ends = self._heads_of(clean, base, count - 1, at)
            if by_position:
                other = base["final"][:, None].repeat(heads, length, 1)
                other[:, -1:] = ends
                ends = other
            batch = torch.cat([batch, ends])
        weight = self._network.lm_head.weight
        read = body.ln_f(batch) @ (weight[ANSWER] - weight[FOIL])
        units = heads if task.site == "z" else 1
        return torch.unflatten(read.float(), 0, (-1, units, pairs)).mean(2).flatten().cpu()

    def _heads_of(self, clean: Any, base: Any, layer: int, positions: Tensor) -> Tensor:
        """resid_post of a layer with one head's z from the clean run, `[head · pair, position, width]`."""
        block = self._network.transformer.h[layer]
        more = (clean["z"][layer] - base["z"][layer])[:, positions].unflatten(-1, (self._heads, -1))
        weight = block.attn.c_proj.weight.unflatten(0, (self._heads, -1))
        middle: Tensor = base["mid"][layer][:, positions] + torch.einsum("pthd,hdm->hptm", more, weight)
        middle = middle.flatten(0, 1)
        added: Tensor = _linear(block.mlp.act(_linear(block.ln_2(middle), block.mlp.c_fc)), block.mlp.c_proj)
        return middle + added

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self._heads, -1)).transpose(1, 2)

    def _forward(self, ids: Tensor) -> dict[str, Any]:
        """Residuals, keys, values, z and resid_mid of every block, and the last residual at the last position."""
        body = self._network.transformer
        hidden = body.wte(ids) + body.wpe.weight[: ids.shape[1]]
        found: dict[str, Any] = {name: [] for name in ("resid", "k", "v", "z", "mid")}
        for block in body.h:
            q, k, v = map(self._split, _linear(block.ln_1(hidden), block.attn.c_attn).tensor_split(3, -1))
            z = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            middle = hidden + _linear(z, block.attn.c_proj)
            for name, value in (("resid", hidden), ("k", k), ("v", v), ("z", z), ("mid", middle)):
                found[name].append(value)
            hidden = middle + _linear(block.mlp.act(_linear(block.ln_2(middle), block.mlp.c_fc)), block.mlp.c_proj)
        found["final"] = hidden[:, -1]
        return found


def _linear(x: Tensor, conv: Any) -> Tensor:
    return torch.addmm(conv.bias, x.reshape(-1, x.shape[-1]), conv.weight).view(*x.shape[:-1], -1)


CONTESTANTS: Final = {"ours": Ours, "hooks": Hooks, "by hand": ByHand}
