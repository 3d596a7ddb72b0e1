"""One forward and one backward on the unmodified model: what every source wrote, what every reader's gradient is.

Hooks only. A reader's gradient is taken where it is smallest: q, k and v at their projection's output, in head space
(everything behind it, rotation and norms of queries and keys included, is then part of the gradient); an MLP's at its
own copy of the residual stream; that of the logits at the last block's output. No gradient of a weight is computed,
and logits only at the answer position.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tracing.circuits.parts import Block
from tracing.circuits.readout import Answer
from tracing.circuits.runs import Writes
from tracing.engines.hooks import (
    Hooks,
    first_argument,
    hooks,
    main_output,
    with_first_argument,
    with_main_output,
)
from tracing.errors import MetricError
from tracing.metrics import Metric, Targets
from tracing.models import LanguageModel


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """Where on the way from the unpatched run to the patched values a forward takes place."""

    entering: Tensor | None = None
    """Added to the residual stream that enters block 0, `[row, T, d_model]`."""
    z: tuple[int, Tensor] | None = None
    """A layer, and what its heads hand to W_O instead, `[row, T, head · d_head]`."""
    mlp: tuple[int, Tensor] | None = None
    """A layer, and what its MLP writes instead, `[row, T, d_model]`."""
    masked: tuple[float, Writes] | None = None
    """How far every edge at once is moved to the patched values, and these values."""


@dataclass(slots=True)
class Seen:
    """What a forward showed, lists by layer. Gradients are there once `gradients` was called."""

    logits: Tensor
    """At the answer position, `[row, vocab]` (of all positions: `[row, T, vocab]`), float32 or wider."""
    writes: Writes
    before_norm: list[Tensor] = field(default_factory=list)
    """Sandwich norms: the heads' sum that the norm behind attention gets (of a masked run: with all edges moved)."""
    attn_in: list[Tensor] = field(default_factory=list)
    """What queries, keys and values read, before their norm."""
    projected: list[dict[nn.Module, Tensor]] = field(default_factory=list)
    mlp_in: list[Tensor] = field(default_factory=list)
    final: Tensor | None = None

    def gradients(self, metric: Metric, targets: Targets) -> "Gradients":
        """∂(Σ over rows of the metric) at every reader; the graph is freed. Raises `MetricError` without gradient."""
        values = metric(self.logits, targets)
        if not values.requires_grad:
            raise MetricError(
                f"The metric {metric.facts.name!r} has no gradient: it does not change smoothly with the logits.",
                remedy="Use logit_diff, log_prob or prob_diff, or a metric function that torch can differentiate.",
            )
        assert self.final is not None
        taps = [*(tap for layer in self.projected for tap in layer.values()), *self.mlp_in, self.final]
        # What a replaced write no longer depends on has no gradient.
        found = iter(torch.autograd.grad(values.sum(), taps, allow_unused=True, materialize_grads=True))
        projected = [{module: next(found) for module in layer} for layer in self.projected]
        rows, length = self.attn_in[0].shape[:2]
        mlp = [next(found).reshape(rows, length, -1) for _ in self.mlp_in]
        return Gradients(self.attn_in, projected, mlp, next(found))


@dataclass(frozen=True, slots=True, eq=False)
class Gradients:
    """Gradients at the readers, lists by layer, all `[row, T, …]`."""

    attn_in: list[Tensor]
    """Where the norms in front of attention are to be differentiated."""
    projected: list[dict[nn.Module, Tensor]]
    """At the outputs of the projections that make q, k and v."""
    mlp: list[Tensor]
    """At the MLP's copy of the residual stream; behind its norm where it shares attention's."""
    final: Tensor


def forward(
    model: LanguageModel,
    blocks: Sequence[Block],
    ids: Tensor,
    *,
    taps: bool,
    answer: Answer = -1,
    point: Point | None = None,
    writes: bool = True,
) -> Seen:
    """Run ids `[row, T]` and keep what is asked for: with `taps` the graph that gradients need."""
    watch = _Watch(model, blocks, ids.shape[0], taps, writes, point or Point())
    with hooks() as registered, torch.set_grad_enabled(taps):
        watch.register(registered)
        watch.seen.logits = _logits(model, ids, answer)
    return watch.seen


def _logits(model: LanguageModel, ids: Tensor, answer: Answer) -> Tensor:
    name, module = model.adapter.input_name, model.module
    takes = inspect.signature(module.forward).parameters
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    if "logits_to_keep" in takes and answer == -1:
        options["logits_to_keep"] = 1
    output = module(**{name: ids}, **options) if name else module(ids, **options)
    logits: Tensor = getattr(output, "logits", output)
    logits = logits[:, answer] if isinstance(answer, int) else logits
    # Differences of bfloat16 logits would lose most of their digits once more in the metric.
    return logits if logits.dtype == torch.float64 else logits.float()


