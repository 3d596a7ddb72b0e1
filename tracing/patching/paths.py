"""Path patching: what a head or an MLP does to the answer through given receivers alone, exactly.

For a sender u and receivers R, with base run x and source run x′ (Wang et al. 2022, section 3.1):

1. run x and x′ once and keep what every head and MLP wrote;
2. put u's write of x′ into x with every other head held at x; every receiver in R reads its copy of the residual
   stream off this run. MLPs between u and R are held at x as well (`mlps="direct"`: only the residual stream connects
   them) or run again on what they now read (`mlps="live"`);
3. run x again with the receivers given what they make of those copies, everything else live; read the metric.

With "direct" and one receiver this is the effect of the single edge u → r (`tracing.circuits.exact`). With several, all
are given their copies of step 2, so what one receiver passes on to a later one does not count.
Sources: Wang et al. 2022 (arXiv 2211.00593); Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.circuits.edits import Deltas
from tracing.circuits.exact import Pairs, Task, base_metric, in_batches, other_metric, task
from tracing.circuits.kept import kept_parts
from tracing.circuits.readout import Answer, metric_of
from tracing.circuits.runs import Ablation, Direction, Part
from tracing.circuits.walk import Copy, walk
from tracing.engines.hooks import Hooks, first_argument, hooks, main_output, with_main_output
from tracing.errors import SpecError
from tracing.events import Panel, Tile
from tracing.models import LanguageModel
from tracing.patching.path_maps import aggregate_paths, coarse_first, path_panel, sender_columns
from tracing.results import Grid

Mlps = Literal["direct", "frozen", "live"]
MLPS: Final = ("direct", "frozen", "live")


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Path patching ready to run: baselines known, no cell computed yet."""

    made: Task
    parts: list[Part]
    base: NDArray[Any]
    """The metric of the base run, `[pair]`."""
    other: NDArray[Any]
    """That of the pair's other prompt."""
    senders: tuple[int, ...]
    receivers: tuple[int, ...]
    mlps: Mlps
    positions: tuple[int, ...] | None
    columns: tuple[str, ...]
    panel: Panel

    @property
    def clean(self) -> NDArray[Any]:
        """The clean runs' metric, `[pair]`."""
        return self.base if self.made.direction == "noising" else self.other

    @property
    def corrupted(self) -> NDArray[Any]:
        """The corrupted runs' metric, `[pair]`."""
        return self.other if self.made.direction == "noising" else self.base


