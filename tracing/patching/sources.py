"""What a patch puts in the place of an activation: the `source` argument of sweeps. Torch-free.

Interchange(): the other run's activation at the same place (the default).
Zero(): zeros.
Mean(over, reference): a mean of activations of reference prompts, by default the source prompts of the sweep itself.
    "position": of the same position, counted from where the sweep counts positions; "span": of the span's tokens, for
    each token of a span (tokens outside of all spans: of all such tokens); "all": of all tokens. Each prompt counts as
    often as it has tokens there.
Resample(seed, reference): the activation of another prompt of the same length, drawn at random, one for each pair.
Noise(scale, seed): the destination's own activation plus Gaussian noise, `scale` standard deviations wide; the
    deviation is that of the site's numbers in that layer, over all pairs, positions and features (Meng et al. 2022,
    arXiv 2202.05262, add noise of three deviations to embeddings).

Draws belong to a pair, a site and a layer, never to a batch: the same seed gives the same numbers whatever runs beside.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from tracing.errors import SpecError

Over = Literal["position", "span", "all"]
Reference = Sequence[Any] | None
"""Prompt pairs (their source prompts count), texts or rows of token ids."""


@dataclass(frozen=True, slots=True)
class Interchange:
    """The source run's own activation."""

    name: ClassVar[str] = "interchange"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Zero:
    """Zeros."""

    name: ClassVar[str] = "zero"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over reference prompts. Raises `SpecError` for another `over`."""

    over: Over = "position"
    reference: Reference = None
    name: ClassVar[str] = "mean"

    def __post_init__(self) -> None:
        if self.over not in get_args(Over):
            raise SpecError(f"A mean cannot be over {self.over!r}.", remedy='Use "position", "span" or "all".')
        _check_reference(self.reference)

    def __str__(self) -> str:
        return f"mean over {'all tokens' if self.over == 'all' else f'each {self.over}'}"


@dataclass(frozen=True, slots=True)
class Resample:
    """Another prompt's activation. Raises `SpecError` for an empty reference."""

    seed: int = 0
    reference: Reference = None
    name: ClassVar[str] = "resample"

    def __post_init__(self) -> None:
        _check_reference(self.reference)

    def __str__(self) -> str:
        return f"resample (seed {self.seed})"


@dataclass(frozen=True, slots=True)
class Noise:
    """Gaussian noise on top. Raises `SpecError` for a scale that is not positive."""

    scale: float = 3.0
    seed: int = 0
    name: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        scale: Any = self.scale
        if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < float("inf"):
            raise SpecError(f"Noise of scale {scale!r} is no noise.", remedy="Give standard deviations, such as 3.0.")

    def __str__(self) -> str:
        return f"noise of {self.scale:g} standard deviations (seed {self.seed})"


Source = Interchange | Zero | Mean | Resample | Noise
NAMES: dict[str, type[Source]] = {one.name: one for one in (Interchange, Zero, Mean, Resample, Noise)}


def as_source(value: Any) -> Source:
    """A source by name with its defaults, or one as it is. Raises `SpecError` for anything else."""
    if isinstance(value, Interchange | Zero | Mean | Resample | Noise):
        return value
    if isinstance(value, str) and value in NAMES:
        return NAMES[value]()
    raise SpecError(
        f"There is no source {value!r}.", remedy=f"Sources: {', '.join(NAMES)}, or one of tracing.patching.sources."
    )


def _check_reference(reference: Any) -> None:
    if reference is not None and (
        isinstance(reference, str) or not hasattr(reference, "__len__") or not len(reference)
    ):
        raise SpecError("The reference has no prompts.", remedy="Give a list of prompts or pairs, or leave it out.")
