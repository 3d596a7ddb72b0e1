"""A logit lens while it is being read: one batch of prompts after another, a few numbers a cell. See `logit_lens`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import log
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.errors import SpecError, Stopped
from tracing.events import Axis, Quantity, Tick
from tracing.lenses.looks import Looks, Seen
from tracing.lenses.places import Positions, layers_axis, positions_axis, shift
from tracing.lenses.prompts import TOKENS_A_FORWARD, Batch, Prompt, batches, position_in, texts_of
from tracing.lenses.reading import observe
from tracing.lenses.readout import Readout
from tracing.lenses.tuned import TunedLens
from tracing.metrics import Metric, Targets
from tracing.models.pretrained import Pretrained
from tracing.prompts import TokenizedPair
from tracing.results import Grid, TokenTable

KEPT_BYTES: Final = 2**28
"""Hidden states of a batch take at most this much, where it has more than one prompt."""
LOGIT_NUMBERS: Final = 2**23
"""Logits that are held at once, a layer."""
Place = tuple[int, int, int]
"""Row of the batch, position, prompt."""


@dataclass(frozen=True, slots=True, eq=False)
class LogitLens:
    """What was read: a table of top tokens a prompt (`tables`), and the `grid` of means over prompts.

    Planes of the grid: `raw` (the metric, where there is one), `rank` and `probability` of the answer (of pairs), `kl`
    and `entropy` in nats. `error` is the readout's largest deviation from the model's own logits, relative.
    """

    grid: Grid | None
    tables: tuple[TokenTable, ...]
    error: float

    @property
    def table(self) -> TokenTable:
        """The first prompt's table. Raises `SpecError` where none was asked for."""
        if not self.tables:
            raise SpecError("No table of tokens was asked for.", remedy="Give top=1 or more.")
        return self.tables[0]


