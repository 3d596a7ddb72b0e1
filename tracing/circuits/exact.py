"""Exact edge patching: the metric with edges ablated, on the unmodified model.

`edge_effects` ablates each edge alone; `circuit_metric` ablates every edge outside a circuit at once. An ablated edge
u → v changes v's own copy of the residual stream, before v's norm, by (ablated − live) of u, and nothing else:

1. run both prompts of every pair once (`tracing.circuits.runs`);
2. edges whose readers share a block, or circuits, are rows of one batch that starts at the first block affected, from
   the base run's residual stream (`tracing.circuits.walk`);
3. only readers with an ablated edge are expanded: their heads' slices of the projections run again on their copies.
Sources: Hanna et al. 2024 (arXiv 2403.17806); Miller et al. 2024 (arXiv 2407.08734): edge patching is path patching.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.circuits.edits import CircuitsEdit, Deltas, EdgesEdit, by_layer, first_block
from tracing.circuits.layout import Layout
from tracing.circuits.parts import Block, blocks_of
from tracing.circuits.readout import Answer, check_answer, float_kind, metric_of
from tracing.circuits.runs import Ablation, Direction, Part, check_options, parts
from tracing.circuits.walk import walk
from tracing.engines.allocation import free, is_out_of_memory
from tracing.errors import OutOfMemoryError, SpecError, Stopped
from tracing.metrics import Metric, get
from tracing.models import LanguageModel
from tracing.prompts import PromptPair, TokenizedPair, require_readable, require_usable, tokenize_all
from tracing.results import EdgeScores

Pairs = PromptPair | TokenizedPair | Sequence[PromptPair] | Sequence[TokenizedPair]
Edges = Sequence[tuple[str, str]] | NDArray[np.bool_]
TOKENS: Final = {"cpu": 4096, "cuda": 65536}
"""Tokens of one patched batch."""
COPIES_BYTES: Final = 2**29
"""About how much the live differences of one batch of circuits may take."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Everything a measurement needs beside the edges: made by `task`."""

    model: LanguageModel
    layout: Layout
    blocks: list[Block]
    pairs: tuple[TokenizedPair, ...]
    metric: Metric
    ablation: Ablation = "interchange"
    direction: Direction = "noising"
    answer: Answer = "pair"
    batch: int | Literal["auto"] = "auto"
    seed: int = 0
    should_stop: Callable[[], bool] = field(default=lambda: False)

    @property
    def facts(self) -> dict[str, Any]:
        """What a result says of how it was made."""
        return {
            "metric": self.metric.facts.name,
            "direction": self.direction,
            "ablation": self.ablation,
            "answer": self.answer,
            "pairs": len(self.pairs),
        }

    def parts(self) -> "list[Part] | Any":
        """The unpatched runs, part by part."""
        return parts(
            self.model, self.blocks, self.pairs, ablation=self.ablation, direction=self.direction, seed=self.seed,
            should_stop=self.should_stop,
        )  # fmt: skip

    def rows(self, length: int, pairs: int) -> int:
        """How many edges or circuits run together."""
        if self.batch != "auto":
            return self.batch
        return max(1, TOKENS.get(self.model.device.type, 4096) // (length * pairs))


def task(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    *,
    ablation: Ablation = "interchange",
    direction: Direction = "noising",
    answer: Answer = "pair",
    batch: int | Literal["auto"] = "auto",
    seed: int = 0,
    should_stop: Callable[[], bool] | None = None,
) -> Task:
    """Check everything before anything runs; see `edge_effects` for the arguments and errors."""
    check_options(ablation, direction, batch)
    layout = Layout.of(model.facts, model.adapter)
    measure = get(metric)
    found = tokenized(model, pairs)
    check_answer(measure, answer, isinstance(metric, str), found)
    if measure.facts.needs_foil:
        require_usable(found, measure.facts.name)
    return Task(
        model, layout, blocks_of(model), found, measure, ablation, direction, answer, batch, seed,
        should_stop or (lambda: False),
    )  # fmt: skip


def tokenized(model: LanguageModel, pairs: Pairs) -> tuple[TokenizedPair, ...]:
    """Pairs as tokens. Raises `PromptError` for pairs that cannot be used, `SpecError` for a mixture of kinds."""
    some = (pairs,) if isinstance(pairs, PromptPair | TokenizedPair) else tuple(pairs)
    ready = [pair for pair in some if isinstance(pair, TokenizedPair)]
    if ready and len(ready) == len(some):
        require_usable(ready)
        for pair in ready:
            require_readable(pair, model.facts.vocab_size, model.facts.max_positions)
        return tuple(ready)
    texts = [pair for pair in some if isinstance(pair, PromptPair)]
    if len(texts) != len(some):
        raise SpecError("The pairs are neither all texts nor all tokenized.", remedy="Pass PromptPair objects.")
    return tuple(tokenize_all(texts, model.tokens, model.facts.max_positions))


def edge_effects(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    edges: Edges | None = None,
    *,
    ablation: Ablation = "interchange",
    direction: Direction = "noising",
    answer: Answer = "pair",
    batch: int | Literal["auto"] = "auto",
    seed: int = 0,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EdgeScores:
    """The effect of every edge alone, `scores[source, reader]` = mean over pairs of metric(patched) − metric(base).

    `edges` are (source, reader) names or a mask `[source, reader]`; by default all. Edges not asked for are NaN.
    `direction`: "noising" ablates edges of the clean run, "denoising" of the corrupted one. `ablation` is what an
    ablated edge carries: "interchange" the source's value in the pair's other prompt, "resample" in that prompt of
    another pair of the same length (by `seed`), "mean" over those prompts of equally long pairs at each position,
    "zero" nothing (of a head: z = 0, its share of the output bias stays; of an MLP or `input`: its whole write).
    `answer` is the position whose logits the metric reads: by default each pair's own, which is the last one of a text;
    "all" gives a metric function the logits of every position, `[pair, position, vocab]`.
    `batch` is the number of edges that run together. `progress(done, total)` counts edges × pairs.
    Raises `SiteError` where the family has no edges or there is no such edge, `PromptError`, `MetricError`,
    `SpecError`, `OutOfMemoryError` where one edge does not fit, `Stopped`.
    """
    made = task(
        model, pairs, metric, ablation=ablation, direction=direction, answer=answer, batch=batch, seed=seed,
        should_stop=should_stop,
    )  # fmt: skip
    chosen = edge_list(made.layout, edges)
    base, values = edge_metrics(made, chosen, progress)
    layout = made.layout
    scores = np.where(layout.real, np.nan, 0.0).astype(float_kind(model))
    effects = (values - base[:, None]).mean(0)
    for (source, reader), effect in zip(chosen, effects, strict=True):
        scores[source, reader] = effect
    return EdgeScores(
        name="exact",
        title="Exact edge patching",
        sources=layout.sources,
        readers=layout.readers,
        real=layout.real,
        scores=scores,
        facts={"method": "exact", **made.facts, "edges": len(chosen), "base": float(base.mean())},
    )


def circuit_metric(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any],
    keep: NDArray[np.bool_] | Sequence[NDArray[np.bool_]],
    *,
    ablation: Ablation = "interchange",
    direction: Direction = "noising",
    answer: Answer = "pair",
    batch: int | Literal["auto"] = "auto",
    seed: int = 0,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[Any]:
    """The metric of circuits: every real edge that `keep` `[source, reader]` lacks is ablated, `[pair]`.

    Several circuits, `[circuit, source, reader]` or a list of masks, give `[circuit, pair]`. Options and errors as in
    `edge_effects`; `SpecError` for a mask of another shape. Entries of `keep` that are no real edge are ignored.
    """
    made = task(
        model, pairs, metric, ablation=ablation, direction=direction, answer=answer, batch=batch, seed=seed,
        should_stop=should_stop,
    )  # fmt: skip
    masks = np.asarray(keep)
    shape = made.layout.real.shape
    if masks.dtype != np.bool_ or masks.shape[-2:] != shape or masks.ndim not in (2, 3):
        raise SpecError(
            f"A circuit's mask is bool [source, reader] = [{shape[0]}, {shape[1]}]; this one is {masks.dtype} "
            f"{list(masks.shape)}.",
            remedy="Make it from the model's layout: np.zeros_like(layout.real).",
        )
    several = masks if masks.ndim == 3 else masks[None]
    found = circuit_metrics(made, several, progress)
    return found if masks.ndim == 3 else found[0]


def edge_list(layout: Layout, edges: Edges | None) -> list[tuple[int, int]]:
    """Edges as (row, column), in the graph's order or the one given."""
    if edges is None:
        return [(int(s), int(r)) for s, r in np.argwhere(layout.real)]
    if isinstance(edges, np.ndarray):
        if edges.shape != layout.real.shape or edges.dtype != np.bool_:
            raise SpecError(
                f"The mask of edges is {edges.dtype} {list(edges.shape)}; it must be bool {list(layout.real.shape)}."
            )
        return [(int(s), int(r)) for s, r in np.argwhere(layout.real & edges)]
    return [layout.edge(source, reader) for source, reader in edges]


def edge_metrics(
    made: Task, edges: Sequence[tuple[int, int]], progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The metric of the base run `[pair]`, and with each edge ablated alone `[pair, edge]`."""
    kind = float_kind(made.model)
    base, values = np.zeros(len(made.pairs), kind), np.zeros((len(made.pairs), len(edges)), kind)
    places: dict[tuple[int, int], list[int]] = {}
    for number, edge in enumerate(edges):
        places.setdefault(edge, []).append(number)
    layers = by_layer(made.layout, places)
    done, total = 0, len(places) * len(made.pairs)
    for part in made.parts():
        numbers = list(part.numbers)
        base[numbers] = base_metric(made, part)
        deltas = Deltas(made.layout, made.blocks, part)
        for start, own in layers.items():
            rows = made.rows(part.members[0].length, len(numbers))

            def compute(some: Sequence[Any], start: int = start, deltas: Deltas = deltas) -> NDArray[Any]:
                return _edges(made, deltas, start, some)

            for some, found in in_batches(made, own, rows, compute):
                for edge, row in zip(some, found, strict=True):
                    for place in places[edge]:
                        values[numbers, place] = row
                done += len(some) * len(numbers)
                if progress is not None:
                    progress(done, total)
    return base, values


def circuit_metrics(
    made: Task, keep: NDArray[np.bool_], progress: Callable[[int, int], None] | None = None
) -> NDArray[Any]:
    """The metric of circuits `[circuit, source, reader]`, `[circuit, pair]`."""
    values = np.zeros((len(keep), len(made.pairs)), float_kind(made.model))
    done = 0
    for part in made.parts():
        found = part_circuits(made, part, keep)
        values[:, list(part.numbers)] = found
        done += found.size
        if progress is not None:
            progress(done, values.size)
    return values


def part_circuits(made: Task, part: Part, keep: NDArray[np.bool_]) -> NDArray[Any]:
    """The same for one part's pairs."""
    ablated = made.layout.real & ~keep
    # Circuits that start at the same block run together, so that none runs blocks it does not need.
    order = np.argsort([first_block(made.layout, mask) for mask in ablated], kind="stable")
    length, pairs = part.members[0].length, len(part.members)
    each = pairs * length * made.model.facts.d_model * made.model.dtype.itemsize
    most = max(1, COPIES_BYTES // (each * sum(ablated.shape[1:])))
    rows = min(made.rows(length, pairs), most) if made.batch == "auto" else made.batch
    values = np.zeros((len(keep), pairs), float_kind(made.model))
    for some, found in in_batches(made, order.tolist(), rows, lambda some: _circuits(made, part, ablated[list(some)])):
        values[list(some)] = found
    return values


@torch.inference_mode()
def base_metric(made: Task, part: Part) -> NDArray[Any]:
    """The metric of the base run, `[pair]`."""
    found: NDArray[Any] = metric_of(
        made.model, made.metric, part, part.base.residual[-1][None], made.answer, "the unpatched prompt"
    )[0]
    return found


@torch.inference_mode()
def other_metric(made: Task, part: Part) -> NDArray[Any]:
    """The metric of the pair's other prompt, `[pair]`."""
    found: NDArray[Any] = metric_of(
        made.model, made.metric, part, part.other_final[None], made.answer, "the pair's other prompt"
    )[0]
    return found


@torch.inference_mode()
def _edges(made: Task, deltas: Deltas, start: int, edges: Sequence[tuple[int, int]]) -> NDArray[Any]:
    edit = EdgesEdit(deltas, edges)
    return _walked(made, deltas.part, start, len(edges), edit)


@torch.inference_mode()
def _circuits(made: Task, part: Part, ablated: NDArray[np.bool_]) -> NDArray[Any]:
    start = first_block(made.layout, ablated)
    mask = torch.from_numpy(ablated).to(made.model.device)
    return _walked(made, part, start, len(ablated), CircuitsEdit(made.layout, made.blocks, part, mask, start))


def _walked(made: Task, part: Part, start: int, count: int, edit: Any) -> NDArray[Any]:
    hidden: Tensor = part.base.residual[start]
    batch = hidden.repeat(count, 1, 1)
    final = walk(made.layout, made.blocks, part.calls, start, batch, edit)
    return metric_of(
        made.model, made.metric, part, torch.unflatten(final, 0, (count, -1)), made.answer, "with edges ablated"
    )


def in_batches(made: Task, items: Sequence[Any], rows: int, compute: Callable[[Sequence[Any]], NDArray[Any]]) -> Any:
    """`compute(items)` batch by batch; one that does not fit in memory is halved, and so are those after it.

    Raises `Stopped` between two batches, `OutOfMemoryError` where a single item does not fit.
    """
    waiting, device = list(items), made.model.device
    while waiting:
        if made.should_stop():
            raise Stopped
        some = waiting[:rows]
        found = _try(compute, some)
        if found is None:
            # Outside the except clause the failed batch's tensors are gone, so there is room for its halves.
            free(device)
            if len(some) == 1:
                raise OutOfMemoryError(
                    f"One patched batch of {len(made.pairs)} pairs does not fit in the memory of {device}.",
                    remedy="Use fewer or shorter prompts, a smaller precision, or a device with more memory.",
                    where={"device": str(device)},
                )
            rows = max(1, len(some) // 2)
            continue
        waiting = waiting[len(some) :]
        yield some, found


def _try(compute: Callable[[Sequence[Any]], NDArray[Any]], some: Sequence[Any]) -> NDArray[Any] | None:
    try:
        return compute(some)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
