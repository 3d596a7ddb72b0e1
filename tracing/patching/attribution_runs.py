"""One batch of attribution patching: a forward that is only watched, one with gradients, and its backwards.

1. The source run (without gradients): every spot's value is kept, `[example, position, (head,) feature]`.
2. The destination run: at each spot the value is taken from the source's, and only the difference is kept. The residual
   stream at the entrance of block 0 is where gradients end, so no weight gets one.
3. The backward: as the gradient of a spot arrives, it is multiplied with the difference, summed, and let go. Gradients
   are never held together. The sum of the examples' metrics is differentiated, so each example has its own gradient.
4. GradDrop: a backward for each layer, in which what the layer writes to the residual stream passes no gradient on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tracing.circuits.costs import CPU_BYTES
from tracing.engines.allocation import device_bytes
from tracing.engines.attention import Scorer
from tracing.engines.hooks import first_argument, hooks, main_output, with_first_argument
from tracing.errors import MetricError
from tracing.metrics import Metric, Targets
from tracing.models import LanguageModel
from tracing.patching import inputs, qk_fix
from tracing.patching.attribution_memory import pair_numbers
from tracing.patching.attribution_sites import ROTATED, WRITES, Spot, meeting, spots, watched
from tracing.prompts import TokenizedPair

Source = Callable[[Spot, Tensor], Tensor]
"""The value to be patched in where the destination's own is this, both `[example, position, (head,) feature]`."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to estimate: for each site the axes that stay, out of "position", "head" and "neuron"."""

    kept: Mapping[str, frozenset[str]]
    qk_fix: bool = False
    grad_drop: bool = False

    @property
    def fixed(self) -> tuple[str, ...]:
        """Sites whose estimates go through the softmax."""
        return tuple(site for site in self.kept if site in ("q", "k", *ROTATED)) if self.qk_fix else ()

    def plain(self, model: LanguageModel) -> list[Spot]:
        """The spots of all other sites."""
        return [spot for site in self.kept if site not in self.fixed for spot in spots(model, site)]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What one batch of examples of equal length is run on, keyword arguments of the model's forward."""

    source: Mapping[str, Tensor]
    """The prompts whose metric is the source's, and whose activations are patched in where `others` is empty."""
    destination: Mapping[str, Tensor]
    answer: int = -1
    others: Mapping[str, Tensor] = field(default_factory=dict)
    """Resampling: the prompts whose activations are patched in."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A batch's numbers: `scores[site]` `[example, layer, …kept axes]` and both runs' metrics `[example]`."""

    scores: dict[str, Tensor]
    source: Tensor
    destination: Tensor


@dataclass(slots=True, eq=False)
class Watching:
    """The destination run: differences wait here for their gradients."""

    request: Request
    rows: int
    dropped: int | None = None
    scores: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    heads: dict[int, dict[str, Any]] = field(default_factory=dict)
    changes: dict[int, dict[int, qk_fix.Changes]] = field(default_factory=dict)
    """What the query and key fix found in an earlier backward, by layer."""

    def meet(self, source: Source, spot: Spot, tensor: Tensor) -> None:
        """A spot of the destination run: keep the difference until the gradient comes."""
        value = spot.part(tensor.detach(), self.rows)
        difference = source(spot, value) - value
        if spot.site == "scores":  # masked entries differ by nothing, or by inf - inf
            difference = difference.masked_fill(~difference.isfinite(), 0.0)
        tensor.register_hook(partial(self.arrive, spot, difference))  # type: ignore[no-untyped-call]

    def arrive(self, spot: Spot, difference: Tensor, gradient: Tensor) -> None:
        """The gradient of a spot: the first-order effect of the difference."""
        effect = _wide(difference) * _wide(spot.part(gradient, self.rows))
        self.add(spot.site, spot.layer, effect if "neuron" in self.request.kept[spot.site] else effect.sum(-1))

    def add(self, site: str, layer: int, effect: Tensor) -> None:
        """Sum `[example, position, (head or neuron)]` over what is not kept."""
        kept = self.request.kept[site]
        if effect.dim() > 2 and not kept & {"head", "neuron"}:
            effect = effect.sum(2)
        self.scores[site, layer] = effect if "position" in kept else effect.sum(1)

    def through_softmax(self, layer: int, gradient: Tensor, z: Spot) -> None:
        """The gradient at the heads' outputs: what each query and key does to the pattern, and that to the metric."""
        heads = qk_fix.Heads(**self.heads[layer])
        # Changes are the same for every backward of GradDrop; those of long prompts are computed again.
        fits = 4 * len(self.heads) * heads.scores <= qk_fix.KEPT_NUMBERS
        kept = self.changes.setdefault(layer, {}) if self.request.grad_drop and fits else None
        of_queries, of_keys = qk_fix.estimates(heads, z.part(gradient, self.rows), kept)
        for site in self.request.fixed:
            self.add(site, layer, of_queries if site.startswith("q") else of_keys)


