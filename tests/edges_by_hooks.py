"""One edge moved on the unmodified model, by plain hooks: what edge scores are compared with.

A source's change is read from two runs; a reader sees it added to its own copy of the residual stream, and nothing else
sees it. Slow on purpose: one forward an edge.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tracing.circuits.layout import Layout, Place
from tracing.families.identities import output_weight
from tracing.graph.heads import get_heads
from tracing.models import LanguageModel
from tracing.prompts import TokenizedPair


class Hand:
    """Clean and corrupted runs of pairs of one length, and effects of moving single edges of the clean one."""

    def __init__(self, model: LanguageModel, pairs: Sequence[TokenizedPair]) -> None:
        self.model, self.adapter, self.facts = model, model.adapter, model.facts
        self.layout = Layout.of(model.facts, model.adapter)
        self.pairs = list(pairs)
        self.clean = torch.tensor([pair.clean_ids for pair in pairs])
        self.seen, self.base = self._record(self.clean)
        self.other, self.base_corrupted = self._record(torch.tensor([pair.corrupted_ids for pair in pairs]))

    def block(self, layer: int) -> nn.Module:
        return self.model.block_modules[layer]

    def part(self, layer: int, path: str) -> nn.Module:
        return self.block(layer).get_submodule(path)

    @property
    def sandwich(self) -> bool:
        return self.adapter.attn_out not in ("", self.adapter.out_proj)

    def metric(self, logits: Tensor) -> Tensor:
        """Logit difference of each pair at its last position."""
        rows = []
        for row, pair in zip(logits[:, -1], self.pairs, strict=True):
            rows.append(row[list(pair.answer_ids)].mean() - row[list(pair.foil_ids)].mean())
        return torch.stack(rows)

    @torch.no_grad()
    def run(self, ids: Tensor, hooks: Sequence[tuple[nn.Module, str, Any]] = ()) -> Tensor:
        with ExitStack() as stack:
            for module, kind, hook in hooks:
                register = module.register_forward_pre_hook if kind == "pre" else module.register_forward_hook
                stack.callback(register(hook, with_kwargs=True).remove)
            return self.metric(self.model.module(input_ids=ids, use_cache=False).logits)

    def _record(self, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        seen: dict[str, Tensor] = {}
        adapter, rows = self.adapter, len(ids)

        def output(name: str) -> Any:
            def keep(_m: Any, _a: Any, _k: Any, out: Any) -> None:
                out = out[0] if isinstance(out, tuple) else out
                seen[name] = out.reshape(rows, -1, out.shape[-1]).clone()

            return keep

        def entering(name: str) -> Any:
            def keep(_m: Any, args: Any, kwargs: Any) -> None:
                value = args[0] if args else kwargs["hidden_states"]
                seen[name] = value.reshape(rows, -1, value.shape[-1]).clone()

            return keep

        hooks: list[Any] = [(self.model.module.get_submodule(adapter.embeddings[0]), "post", output("input"))]
        for n in range(self.facts.n_layers):
            hooks.append((self.part(n, adapter.out_proj), "pre", entering(f"z{n}")))
            hooks.append((self.part(n, adapter.mlp_out_path), "post", output(f"m{n}")))
            if self.sandwich:
                hooks.append((self.part(n, adapter.attn_out), "pre", entering(f"sum{n}")))
        return seen, self.run(ids, hooks)

    def change(self, source: Place, scale: float, patched: dict[str, Tensor] | None = None) -> Tensor:
        """What moving a source by `scale` of the way to its patched value changes in the residual stream."""
        patched = patched or self.other
        if source.kind == "input":
            return scale * (patched["input"] - self.seen["input"])
        if source.kind == "mlp":
            return scale * (patched[source.name] - self.seen[source.name])
        d, n = self.facts.d_head, source.layer
        columns = slice(source.head * d, (source.head + 1) * d)
        weight = output_weight(self.part(n, self.adapter.out_proj))[columns]
        moved = scale * (patched[f"z{n}"] - self.seen[f"z{n}"])[..., columns] @ weight
        if not self.sandwich:
            return moved
        norm = self.part(n, self.adapter.attn_out)
        return norm.forward(self.seen[f"sum{n}"] + moved) - norm.forward(self.seen[f"sum{n}"])

    def effect(self, source: Place, reader: Place, scale: float = 1.0, patched: Any = None) -> Tensor:
        """The metric of each pair with that edge moved, minus that of the clean run."""
        with torch.no_grad():
            shift = self.change(source, scale, patched)
        return self.run(self.clean, [self._reading(reader, shift)]) - self.base

    def _reading(self, reader: Place, shift: Tensor) -> tuple[nn.Module, str, Any]:
        adapter = self.adapter
        if reader.kind == "logits":
            return self.block(self.facts.n_layers - 1), "post", _added(shift)
        if reader.kind == "mlp" and (adapter.norm_mlp or adapter.residual != "parallel"):
            return self.part(reader.layer, adapter.norm_mlp or adapter.mlp), "pre", _added_before(shift)
        return self._behind_shared_norm(reader, shift)

    def _behind_shared_norm(self, reader: Place, shift: Tensor) -> tuple[nn.Module, str, Any]:
        """q, k, v, and an MLP that shares attention's norm: norm(x + shift) reaches only this reader."""
        adapter, facts = self.adapter, self.facts
        norm = self.part(reader.layer, adapter.norm_attn) if adapter.norm_attn else nn.Identity()
        stream: list[Tensor] = []
        inner = self.block(reader.layer).register_forward_pre_hook(
            lambda _m, args, kwargs: stream.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        if reader.kind == "mlp":

            def replaced(_m: Any, args: Any, kwargs: Any) -> Any:
                inner.remove()
                return (norm.forward(stream[-1] + shift), *args[1:]), kwargs

            return self.part(reader.layer, adapter.mlp), "pre", replaced
        where = getattr(adapter, reader.kind)
        module = self.part(reader.layer, where.path)

        def sliced(_m: Any, _a: Any, _k: Any, out: Tensor) -> Tensor:
            inner.remove()
            columns = torch.arange(out.shape[-1])
            for step in where.steps(facts.n_heads, facts.n_kv_heads, facts.d_head):
                columns = columns[step[1]] if step[0] == "index" else get_heads(columns, step)
            changed = out.clone()
            changed[..., columns[reader.head]] = module.forward(norm.forward(stream[-1] + shift))[
                ..., columns[reader.head]
            ]
            return changed

        return module, "post", sliced

    def derivative(self, source: Place, reader: Place, step: float = 1e-3, patched: Any = None) -> Tensor:
        """d effect / d scale at 0, by the fourth-order central difference."""
        one, two = (
            self.effect(source, reader, size * step, patched) - self.effect(source, reader, -size * step, patched)
            for size in (1, 2)
        )
        return (8 * one - two) / (12 * step)


def _added(shift: Tensor) -> Any:
    def add(_m: Any, _a: Any, _k: Any, out: Any) -> Any:
        return (out[0] + shift, *out[1:]) if isinstance(out, tuple) else out + shift

    return add


def _added_before(shift: Tensor) -> Any:
    def add(_m: Any, args: Any, kwargs: Any) -> Any:
        if args:
            return (args[0] + shift.reshape(args[0].shape), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] + shift}

    return add