def path_patching(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    senders: Sequence[str] | None = None,
    receivers: str | Sequence[str] = "logits",
    *,
    mlps: Mlps = "direct",
    direction: Direction = "noising",
    positions: Sequence[int] | None = None,
    ablation: Ablation = "interchange",
    answer: Answer = "pair",
    batch: int | Literal["auto"] = "auto",
    seed: int = 0,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Grid:
    """The effect of every sender through the receivers: a map of layer × head (and a column of MLPs where asked for).

    `senders` are names of heads and MLPs, "a3.h5" and "m3"; by default every head. `receivers` are names of readers:
    "a9.h6<q>" (its query; `<k>`, `<v>`; "a9.kv1<k>" under grouped-query attention), "m9", or "logits" alone.
    `mlps` says whether paths may pass through MLPs between sender and receiver: "direct" (also called "frozen") no,
    "live" yes. `positions` are those at which the sender is changed, negative ones from the end; by default all.
    `direction`: "noising" runs the clean prompt and takes the sender from the corrupted one, "denoising" the reverse.
    Plane `effect` is (patched − unpatched) / (other run − unpatched), a ratio of means over pairs; `raw` is the metric
    itself. Senders that come after every receiver have no path: their cells are the unpatched run's. `ablation`,
    `answer`, `batch` and `seed` are as in `tracing.circuits.exact.edge_effects`; `progress(done, total)` counts cells.
    Raises `SiteError` for a family without edges and for unknown names, `SpecError`, `PromptError`, `MetricError`,
    `OutOfMemoryError` (before anything runs, where all unpatched runs together exceed the device's memory), `Stopped`.
    """
    prepared = prepare_paths(
        model, pairs, metric, senders, receivers, mlps=mlps, direction=direction, positions=positions,
        ablation=ablation, answer=answer, batch=batch, seed=seed, should_stop=should_stop,
    )  # fmt: skip
    found, done = [], 0
    for tile in path_tiles(prepared):
        found.append(tile)
        done += sum(prepared.made.layout.source_places[s].layer == tile.r0 for s in prepared.senders)
        if progress is not None:
            progress(done, len(prepared.senders))
    return path_grid(prepared, found)


def prepare_paths(
    model: LanguageModel,
    pairs: Pairs,
    metric: str | Callable[..., Any] = "logit_diff",
    senders: Sequence[str] | None = None,
    receivers: str | Sequence[str] = "logits",
    *,
    mlps: Mlps = "direct",
    direction: Direction = "noising",
    positions: Sequence[int] | None = None,
    ablation: Ablation = "interchange",
    answer: Answer = "pair",
    batch: int | Literal["auto"] = "auto",
    seed: int = 0,
    should_stop: Callable[[], bool] | None = None,
) -> Paths:
    """Check the options and run the baselines; arguments and errors as in `path_patching`."""
    made = task(
        model, pairs, metric, ablation=ablation, direction=direction, answer=answer, batch=batch, seed=seed,
        should_stop=should_stop,
    )  # fmt: skip
    chosen, into = _senders(made, senders), _receivers(made, receivers)
    if mlps not in MLPS:
        raise SpecError(f"Unknown treatment of MLPs {mlps!r}.", remedy='Use "direct" or "live".')
    where = _positions(made, positions)
    runs = kept_parts(made)
    base, other = (np.zeros(len(made.pairs)) for _ in range(2))
    for part in runs:
        base[list(part.numbers)] = base_metric(made, part)
        other[list(part.numbers)] = other_metric(made, part)
    columns = sender_columns(made.layout, chosen)
    panel = path_panel(
        made.layout, columns, made.metric.facts, {
            **made.facts, "receivers": [made.layout.readers[r] for r in into],
            "mlps": "live" if mlps == "live" else "direct", "positions": None if where is None else list(where),
        },
        base, other,
    )  # fmt: skip
    return Paths(made, runs, base, other, chosen, into, mlps, where, columns, panel)


def path_tiles(prepared: Paths, *, done: Collection[int] = ()) -> Iterator[Tile]:
    """The map row by row, a spread of layers first, without the layers in `done`; `Stopped` between two batches."""
    made, layout = prepared.made, prepared.made.layout
    rows: dict[int, list[int]] = {}
    for sender in prepared.senders:
        rows.setdefault(layout.source_places[sender].layer, []).append(sender)
    for layer in coarse_first(sorted(rows)):
        if layer in done:
            continue
        examples = np.full((len(made.pairs), 1, len(prepared.columns)), np.nan)
        for part in prepared.parts:
            values = _patched(prepared, part, rows[layer])
            for sender, row in zip(rows[layer], values, strict=True):
                place = layout.source_places[sender]
                column = prepared.columns.index("MLP" if place.kind == "mlp" else str(place.head))
                examples[list(part.numbers), 0, column] = row
        yield Tile(0, layer, 0, aggregate_paths(examples, prepared.base, prepared.other), examples)


def path_grid(prepared: Paths, tiles: Sequence[Tile]) -> Grid:
    """The map from its tiles."""
    return Grid.from_tiles(prepared.panel, tiles, prepared.clean, prepared.corrupted)


def _patched(prepared: Paths, part: Part, senders: Sequence[int]) -> NDArray[Any]:
    """The metric of each sender of one layer, `[sender, pair]`."""
    made = prepared.made
    values = np.tile(prepared.base[list(part.numbers)], (len(senders), 1))
    reaching = [n for n, s in enumerate(senders) if made.layout.real[s, list(prepared.receivers)].any()]
    deltas = Deltas(made.layout, made.blocks, part)

    def compute(some: Sequence[int]) -> NDArray[Any]:
        return _one_batch(prepared, part, deltas, [senders[n] for n in some])

    rows = made.rows(part.members[0].length, len(part.members))
    for some, found in in_batches(made, reaching, rows, compute):
        values[list(some)] = found
    return values


@torch.inference_mode()
def _one_batch(prepared: Paths, part: Part, deltas: Deltas, senders: Sequence[int]) -> NDArray[Any]:
    made, receivers = prepared.made, prepared.receivers
    changes = torch.stack([deltas.of(sender) for sender in senders])
    if prepared.positions is not None:
        inside = torch.zeros(changes.shape[2], dtype=torch.bool, device=changes.device)
        inside[list(prepared.positions)] = True
        changes = changes * inside[:, None]
    if prepared.mlps == "live":
        copies = _Through(prepared, part, senders, changes).copies
    else:
        real = made.layout.real
        copies = {
            r: _base_copy(made, part, r) + changes * _column([bool(real[s, r]) for s in senders], changes)
            for r in receivers
        }
    start = min(made.layout.reader_places[r].layer for r in receivers)
    hidden = part.base.residual[start].repeat(len(senders), 1, 1)
    edit = _Given({reader: copy.flatten(0, 1) for reader, copy in copies.items()})
    final = walk(made.layout, made.blocks, part.calls, start, hidden, edit)
    shaped = torch.unflatten(final, 0, (len(senders), -1))
    return metric_of(made.model, made.metric, part, shaped, made.answer, "with paths patched")


def _column(flags: Sequence[bool], like: Tensor) -> Tensor:
    return torch.tensor(flags, dtype=like.dtype, device=like.device)[:, None, None, None]


def _base_copy(made: Task, part: Part, reader: int) -> Tensor:
    """A reader's copy of the residual stream in the base run, `[pair, T, d_model]`."""
    place = made.layout.reader_places[reader]
    return part.base.middle[place.layer] if place.kind == "mlp" else part.base.residual[place.layer]


@dataclass(slots=True, eq=False)
class _Given:
    """An edit that sets the copies of some readers, in every row."""

    given: dict[int, Tensor]
    listens: bool = False

    def touches(self, readers: Sequence[int]) -> bool:
        return any(reader in self.given for reader in readers)

    def copies(self, readers: Sequence[int], live: Tensor) -> Iterator[Copy]:
        rows = torch.arange(len(live), device=live.device)
        yield from ((reader, rows, self.given[reader]) for reader in readers if reader in self.given)

    def wrote(self, layer: int, kind: str, value: Tensor) -> None:
        """Nothing live is needed."""


@dataclass(slots=True, eq=False)
class _Through:
    """Step 2 with live MLPs: heads held at the base run, the sender's write changed, receivers' copies kept."""

    prepared: Paths
    part: Part
    senders: Sequence[int]
    changes: Tensor
    copies: dict[int, Tensor] = field(init=False)
    """By receiver, `[sender, pair, T, d_model]`."""

    def __post_init__(self) -> None:
        made, part = self.prepared.made, self.part
        places = [made.layout.source_places[sender] for sender in self.senders]
        layer = places[0].layer
        readers = {r: made.layout.reader_places[r] for r in self.prepared.receivers}
        last = max(place.layer for place in readers.values())
        # Receivers before the sender read the base run.
        self.copies = {r: _base_copy(made, part, r).expand_as(self.changes) for r in readers}
        hidden = part.base.residual[layer].repeat(len(self.senders), 1, 1)
        heads = self.changes * _column([place.kind == "head" for place in places], self.changes)
        mlps = self.changes * _column([place.kind == "mlp" for place in places], self.changes)
        for number in range(layer, min(last, len(made.blocks) - 1) + 1):
            first = number == layer
            for reader, place in readers.items():
                if place.layer == number and place.kind != "mlp":
                    self._keep(reader, hidden)
            own = [r for r, place in readers.items() if place.layer == number and place.kind == "mlp"]
            with hooks() as registered:
                self._hold(registered, number, heads if first else None, mlps if first else None, own, hidden)
                call = part.calls[number].rows(len(hidden))
                hidden = main_output(made.blocks[number].module(hidden, *call.args, **call.kwargs))
        for reader, place in readers.items():
            if place.kind == "logits":
                self._keep(reader, hidden)

    def _keep(self, reader: int, value: Tensor) -> None:
        self.copies[reader] = value.reshape(self.changes.shape).clone()

    def _hold(
        self, registered: Hooks, layer: int, heads: Tensor | None, mlps: Tensor | None, own: list[int], hidden: Tensor
    ) -> None:
        block, base = self.prepared.made.blocks[layer], self.part.base
        held = base.attention[layer].expand_as(self.changes)
        held = held if heads is None else held + heads

        def attention(output: Any) -> Any:
            return with_main_output(output, held.reshape(main_output(output).shape).clone())

        registered.after(block.attn_exit, attention)
        if mlps is not None:
            registered.after(block.mlp_exit, lambda output: _plus(output, mlps))
        if own:

            def enter(args: Any, kwargs: Any) -> None:
                shared = block.shared_norm is not None
                for reader in own:
                    self._keep(reader, hidden if shared else first_argument(args, kwargs))

            registered.before(block.mlp_entrance, enter)


def _plus(output: Any, change: Tensor) -> Any:
    value = main_output(output)
    return with_main_output(output, value + change.reshape(value.shape))


def _senders(made: Task, names: Sequence[str] | None) -> tuple[int, ...]:
    places = made.layout.source_places
    if names is None:
        return tuple(n for n, place in enumerate(places) if place.kind == "head")
    chosen = tuple(sorted({made.layout.source_index(name) for name in ([names] if isinstance(names, str) else names)}))
    if not chosen or any(places[n].kind == "input" for n in chosen):
        raise SpecError(
            "Senders are heads and MLPs." if chosen else "There is no sender.",
            remedy='Name some as "a3.h5" or "m3", or leave senders out for every head.',
        )
    return chosen


def _receivers(made: Task, names: str | Sequence[str]) -> tuple[int, ...]:
    several = [names] if isinstance(names, str) else list(names)
    chosen = tuple(sorted({made.layout.reader_index(name) for name in several}))
    if not chosen:
        raise SpecError("There is no receiver.", remedy='Name some as "a9.h6<q>", "m9" or "logits".')
    if len(chosen) > 1 and made.layout.reader_places[chosen[-1]].kind == "logits":
        raise SpecError(
            "The logits read what every other receiver writes, so as a receiver beside others they would hide them.",
            remedy='Patch paths into "logits" alone, and into the others in a second call.',
        )
    return chosen


def _positions(made: Task, positions: Sequence[Any] | None) -> tuple[int, ...] | None:
    if positions is None:
        return None
    shortest = min(pair.length for pair in made.pairs)
    whole = all(isinstance(one, int) and not isinstance(one, bool) for one in positions)
    if not positions or not whole or any(not -shortest <= position < shortest for position in positions):
        raise SpecError(
            f"The positions {list(positions)} are not all in every prompt: the shortest has {shortest} tokens.",
            remedy=f"Use {-shortest} to {shortest - 1}; negative ones count from the end.",
        )
    return tuple(int(position) for position in positions)