@dataclass(slots=True, eq=False)
class LensRun:
    """A lens that is being read: `steps` does the work, `result` is what is known so far."""

    model: Pretrained
    prompts: tuple[Prompt, ...]
    pairs: tuple[TokenizedPair, ...]
    metric: Metric | None
    site: str
    layers: tuple[int, ...]
    top: int
    shown: tuple[int, ...]
    looks: tuple[str, ...]
    positions: Positions
    at: int | Literal["all", "answer"]
    lens: TunedLens | None
    batch: int | str
    readout: Readout
    error: float
    values: dict[str, NDArray[Any]]
    """`[prompt, row, column]` by plane."""
    final: NDArray[Any]
    """The metric of the model's own logits at the answer, `[prompt]`."""
    tokens: dict[int, tuple[NDArray[Any], NDArray[Any]]]
    """Ids and probabilities `[row, column, k]` of the prompts that have a table."""
    run: str
    answers: tuple[int | None, ...]
    """Where the model answers each prompt; None where a masked language model has no mask."""

    @property
    def rows(self) -> Axis:
        """Layers; the residual entering each block ends with what leaves the last one."""
        return layers_axis(self.layers, *(["out"] if self.with_out else []))

    @property
    def with_out(self) -> bool:
        """Whether the last row is the model's own output."""
        return self.site == "resid_pre"

    @property
    def columns(self) -> Axis:
        """Positions."""
        if self.at == "all":
            return positions_axis(self.prompts, self.positions)
        return Axis("position", "position", (Tick("answer" if self.at == "answer" else str(self.at)),))

    @property
    def narrow(self) -> bool:
        """Whether only some columns of the vocabulary are needed."""
        targets = self.metric is not None and self.metric.facts.targets_only
        return self.looks == ("metric",) and not self.top and targets and self.readout.linear

    def steps(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Read one batch after another; yields how many prompts are done. Raises `Stopped` between two batches."""
        kept = len(self.layers) * self.model.facts.d_model * self.model.dtype.itemsize
        tokens, done = max(1, min(TOKENS_A_FORWARD, KEPT_BYTES // kept)), 0
        for batch in batches(self.prompts, self.batch, self.model.device, tokens):
            if should_stop():
                raise Stopped
            self._read(batch, should_stop)
            done += batch.rows
            yield done

    def _read(self, batch: Batch, should_stop: Callable[[], bool]) -> None:
        seen, last = {}, self.model.facts.n_layers - 1
        wanted = {(self.site, layer) for layer in self.layers} | {("resid_post", last)}
        observe(
            self.model,
            batch.inputs,
            sorted(wanted),
            lambda name, layer, value: seen.update({(name, layer): value.clone()}),
        )
        places = [
            (row, t, number)
            for row, number in enumerate(batch.numbers)
            for t in (range(batch.length) if self.at == "all" else [self._answer(number)])
        ]
        size = max(1, LOGIT_NUMBERS // self.model.facts.vocab_size)
        with torch.inference_mode():
            for lo in range(0, len(places), size):
                if should_stop():
                    raise Stopped
                part = places[lo : lo + size]
                index = torch.tensor([place[:2] for place in part]).T
                hidden = {key: value[index[0], index[1]] for key, value in seen.items()}
                self._read_rows(part, hidden, last)

    def _answer(self, number: int) -> int:
        return position_in(self.prompts[number], self.at if isinstance(self.at, int) else None, self.model)

    def _read_rows(self, places: list[Place], hidden: dict[tuple[str, int], Tensor], last: int) -> None:
        """Fill the cells of some (row, position, prompt) from hidden states `[place, d_model]`."""
        targets = Targets.of([self.pairs[number] for *_, number in places]) if self.pairs else None
        columns = None
        if self.narrow:
            assert targets is not None
            columns = targets.columns()
            targets = targets.within(columns)
        end = self.readout(hidden["resid_post", last], columns)
        if targets is not None and self.metric is not None and self.metric.facts.needs_reference:
            targets = replace(targets, reference=end)
        if self.metric is not None:
            for value, (_, t, number) in zip(self._measure(end, targets).tolist(), places, strict=True):
                if t == self.answers[number]:
                    self.final[number] = value
        shown = [n for n, (*_, number) in enumerate(places) if number in self.tokens]
        look = Looks(self.looks, end, targets, self._measure, shown, self.top)
        for row in range(len(self.layers) + self.with_out):
            logits = end
            if row < len(self.layers):
                layer = self.layers[row]
                value = hidden[self.site, layer]
                logits = self.readout(value if self.lens is None else self.lens(layer, value), columns)
            self._keep(row, places, shown, look(logits))

    def _measure(self, logits: Tensor, targets: Targets | None) -> Tensor:
        assert self.metric is not None
        return self.metric(logits, targets if targets is not None else Targets((), ()))

    def _keep(self, row: int, places: list[Place], shown: list[int], seen: Seen) -> None:
        numbers = [number for *_, number in places]
        columns = [self._column(number, t) for _, t, number in places]
        if seen.values:
            # One copy from the device for all looks.
            values = torch.stack([value.double() for value in seen.values.values()]).cpu().numpy()
            for look, value in zip(seen.values, values, strict=True):
                self.values["raw" if look == "metric" else look][numbers, row, columns] = value
        if self.top and shown:
            ids, probabilities = seen.ids.cpu().numpy(), seen.probabilities.cpu().numpy()
            for n, one, shares in zip(shown, ids, probabilities, strict=True):
                of_ids, of_shares = self.tokens[numbers[n]]
                of_ids[row, columns[n]], of_shares[row, columns[n]] = one, shares

    def _column(self, number: int, t: int) -> int:
        if self.at != "all":
            return 0
        length = self.prompts[number].length
        return t + shift(length, len(self.columns), self.positions)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The planes of the grid, with colour domains that are known before the first cell (but for the metric's)."""
        nats = log(max(2, self.model.facts.vocab_size))
        known = {
            "rank": Quantity("rank", "Rank of the answer", "places", "sequential", (0.0, 100.0), {"0": "top"}),
            "probability": Quantity(
                "probability", "Probability of the answer", "probability", "sequential", (0.0, 1.0)
            ),
            "kl": Quantity("kl", "KL(final ‖ lens)", "nats", "sequential", (0.0, nats), {"0": "final"}),
            "entropy": Quantity("entropy", "Entropy", "nats", "sequential", (0.0, nats)),
        }
        found = [known[look] for look in self.looks if look in known]
        if self.metric is None:
            return tuple(found)
        facts, final = self.metric.facts, float(np.nan_to_num(np.nanmean(self._known_final())))
        return (Quantity("raw", facts.title, facts.unit, facts.scale, facts.domain(final, 0.0)), *found)

    def _known_final(self) -> NDArray[Any]:
        return self.final if np.isfinite(self.final).any() else np.zeros(1)

    @property
    def facts(self) -> dict[str, Any]:
        """What a reader of the map should know."""
        found: dict[str, Any] = {
            "site": self.site, "layers": list(self.layers), "prompts": len(self.prompts), "run": self.run,
            "lens": self.lens.name if self.lens else "logit lens", "readout_error": self.error,
            "softcap": self.readout.cap,
        }  # fmt: skip
        if self.metric is not None:
            found |= {"metric": self.metric.facts.name, "unit": self.metric.facts.unit}
            found["final"] = float(np.nanmean(self._known_final()))
        return found

    def planes(self) -> dict[str, NDArray[Any]]:
        """Means over the prompts that are done and have the position, `[row, column]`; NaN where there is none."""
        found = {}
        for key, values in self.values.items():
            count = np.isfinite(values).sum(0)
            total = np.where(np.isfinite(values), values, 0.0).sum(0)
            found[key] = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
        return found

    def grids(self) -> tuple[Grid, ...]:
        """The map, where it has a plane."""
        if not self.quantities:
            return ()
        return (
            Grid(
                name="lens",
                title=f"{'Tuned lens' if self.lens else 'Logit lens'} on {self.site}, by layer and position",
                rows=self.rows,
                columns=self.columns,
                quantities=self.quantities,
                planes=self.planes(),
                examples=self.values.get("raw"),
                clean=self.final if "raw" in self.values else None,
                facts=self.facts,
            ),
        )

    def result(self) -> LogitLens:
        """The grid and the tables."""
        return LogitLens(
            next(iter(self.grids()), None), tuple(self._table(number) for number in self.tokens), self.error
        )

    def _table(self, number: int) -> TokenTable:
        prompt, (ids, values) = self.prompts[number], self.tokens[number]
        columns = self.columns if self.at != "all" else positions_axis([prompt], "start")
        there = range(len(columns))
        if self.at == "all":
            first = shift(prompt.length, ids.shape[1], self.positions)
            there = range(first, first + prompt.length)
        flat = texts_of(self.model, ids[:, list(there)].reshape(-1).tolist())
        k, width = self.top, len(columns)
        cells = [
            [flat[(r * width + c) * k : (r * width + c + 1) * k] for c in range(width)] for r in range(len(self.rows))
        ]
        return TokenTable(
            name=f"tokens_{prompt.number}",
            title=f"Top tokens through the lens, prompt {prompt.number}: {prompt.short}",
            rows=self.rows,
            columns=columns,
            quantity=Quantity("probability", "Probability", "probability", "sequential", (0.0, 1.0)),
            tokens=cells,
            values=values[:, list(there)],
            facts={**self.facts, "prompt": prompt.number},
        )
