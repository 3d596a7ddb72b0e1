"""Heads that look at the previous token, at an earlier copy, or behind an earlier copy (induction).

On tokens x, the targets of a query position t are the earlier positions s with

    previous_token    s = t − 1
    duplicate_token   x[s] = x[t],   s < t
    induction         x[s − 1] = x[t],  s ≤ t

and A[t, s] is a head's attention. Scores, means over prompts:

    "mean"  mean over the t that have a target of Σ_s A[t, s]: Olsson et al. 2022 (arXiv 2209.11895) on repeated tokens
    "mul"   Σ A · D / Σ A over all t and s, D the 0-1 matrix of targets: TransformerLens' head detector

By default the tokens are random: a segment drawn without replacement from the model's ordinary vocabulary, several
times in a row, so that nothing but position and repetition can guide a head. A special token that the tokenizer puts
before every prompt is put there too, and is never a query or a target of the scores.

The kind "copying" is of the weights alone: see `tracing.lenses.copying`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.errors import SiteError, SpecError, Stopped
from tracing.events import Quantity
from tracing.lenses.attention import require_patterns, require_shares
from tracing.lenses.copying import copying_scores
from tracing.lenses.places import heads_axis, layers_axis
from tracing.lenses.prompts import Batch, batches, has_tokenizer, prompts_of
from tracing.lenses.reading import observe
from tracing.lenses.steps import Step, Steps, finish
from tracing.models.pretrained import Pretrained
from tracing.results import Grid

AttentionKind = Literal["previous_token", "duplicate_token", "induction"]
Kind = Literal["previous_token", "duplicate_token", "induction", "copying"]
Measure = Literal["mean", "mul"]
KINDS: Final[tuple[AttentionKind, ...]] = ("previous_token", "duplicate_token", "induction")
"""Kinds that are scored by attention; "copying" is scored by the weights."""
TITLES: Final = {
    "previous_token": "Previous-token heads",
    "duplicate_token": "Duplicate-token heads",
    "induction": "Induction heads",
    "copying": "Copying heads",
}
TOKENS: Final = 4096


@dataclass(frozen=True, slots=True, eq=False)
class HeadDetection:
    """One grid layer × head a kind, plane `score` in 0 … 1 (copying: −1 … 1), `examples` `[prompt, layer, head]`."""

    grids: dict[str, Grid]

    def best(self, kind: Kind, count: int = 1) -> list[tuple[int, int, float]]:
        """The heads with the highest scores as (layer, head, score), best first."""
        scores = self.grids[kind].planes["score"]
        order = np.argsort(-np.nan_to_num(scores, nan=-2.0), axis=None, kind="stable")[:count]
        places = (np.unravel_index(int(n), scores.shape) for n in order)
        return [(int(layer), int(head), float(scores[layer, head])) for layer, head in places]


def detect_heads(
    model: Pretrained,
    prompts: Any = None,
    *,
    kinds: Sequence[Kind] = KINDS,
    measure: Measure = "mean",
    length: int = 25,
    repeats: int = 2,
    count: int = 32,
    seed: int = 0,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeadDetection:
    """Score every head as a head of each of the `kinds`.

    `prompts` (texts, rows of ids, pairs) replace the random tokens: `count` rows of a segment of `length` tokens,
    `repeats` times. A prompt without a target of a kind does not count for it. `progress(done, total)` counts prompts.

    Raises `SiteError` for a model whose attention cannot be seen or that reads no tokens, `SpecError` for sizes that
    do not fit the model and for an unknown kind or measure, `Stopped` once `should_stop()`.
    """
    steps = detect_steps(
        model, prompts, kinds=kinds, measure=measure, length=length, repeats=repeats, count=count, seed=seed,
        batch=batch, should_stop=should_stop,
    )  # fmt: skip
    return finish(steps, progress)


def detect_steps(
    model: Pretrained,
    prompts: Any = None,
    *,
    kinds: Sequence[Kind] = KINDS,
    measure: Measure = "mean",
    length: int = 25,
    repeats: int = 2,
    count: int = 32,
    seed: int = 0,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
) -> Steps[HeadDetection]:
    """`detect_heads` step by step: the same arguments and errors, raised by the first step."""
    _check(model, kinds, measure)
    skip, random = 0, prompts is None
    if prompts is None:
        rows, skip = repeated_tokens(model, length=length, repeats=repeats, count=count, seed=seed)
        prompts = rows
    read = prompts_of(model, prompts)
    looked = [kind for kind in KINDS if kind in kinds]
    shape = len(read), model.facts.n_layers, model.facts.n_heads
    scores = {kind: np.full(shape, np.nan) for kind in looked}
    copying = copying_scores(model) if "copying" in kinds else None
    facts: dict[str, Any] = {"measure": measure, "prompts": len(read), "tokens": "random" if random else "given"}
    if random:
        facts |= {"length": length, "repeats": repeats, "seed": seed, "skipped": skip}

    def grids() -> tuple[Grid, ...]:
        found = {kind: _grid(model, kind, values, facts) for kind, values in scores.items()}
        return tuple(_copying_grid(model, copying) if kind == "copying" else found[kind] for kind in kinds)

    done = 0
    for one in batches(read, batch, model.device, TOKENS):
        if should_stop is not None and should_stop():
            raise Stopped
        ids = next(iter(one.inputs.values()))
        targets = {kind: targets_of(kind, ids, skip) for kind in looked}

        def score(
            _: str, layer: int, pattern: Tensor, targets: dict[AttentionKind, Tensor] = targets, one: Batch = one
        ) -> None:
            require_shares(pattern, layer)
            for kind, mask in targets.items():
                scores[kind][list(one.numbers), layer] = score_of(pattern, mask, measure).cpu().numpy()

        if looked:
            observe(model, one.inputs, [("pattern", layer) for layer in range(model.facts.n_layers)], score)
        done += one.rows
        yield Step(done, len(read), grids)
    return HeadDetection({grid.name: grid for grid in grids()})


def repeated_tokens(
    model: Pretrained, *, length: int, repeats: int, count: int, seed: int
) -> tuple[list[list[int]], int]:
    """Random rows and how many special tokens begin each; the same seed gives the same rows.

    Raises `SpecError` where the rows are longer than the model reads, or its vocabulary smaller than a segment.
    """
    start, ordinary = _vocabulary(model)
    total = len(start) + length * repeats
    if length < 2 or repeats < 2 or count < 1 or total > model.facts.max_positions or length > len(ordinary):
        raise SpecError(
            f"{count} rows of {length} random tokens, {repeats} times, are not possible: the model reads "
            f"{model.facts.max_positions} positions and has {len(ordinary)} ordinary tokens.",
            remedy="Take at least 2 tokens, 2 times, 1 row, and no more than fit.",
        )
    rng = np.random.default_rng(seed)
    rows = [rng.choice(ordinary, length, replace=False).tolist() * repeats for _ in range(count)]
    return [[*start, *row] for row in rows], len(start)


def _vocabulary(model: Any) -> tuple[list[int], NDArray[np.int64]]:
    """What the tokenizer puts before every prompt, and all ids that are no special tokens."""
    config = getattr(model.config, "text_config", model.config)
    special = {getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    size = model.facts.vocab_size
    if has_tokenizer(model):
        special |= {*model.tokens.special_ids, model.tokens.unknown_id}
        size = min(size, model.tokens.vocab_size)
    flat = {one for part in special for one in (part if isinstance(part, list) else [part])}
    ordinary = [one for one in range(size) if one not in flat]
    return _start(model, ordinary), np.array(ordinary, np.int64)


def _start(model: Any, ordinary: Sequence[int]) -> list[int]:
    """The special tokens that the tokenizer puts before every prompt."""
    if not has_tokenizer(model):
        return []
    special: frozenset[int] = model.tokens.special_ids
    for text in model.tokens.texts(list(ordinary[:50])):
        row: list[int] = model.encode(text)[0]
        first = next((n for n, one in enumerate(row) if one not in special), None)
        if first is not None:
            return row[:first]
    return []


def targets_of(kind: AttentionKind, ids: Tensor, skip: int = 0) -> Tensor:
    """The 0-1 matrix of a kind, `[row, query, key]`, of ids `[row, position]`; the first `skip` tokens take no part."""
    size = ids.shape[1]
    if kind == "previous_token":
        found = torch.diag(torch.ones(size - 1, dtype=torch.bool, device=ids.device), -1).repeat(len(ids), 1, 1)
    else:
        found = ((ids[:, :, None] == ids[:, None, :]) & ~torch.eye(size, dtype=torch.bool, device=ids.device)).tril()
    if kind == "induction":
        found = found.roll(1, 2).tril()
        found[:, :, 0] = False
    if skip:
        found[:, :skip], found[:, :, :skip] = False, False
        if kind == "induction":
            found[:, :, skip] = False  # it is behind a token that takes no part
    return found


def score_of(pattern: Tensor, targets: Tensor, measure: Measure) -> Tensor:
    """The score of each head `[row, head]` of patterns `[row, head, query, key]`; NaN for a row without targets."""
    wide = pattern if pattern.dtype == torch.float64 else pattern.float()
    hit = (wide * targets[:, None]).sum(-1)
    queries = targets.any(-1)
    number = queries.sum(-1)[:, None].to(wide.dtype)
    whole = wide.sum((-2, -1)) if measure == "mul" else number
    return torch.where(number > 0, hit.sum(-1) / whole, torch.nan)


def _check(model: Pretrained, kinds: Sequence[str], measure: str) -> None:
    if model.adapter.input_name == "pixel_values":
        raise SiteError(
            f"The family {model.family} reads no tokens, so none of them repeat.", remedy="Use attention_patterns."
        )
    require_patterns(model)
    if isinstance(kinds, str) or not kinds:
        raise SpecError(f"kinds={kinds!r} is no list of detectors.", remedy=f"Give some of {', '.join(TITLES)}.")
    unknown = [kind for kind in kinds if kind not in TITLES]
    if unknown or measure not in ("mean", "mul"):
        raise SpecError(
            f"No detector is named {', '.join(map(repr, unknown)) or repr(measure)}.",
            remedy=f'Kinds: {", ".join(TITLES)}; measures: "mean", "mul".',
        )


def _grid(model: Pretrained, kind: str, values: NDArray[Any], facts: dict[str, Any]) -> Grid:
    there = np.isfinite(values)
    count = there.sum(0)
    mean = np.divide(np.where(there, values, 0.0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0)
    return Grid(
        name=kind,
        title=f"{TITLES[kind]}: attention to their targets, by layer and head",
        rows=layers_axis(range(model.facts.n_layers)),
        columns=heads_axis(range(model.facts.n_heads)),
        quantities=(Quantity("score", "Score", "share of attention", "sequential", (0.0, 1.0)),),
        planes={"score": mean},
        examples=values,
        facts={**facts, "kind": kind, "scored_prompts": int(there[:, 0, 0].sum())},
    )


def _copying_grid(model: Pretrained, scores: NDArray[Any] | None) -> Grid:
    assert scores is not None
    anchors = {"-1": "suppresses", "0": "neither", "1": "copies"}
    return Grid(
        name="copying",
        title="Copying heads: eigenvalues of the OV circuit, by layer and head",
        rows=layers_axis(range(model.facts.n_layers)),
        columns=heads_axis(range(model.facts.n_heads)),
        quantities=(Quantity("score", "Σ λ / Σ |λ|", "share of the eigenvalues", "diverging", (-1.0, 1.0), anchors),),
        planes={"score": scores},
        facts={"kind": "copying", "of": "weights"},
    )
