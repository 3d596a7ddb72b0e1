"""How far estimated effects are from exact ones: a sample of cells patched exactly, beside their estimates.

Tiles of the exact sweep are drawn with a seed until they have enough cells, and only these run. Cells that a patch
cannot change count for nothing: an estimate of zero is no merit there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tracing.errors import SiteError, SpecError, Stopped
from tracing.models import LanguageModel
from tracing.patching.inputs import Pairs, ready
from tracing.patching.sweeps import grids as grids_of
from tracing.patching.sweeps import place, prepare, tiles
from tracing.prompts import TokenizedPair
from tracing.results import Certificate, Check, Grid

PEARSON: Final = 0.6
SIGNS: Final = 0.75
STRONG: Final = 0.1
"""An effect is strong from this share of the largest sampled one."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Exact effects of sampled cells and their estimates, means over the same pairs, `[cell]`; `site` names each."""

    exact: NDArray[np.float64]
    estimated: NDArray[np.float64]
    site: tuple[str, ...]

    @property
    def pearson(self) -> float | None:
        """The correlation, None where there are too few cells or no spread."""
        if len(self.exact) < 3 or min(self.exact.std(), self.estimated.std()) == 0:
            return None
        return float(np.corrcoef(self.exact, self.estimated)[0, 1])

    @property
    def signs(self) -> float | None:
        """The share of strong effects whose estimate has their sign."""
        strong = np.abs(self.exact) >= STRONG * np.abs(self.exact).max(initial=0.0)
        if not strong.any():
            return None
        return float((np.sign(self.exact[strong]) == np.sign(self.estimated[strong])).mean())