class _Watch:
    """The hooks of one forward."""

    def __init__(
        self, model: LanguageModel, blocks: Sequence[Block], rows: int, taps: bool, writes: bool, point: Point
    ) -> None:
        self.model, self.blocks, self.rows = model, blocks, rows
        self.taps, self.writes, self.point = taps, writes or point.masked is not None, point
        self.seen = Seen(torch.empty(0), Writes(torch.empty(0)))
        self._start: Tensor | None = None  # of the masked run: what readers of this block see moved
        self._shift: Tensor | None = None  # the same, behind the parts that have run
        self._z = torch.empty(0)  # this layer's heads, and their sum where a norm follows, in the graph
        self._sum = torch.empty(0)

    def register(self, registered: Hooks) -> None:
        """Put every hook in its place."""
        registered.after(self.model.part(self.model.adapter.embeddings[0]), self._embedded)
        for layer, block in enumerate(self.blocks):
            registered.before(block.module, lambda a, k, layer=layer: self._enter(layer, a, k))  # type: ignore[misc]
            attention = block.norm_attn or block.module.get_submodule(block.adapter.attn)
            registered.before(attention, self._attention_reads)
            for module in {projection.module: None for projection in block.projections.values()}:
                registered.after(module, lambda output, module=module: self._projected(module, output))  # type: ignore[misc]
            registered.before(block.out_proj, lambda a, k, layer=layer: self._heads(layer, a, k))  # type: ignore[misc]
            if block.post_norm is not None:
                registered.before(block.post_norm, self._before_norm)
            registered.after(block.attn_exit, lambda output, block=block: self._attention_wrote(block, output))  # type: ignore[misc]
            registered.before(block.mlp_entrance, lambda a, k, block=block: self._mlp_reads(block, a, k))  # type: ignore[misc]
            registered.after(block.mlp_exit, lambda output, layer=layer: self._mlp_wrote(layer, output))  # type: ignore[misc]
        registered.after(self.blocks[-1].module, self._leave)

    def _apart(self, value: Tensor) -> Tensor:
        """`[row, T, …]`, whether the module was called on tokens side by side or not."""
        return value.reshape(self.rows, -1, value.shape[-1])

    def _embedded(self, output: Any) -> None:
        if self.writes:
            self.seen.writes.embedding = self._apart(main_output(output)).detach().clone()

    def _enter(self, layer: int, args: Any, kwargs: Any) -> Any:
        if layer == 0:
            x = first_argument(args, kwargs).detach()
            if self.point.entering is not None:
                x = x + self.point.entering.to(x.dtype)
            if self.point.masked is not None:
                part, patched = self.point.masked
                self._shift = part * (patched.embedding - self.seen.writes.embedding)
            self.seen.projected = [{} for _ in self.blocks]
            self._start = self._shift
            return with_first_argument(args, kwargs, x.requires_grad_() if self.taps else x)
        self._start = self._shift
        return None

    def _attention_reads(self, args: Any, kwargs: Any) -> Any:
        x = first_argument(args, kwargs)
        if self._start is not None:
            x = x + self._start
        if self.taps:
            self.seen.attn_in.append(x.detach())
        return None if self._start is None else with_first_argument(args, kwargs, x)

    def _projected(self, module: nn.Module, output: Any) -> None:
        if self.taps:
            # attn_in has one entry a layer that was reached.
            self.seen.projected[len(self.seen.attn_in) - 1][module] = main_output(output)

    def _heads(self, layer: int, args: Any, kwargs: Any) -> Any:
        self._z = first_argument(args, kwargs)
        if self.writes:
            facts, z = self.model.facts, self._apart(self._z).detach().clone()
            self.seen.writes.z.append(z.view(*z.shape[:2], facts.n_heads, facts.d_head))
        if self.point.z is not None and self.point.z[0] == layer:
            return with_first_argument(args, kwargs, self.point.z[1].view_as(self._z))
        return None

    def _before_norm(self, args: Any, kwargs: Any) -> None:
        self._sum = first_argument(args, kwargs)
        if self.writes:
            self.seen.before_norm.append(self._sum.detach().clone())

    def _attention_wrote(self, block: Block, output: Any) -> None:
        if self.point.masked is None:
            return
        assert self._shift is not None
        part, patched = self.point.masked
        layer = len(self.seen.writes.z) - 1
        z = self._apart(self._z)
        moved = part * block.head_writes(patched.z[layer] - z.view(z.shape[:2] + patched.z[layer].shape[-2:])).sum(-2)
        if block.post_norm is not None:
            # All heads pass this norm together; `forward`, so that no hook fires again. An edge's mask moves the sum
            # from where all masks have moved it to, so there is the norm's derivative.
            self.seen.before_norm[-1] = (self._sum + moved).detach()
            moved = main_output(block.post_norm.forward(self._sum + moved)) - main_output(output)
        self._shift = self._shift + moved

    def _mlp_reads(self, block: Block, args: Any, kwargs: Any) -> Any:
        x = first_argument(args, kwargs)
        moved = None
        if self._shift is not None and block.shared_norm is None:
            moved = self._start if block.adapter.residual == "parallel" else self._shift
        if moved is not None:
            x = x + moved.reshape(x.shape)
        if not self.taps:
            return None if moved is None else with_first_argument(args, kwargs, x)
        own = x.view_as(x)  # a node of its own, so that its gradient is this reader's alone
        self.seen.mlp_in.append(own)
        return with_first_argument(args, kwargs, own)

    def _mlp_wrote(self, layer: int, output: Any) -> Any:
        value = main_output(output)
        if self.writes:
            self.seen.writes.mlp.append(self._apart(value).detach().clone())
        if self.point.masked is not None:
            assert self._shift is not None
            part, patched = self.point.masked
            self._shift = self._shift + part * (patched.mlp[layer] - self._apart(value))
        if self.point.mlp is not None and self.point.mlp[0] == layer:
            return with_main_output(output, self.point.mlp[1].to(value.dtype).reshape(value.shape))
        return None

    def _leave(self, output: Any) -> Any:
        final = main_output(output)
        if self._shift is not None:
            final = final + self._shift
        if self.taps:
            self.seen.final = final
        return None if self._shift is None else with_main_output(output, final)