def run_batch(
    model: LanguageModel,
    request: Request,
    metric: Metric,
    given: Inputs,
    targets: Targets,
    *,
    clean_is_source: bool,
    source: Source | None = None,
) -> Found:
    """Estimates for one batch of examples of equal length.

    `source` replaces the source run's activations (zero or mean patching); its metric is read all the same.
    Raises `MetricError` for a metric without gradient.
    """
    plain = request.plain(model)
    wanted = [] if source else [*plain, *(meeting(model, ROTATED) if request.fixed else [])]
    kept, of_source = run_watched(model, wanted, given.others or given.source, given.answer)
    if given.others:
        _, of_source = run_watched(model, [], given.source, given.answer)
    rows = len(of_source)
    watching = Watching(request, rows)
    with torch.enable_grad(), entrance(model) as leaves, _dropping(model, watching):
        with _meeting(model, watching, plain, source or (lambda spot, _: kept.pop(spot)), kept):
            logits = answer_logits(model, given.destination, given.answer)
        clean = of_source if clean_is_source else logits.detach()
        judged = Targets(targets.answers, targets.foils, clean) if metric.facts.needs_reference else targets
        values = metric(logits, judged)
        require_gradient(values, metric)
        scores = _differentiate(model, watching, values.sum(), leaves)
    with torch.no_grad():
        return Found(scores, metric(of_source, judged), values.detach())


def run_watched(
    model: LanguageModel, wanted: Sequence[Spot], given: Mapping[str, Tensor], answer: int
) -> tuple[dict[Spot, Tensor], Tensor]:
    """A forward without gradients: the spots' values `[example, position, (head,) feature]`, and the logits."""
    kept: dict[Spot, Tensor] = {}
    rows = len(next(iter(given.values())))

    def keep(spot: Spot, tensor: Tensor) -> None:
        kept[spot] = spot.part(tensor, rows).clone()  # some blocks change what a module returned afterwards

    with torch.no_grad(), watched(model, wanted, keep):
        return kept, answer_logits(model, given, answer)


@contextmanager
def _meeting(
    model: LanguageModel, watching: Watching, plain: Sequence[Spot], source: Source, kept: dict[Spot, Tensor]
) -> Iterator[None]:
    """Watch the destination run: plain sites for their differences, attention for the query and key fix."""
    if not watching.request.fixed:
        with watched(model, plain, partial(watching.meet, source)):
            yield
        return
    heads = watching.heads
    zs = [Spot("to fix", z.layer, z.path, z.kind, z.steps) for z in spots(model, "z")]
    names = {"q_rot": "query", "k_rot": "key", "v": "value"}

    def see(spot: Spot, tensor: Tensor) -> None:
        if spot.site == "to fix":
            tensor.register_hook(lambda gradient: watching.through_softmax(spot.layer, gradient, spot))  # type: ignore[no-untyped-call]
        elif spot in meetings:
            heads.setdefault(spot.layer, {})[names[spot.site]] = tensor.detach()
        else:
            watching.meet(source, spot, tensor)

    def score(layer: int, scorer: Scorer) -> None:
        others = {f"other_{names[kind]}": kept.pop(spot) for kind in ROTATED for spot in meeting_of(layer, kind)}
        heads[layer] |= {"scorer": scorer, **others}

    meetings = frozenset(meeting(model, (*ROTATED, "v")))
    rotated = {(spot.layer, spot.site): spot for spot in meetings}

    def meeting_of(layer: int, kind: str) -> list[Spot]:
        return [rotated[layer, kind]]

    with watched(model, [*plain, *zs, *meetings], see, score):
        yield


@contextmanager
def entrance(model: LanguageModel) -> Iterator[list[Tensor]]:
    """Within the block, the residual stream that enters a model's first blocks is where gradients end: the leaves."""
    leaves: list[Tensor] = []

    def enter(args: Any, kwargs: Any) -> Any:
        leaf = first_argument(args, kwargs).detach().requires_grad_()
        leaves.append(leaf)
        return with_first_argument(args, kwargs, leaf.clone())

    with hooks() as registered:
        for adapter in filter(None, (model.adapter, model.adapter.encoder)):
            registered.before(adapter.block_list(model.module)[0], enter)
        yield leaves