def check_attribution(
    model: LanguageModel,
    pairs: Pairs,
    grids: Mapping[str, Grid] | Grid,
    metric: str | Callable[..., Any] = "logit_diff",
    *,
    cells: int = 64,
    at_most: int = 8,
    seed: int = 0,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Patch about `cells` cells of each map exactly, on at most `at_most` pairs, both drawn by `seed`.

    `grids` are what `attribution_patching` gave for these pairs and this metric: one, or several by site. Checks:
    Pearson's r between estimates and exact effects over all sampled cells, and how often strong effects have the
    estimate's sign (not for absolute scores). Sites that sweeps do not patch are named in a warning.
    `progress(done, total)` counts sites.
    Raises `SpecError` for numbers below 1 and for maps of anything else, `Stopped` once `should_stop()`.
    """
    grids = {grids.name: grids} if isinstance(grids, Grid) else grids
    _require_estimates(grids)
    if cells < 1 or at_most < 1:
        raise SpecError("A check needs a cell and a pair at least.", remedy="Give numbers from 1 up.")
    tokenized, stop = ready(model, pairs), should_stop or (lambda: False)
    rng = np.random.default_rng(seed)
    chosen = sorted(rng.permutation(len(tokenized))[:at_most].tolist())
    samples, unchecked = [], []
    for done, (site, grid) in enumerate(grids.items(), start=1):
        try:
            samples.append(_sample(model, tokenized, chosen, grid, metric, cells, rng, batch, stop))
        except SiteError:
            unchecked.append(site)
        if progress is not None:
            progress(done, len(grids))
    return _certificate(samples, unchecked, grids, len(chosen))


def _require_estimates(grids: Mapping[str, Grid]) -> None:
    """Raises `SpecError` where a map is not attribution patching's."""
    for site, grid in grids.items():
        if grid.facts.get("method") not in ("atp", "atp_star"):
            raise SpecError(
                f"The map of {site} holds no estimates of attribution patching, so there is nothing to check.",
                remedy="Give what attribution_patching returned; a sweep's own numbers are exact.",
                where={"site": site},
            )


def _sample(
    model: LanguageModel,
    pairs: Sequence[TokenizedPair],
    chosen: Sequence[int],
    grid: Grid,
    metric: str | Callable[..., Any],
    cells: int,
    rng: np.random.Generator,
    batch: int | Literal["auto"],
    stop: Callable[[], bool],
) -> Sample:
    """The exact effects of some tiles of a sweep, and the estimates of the same pairs."""
    facts = grid.facts
    if grid.examples is None or facts["source"] == "resample":
        raise SiteError("Maps with a row a pair, and resampled activations, are not checked.")
    sweep = prepare(
        model, [pairs[n] for n in chosen], metric, grid.name, tuple(facts["over"]), facts["direction"],
        source=facts["source"], positions=facts["positions"], layers=facts.get("layers"),
        spans=facts.get("spans") or None, batch=batch, should_stop=stop,
    )  # fmt: skip
    wanted: set[Any] = set()
    order = [sweep.plan.tiles[n] for n in rng.permutation(len(sweep.plan.tiles))]
    found = 0
    for tile in order:
        if found < cells:
            wanted.add(place(tile))
            found += tile.rows * tile.columns
    others = {place(tile) for tile in sweep.plan.tiles} - wanted
    computed = list(tiles(sweep, done=others, should_stop=stop))
    if len(computed) < len(wanted):
        raise Stopped
    (exact,) = grids_of(sweep, computed)
    assert exact.examples is not None
    effects = exact.examples.astype(np.float64) - sweep.baselines.destination[:, None, None]
    width = effects.shape[2]
    estimates = np.asarray(grid.examples, np.float64)[list(chosen)]
    if grid.columns.name == "position" and width < estimates.shape[2]:  # the longest pair was not drawn
        estimates = estimates[..., -width:] if facts["positions"] == "end" else estimates[..., :width]
    if facts["absolute"]:
        effects, estimates = np.abs(effects), np.abs(estimates)
    there = np.isfinite(effects) & np.isfinite(estimates)
    count = there.sum(0)
    known = count > 0
    sums = [np.where(there, values, 0.0).sum(0)[known] / count[known] for values in (effects, estimates)]
    live = (sums[0] != 0) | (np.abs(sums[1]) > 1e-9 * np.abs(sums[1]).max(initial=0.0))
    return Sample(sums[0][live], sums[1][live], (grid.name,) * int(live.sum()))


def _certificate(
    samples: Sequence[Sample], unchecked: Sequence[str], grids: Mapping[str, Grid], pairs: int
) -> Certificate:
    checks: list[Check] = []
    absolute = any(grid.facts["absolute"] for grid in grids.values())
    whole = Sample(
        np.concatenate([one.exact for one in samples] or [np.zeros(0)]),
        np.concatenate([one.estimated for one in samples] or [np.zeros(0)]),
        tuple(name for one in samples for name in one.site),
    )
    if len(whole.exact):
        checks.append(_correlation("agreement", "Agreement with exact patching", whole, pairs))
        if not absolute:
            checks.append(_sign_check(whole))
        if len(samples) > 1:
            checks += [
                _correlation(f"agreement_{one.site[0]}", f"Agreement at {one.site[0]}", one, pairs)
                for one in samples
                if one.site
            ]
    warnings = [*dict.fromkeys(text for grid in grids.values() for text in grid.facts.get("warnings", []))]
    if unchecked:
        warnings.append(f"Not checked by exact patching: {', '.join(unchecked)}.")
    if not len(whole.exact):
        warnings.append("No cell was checked, so how good the estimates are is not known.")
    if any(check.passed is False for check in checks):
        warnings.append(
            "Some estimates are far from the exact effects: a softmax or an activation function is saturated, or "
            "effects cancel. Patch the cells that matter exactly (activation patching), or try the query and key fix."
        )
    return Certificate(
        name="certificate",
        title="Whether the estimates can be trusted",
        checks=tuple(checks),
        warnings=tuple(warnings),
        facts={"cells": len(whole.exact), "pairs": pairs, "sites": sorted({*whole.site})},
    )


def _correlation(name: str, title: str, sample: Sample, pairs: int) -> Check:
    value = sample.pearson
    of = f"of {len(sample.exact)} cells that were patched exactly on {pairs} pair{'s' * (pairs != 1)}"
    if value is None:
        return Check(name, title, None, PEARSON, None, f"Estimates and effects {of} do not vary, so r is not known.")
    return Check(
        name, title, value, PEARSON, value >= PEARSON,
        f"Pearson's r is {value:.2f} between the estimates and the effects {of}.",
    )  # fmt: skip


def _sign_check(sample: Sample) -> Check:
    value = sample.signs
    passed = None if value is None else value >= SIGNS
    text = "" if value is None else f"{value:.0%} of the strong effects have the sign of their estimate."
    return Check("signs", "Signs of strong effects", value, SIGNS, passed, text or "No sampled effect is strong.")