@contextmanager
def _dropping(model: LanguageModel, watching: Watching) -> Iterator[None]:
    """GradDrop: the gradient at a layer's writes is zero while that layer is dropped.

    It is cut where the write joins the residual stream (behind a sandwich's second norm, before a post-norm), for all
    sublayers of the layer at once, so parallel and sequential blocks are one case, and the residual path stays whole.
    """
    with hooks() as registered:
        writes = [spot for site in WRITES if site in model.adapter.sites for spot in spots(model, site)]
        for spot in writes if watching.request.grad_drop else ():
            registered.after(model.submodule(spot.path), partial(_cut, watching, spot.layer))
        yield


def _cut(watching: Watching, layer: int, output: Any) -> None:
    def hook(gradient: Tensor) -> Tensor | None:
        return torch.zeros_like(gradient) if watching.dropped == layer else None

    main_output(output).register_hook(hook)  # type: ignore[no-untyped-call]


def _differentiate(
    model: LanguageModel, watching: Watching, total: Tensor, leaves: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The scores after one backward, or, with GradDrop, the mean over layers of the absolute scores of each."""
    if not watching.request.grad_drop:
        torch.autograd.grad(total, leaves)
        return _stacked(watching)
    layers = model.facts.n_layers
    sums: dict[str, Tensor] = {}
    for layer in range(layers):
        watching.dropped = layer
        torch.autograd.grad(total, leaves, retain_graph=layer < layers - 1)
        for site, scores in _stacked(watching).items():
            sums[site] = sums[site] + scores.abs() if site in sums else scores.abs()
    return {site: scores / (layers - 1) for site, scores in sums.items()}


def _stacked(watching: Watching) -> dict[str, Tensor]:
    found = {
        site: torch.stack([score for (name, _), score in sorted(watching.scores.items()) if name == site], 1)
        for site in watching.request.kept
    }
    watching.scores.clear()
    return found


def at_once(model: LanguageModel, request: Request, pair: TokenizedPair) -> int:
    """How many pairs of this one's length run together: half a GiB of them, on a GPU a third of what is free."""
    room = CPU_BYTES if model.device.type == "cpu" else (device_bytes(model.device) or 4 * CPU_BYTES) // 3
    length = max(len(pair.clean_ids), len(pair.decoder_ids))
    last = pair.answer_position == -1 and "logits_to_keep" in (model.accepted or ())
    numbers = pair_numbers(
        model.facts, length, tuple(request.kept), neurons=any("neuron" in kept for kept in request.kept.values()),
        qk_fix=request.qk_fix, eager=model.attention == "eager", read=1 if last else length,
    )  # fmt: skip
    return max(1, room // (numbers * model.dtype.itemsize))


def inputs_of(model: LanguageModel, members: Sequence[TokenizedPair], *, clean: bool) -> dict[str, Tensor]:
    """Keyword arguments of a forward of pairs of one length."""
    if model.adapter.encoder is not None:
        start = (int(model.config.decoder_start_token_id),)
        members = [replace(pair, decoder_ids=pair.decoder_ids or start) for pair in members]
    return inputs.inputs_of(model, members, "clean" if clean else "corrupted")


def answer_logits(model: LanguageModel, given: Mapping[str, Tensor], answer: int = -1) -> Tensor:
    """Logits at the answer's position, `[example, vocab]`, float32 or wider.

    Where the answer is last, models that can leave other positions' logits out do so.
    """
    wanted = {"use_cache": False} | ({"logits_to_keep": 1} if answer == -1 else {})
    options = {name: value for name, value in wanted.items() if name in (model.accepted or ())}
    logits: Tensor = model.logits_of(model.module(**given, **options))
    return _wide(logits[:, answer] if logits.dim() == 3 else logits)  # image classes have no position


def require_gradient(values: Tensor, metric: Metric) -> None:
    """Raises `MetricError` for a metric that is no differentiable function of the logits."""
    if not values.requires_grad:
        raise MetricError(
            f"The metric {metric.facts.name!r} has no gradient, so its changes cannot be estimated from one.",
            remedy="Use logit_diff, log_prob or another metric that changes smoothly with the logits.",
        )


def _wide(values: Tensor) -> Tensor:
    # Sums of products of 16-bit numbers would lose what the estimate is made of.
    return values if values.dtype == torch.float64 else values.float()
