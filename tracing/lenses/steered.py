"""Text and metrics of a steered model: a vector, times a scale, added to the residual stream while the model runs.

    h_l[t] ← h_l[t] + scale · v_l      at every position t that `positions` names

(activation addition: Turner et al. 2023, arXiv 2308.10248; contrastive activation addition: Rimsky et al. 2023,
arXiv 2312.06681). "prompt" is the prompt's tokens; "generated" its last token and every new one, which are the places
that new tokens are predicted from; "all" is both. Prompts of one length run together, so nothing is padded; the model
generates as always, with its cache of keys and values. At scale 0 nothing is added: the text is the unsteered one.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from tracing.engines.hooks import Hooks, hooks
from tracing.errors import MetricError, PromptError, SiteError, SpecError, Stopped
from tracing.events import Quantity
from tracing.graph.lens import get, put
from tracing.lenses.prompts import (
    Batch,
    Prompt,
    are_pairs,
    batches,
    bidirectional,
    has_tokenizer,
    is_whole,
    pairs_of,
    position_in,
    prompts_of,
    texts_of,
)
from tracing.lenses.reading import observe
from tracing.lenses.readout import Readout
from tracing.lenses.steering import SteeringVector
from tracing.lenses.steps import Step, Steps, finish
from tracing.metric_facts import METRICS
from tracing.metrics import Metric, Targets
from tracing.metrics import get as metric_of
from tracing.models.pretrained import Pretrained
from tracing.results import Curve, Series, Text, TextEntry

Positions = Literal["all", "prompt", "generated"]
POSITIONS: Final = ("all", "prompt", "generated")


@dataclass(frozen=True, slots=True, eq=False)
class Steered:
    """What a steered model wrote, one entry a scale and prompt, and a metric against the scale where one was asked."""

    text: Text
    curve: Curve | None


def steer(
    model: Pretrained,
    prompts: Any,
    vector: SteeringVector,
    scales: float | Sequence[float] = (0.0, 1.0),
    metric: str | Callable[..., Any] | None = None,
    *,
    max_new_tokens: int = 20,
    positions: Positions = "all",
    run: Literal["clean", "corrupted"] = "clean",
    sample: bool = False,
    temperature: float = 1.0,
    seed: int = 0,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Steered:
    """Generate from every prompt at every scale, greedily or sampled with a `seed`; of pairs, their `run`.

    A `metric` is read at each prompt's answer position with the vector added: it needs pairs, unless it is
    "kl_divergence" (from the unsteered run) or a function of the logits. `max_new_tokens=0` writes nothing, for the
    metric alone. A text ends before its end token. `progress(done, total)` counts prompts times scales.

    Raises `ModelError` for a vector of another model, `SiteError` for a model that cannot continue a prompt,
    `SpecError` for scales or positions that mean nothing, `PromptError` for prompts that are too long with their new
    tokens or lack answers, `Stopped` once `should_stop()`, also between two tokens.
    """
    steps = steer_steps(
        model, prompts, vector, scales, metric, max_new_tokens=max_new_tokens, positions=positions, run=run,
        sample=sample, temperature=temperature, seed=seed, batch=batch, should_stop=should_stop,
    )  # fmt: skip
    return finish(steps, progress)


def steer_steps(
    model: Pretrained,
    prompts: Any,
    vector: SteeringVector,
    scales: float | Sequence[float] = (0.0, 1.0),
    metric: str | Callable[..., Any] | None = None,
    *,
    max_new_tokens: int = 20,
    positions: Positions = "all",
    run: Literal["clean", "corrupted"] = "clean",
    sample: bool = False,
    temperature: float = 1.0,
    seed: int = 0,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
) -> Steps[Steered]:
    """`steer` step by step, one a scale and batch: the same arguments and errors, raised by the first step."""
    strengths = _checked(model, vector, scales, positions, max_new_tokens, temperature)
    measure = None if metric is None else metric_of(metric)
    pairs = pairs_of(model, prompts, needs_foil=_foil(measure)) if are_pairs(prompts) else ()
    if measure is not None and measure.facts.name in METRICS and not pairs and measure.facts.name != "kl_divergence":
        raise PromptError(
            f"The metric {measure.facts.name} compares with answers, and these prompts have none.",
            remedy="Give PromptPair objects, or the metric kl_divergence.",
        )
    read = prompts_of(model, pairs or prompts, run=run)
    stop, total = should_stop or (lambda: False), len(read) * len(strengths)
    written: dict[tuple[int, int], str] = {}
    values = np.full((len(strengths), len(read)), np.nan)
    done = 0
    for one in batches(read, batch, model.device):
        reference = None
        if measure is not None:
            reference = _logits(model, read, one, vector, 0.0, positions, stop)
        for n, scale in enumerate(strengths):
            if stop():
                raise Stopped
            if measure is not None:
                assert reference is not None
                logits = _logits(model, read, one, vector, scale, positions, stop) if scale else reference
                own = [pairs[number] for number in one.numbers] if pairs else []
                values[n, list(one.numbers)] = _measured(measure, logits, reference, own)
            if max_new_tokens:
                for row, ids in enumerate(
                    _generate(model, one, vector, scale, positions, max_new_tokens, sample, temperature, seed, stop)
                ):
                    written[n, one.numbers[row]] = _text(model, ids)
            done += one.rows
            yield Step(done, total)
    facts = {
        "site": vector.site, "layers": list(vector.vectors), "positions": positions, "run": run,
        "scales": list(strengths),
        "norms": {str(layer): norm for layer, norm in vector.norms.items()}, "sampled": sample, "seed": seed,
        "temperature": temperature if sample else None, "max_new_tokens": max_new_tokens, "vector": vector.facts,
    }  # fmt: skip
    return Steered(_texts(read, strengths, written, facts), _curve(measure, strengths, values, facts))


# -- adding the vector ------------------------------------------------------------------------------------------------
@contextmanager
def steering(
    model: Pretrained,
    vector: SteeringVector,
    scale: float,
    *,
    prompt_length: int,
    positions: Positions = "all",
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Within the block, forwards of this thread have `scale` times the vector added.

    A prompt has `prompt_length` tokens. One forward of it comes first, then one a new token (with a cache) or of
    the whole text so far.
    """
    with hooks() as registered:
        if scale:
            for layer, direction in vector.vectors.items():
                added = (direction.double() * scale).to(model.device, model.dtype)
                _add(registered, model, vector.site, layer, added, prompt_length, positions)

        def stop(_args: Any, _kwargs: Any) -> None:
            if should_stop():
                raise Stopped

        registered.before(model.block_modules[0], stop)
        yield


def _add(
    registered: Hooks, model: Pretrained, site: str, layer: int, added: Tensor, length: int, positions: Positions
) -> None:
    path = model.adapter.site(site, layer, model.facts)
    part = model.module.get_submodule(path.path)
    steps = tuple(step for step in path.steps if step[0] != "rows")
    flat = len(steps) < len(path.steps)
    seen = [0]
    rows = _rows_of(registered, model) if flat else None

    def changed(value: Any) -> Any:
        old = get(value, steps)
        shown = old.unflatten(0, (rows[0], -1)) if rows else old
        size = shown.shape[1]
        start = seen[0] if size == 1 else 0  # without a cache, the whole text comes again
        seen[0] = start + size
        at = torch.arange(start, start + size, device=old.device)
        inside = torch.ones_like(at, dtype=torch.bool)
        if positions != "all":
            inside = at < length if positions == "prompt" else at >= length - 1
        if not bool(inside.any()):
            return None
        more = (inside[:, None] * added.to(old.device)).expand(shown.shape).reshape(old.shape)
        if path.in_place:
            old.add_(more)
            return None
        return put(value, steps, old + more)

    if path.kind == "output":
        registered.after(part, changed)
    else:
        registered.before(part, lambda args, kwargs: changed((args, kwargs)))


def _rows_of(registered: Hooks, model: Pretrained) -> list[int]:
    """The number of rows of the forward that runs, kept up to date by a hook (for modules called on flat tokens)."""
    rows = [1]

    def note(args: Any, kwargs: Any) -> None:
        rows[0] = get((args, kwargs), (("first",),)).shape[0]

    for block in model.block_modules:
        registered.before(block, note)
    return rows


# -- running ----------------------------------------------------------------------------------------------------------
def _logits(
    model: Pretrained,
    prompts: Sequence[Prompt],
    batch: Batch,
    vector: SteeringVector,
    scale: float,
    positions: Positions,
    stop: Callable[[], bool],
) -> Tensor:
    """Logits `[row, vocab]` at the answer positions of a steered forward."""
    final: list[Tensor] = []
    places = torch.tensor([position_in(prompts[number], None, model) for number in batch.numbers])

    def keep(_: str, layer: int, value: Tensor) -> None:
        final.append(value[torch.arange(batch.rows), places].clone())

    with steering(model, vector, scale, prompt_length=batch.length, positions=positions, should_stop=stop):
        observe(model, batch.inputs, [("resid_post", model.facts.n_layers - 1)], keep)
    with torch.inference_mode():
        return Readout(model)(final[0])


def _measured(measure: Metric, logits: Tensor, reference: Tensor, pairs: Sequence[Any]) -> Any:
    empty: tuple[tuple[int, ...], ...] = ((),) * len(logits)
    targets = Targets.of(pairs) if pairs else Targets(empty, empty)
    with torch.inference_mode():
        values = measure(logits, replace(targets, reference=reference))
    if not bool(values.isfinite().all()):
        raise MetricError(
            f"The metric {measure.facts.name!r} of a steered run is not a number.",
            remedy="Lower the scale, or run in float32.",
        )
    return values.cpu().numpy()


def _generate(
    model: Any,
    batch: Batch,
    vector: SteeringVector,
    scale: float,
    positions: Positions,
    new: int,
    sample: bool,
    temperature: float,
    seed: int,
    stop: Callable[[], bool],
) -> list[list[int]]:
    """The new ids of each row, without what comes from its end token on."""
    ids = batch.inputs[model.adapter.input_name]
    options: dict[str, Any] = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if sample else {}
    devices = [model.device] if model.device.type == "cuda" else []
    with (
        steering(model, vector, scale, prompt_length=batch.length, positions=positions, should_stop=stop),
        torch.inference_mode(),
        torch.random.fork_rng(devices=devices),
    ):
        torch.manual_seed(seed)
        made = model.generate_ids(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=sample, num_beams=1,
            use_cache=True, **options,
        )  # fmt: skip
    ends = getattr(model.module.generation_config, "eos_token_id", None)
    stops = set(ends if isinstance(ends, list) else [ends])
    rows: list[list[int]] = made[:, ids.shape[1] :].tolist()
    return [row[: next((n for n, one in enumerate(row) if one in stops), len(row))] for row in rows]


def _text(model: Any, ids: Sequence[int]) -> str:
    return "".join(model.tokens.texts(list(ids))) if has_tokenizer(model) else " ".join(texts_of(model, ids))


# -- checks and results -----------------------------------------------------------------------------------------------
def _foil(measure: Metric | None) -> str:
    return measure.facts.name if measure is not None and measure.facts.needs_foil else ""


def _checked(
    model: Pretrained, vector: SteeringVector, scales: Any, positions: str, new: int, temperature: float
) -> tuple[float, ...]:
    strengths = tuple(float(scale) for scale in ([scales] if isinstance(scales, int | float) else scales))
    if not strengths or len(set(strengths)) < len(strengths) or not all(np.isfinite(strengths)):
        raise SpecError(f"The scales {list(strengths)} are not different numbers.", remedy="Give each once.")
    if positions not in POSITIONS or not is_whole(new) or new < 0 or not temperature > 0:
        raise SpecError(
            f"positions={positions!r}, max_new_tokens={new!r}, temperature={temperature} mean nothing here.",
            remedy=f"Positions: {', '.join(POSITIONS)}; tokens from 0 on; a temperature above 0.",
        )
    if not isinstance(vector, SteeringVector):
        raise SpecError(f"vector={vector!r} is no steering vector.", remedy="Give what steering_vector made.")
    vector.require_fits(model)
    if new and (model.adapter.encoder is not None or bidirectional(model)):
        raise SiteError(
            f"The family {model.family} does not continue a prompt, so there is no steered text.",
            remedy="Use a causal language model, or max_new_tokens=0 with a metric.",
        )
    return strengths


def _texts(
    prompts: Sequence[Prompt], scales: Sequence[float], written: dict[tuple[int, int], str], facts: dict[str, Any]
) -> Text:
    entries = [
        TextEntry(f"scale {scale:g}", prompt.text, written[n, number], {"scale": scale, "prompt": prompt.number})
        for number, prompt in enumerate(prompts)
        for n, scale in enumerate(scales)
        if (n, number) in written
    ]
    return Text(name="steered", title="Text with the vector added", entries=tuple(entries), facts=facts)


def _curve(measure: Metric | None, scales: Sequence[float], values: Any, facts: dict[str, Any]) -> Curve | None:
    """The mean metric against the scale, with one standard error where there are several prompts."""
    if measure is None:
        return None
    order = np.argsort(scales)
    means, count = values.mean(1)[order], values.shape[1]
    low = high = None
    if count > 1:
        error = (values.std(1, ddof=1) / np.sqrt(count))[order]
        low, high = means - error, means + error
    about = measure.facts
    domain = about.domain(float(means.max()), float(means.min()))
    return Curve(
        name="steering_curve",
        title=f"{about.title} against the strength of steering",
        x_title="scale",
        x_unit="times the vector",
        x=np.array(scales, np.float64)[order],
        quantity=Quantity(about.name, about.title, about.unit, about.scale, domain),
        series=(Series(about.name, about.title, means, low, high),),
        facts={**facts, "metric": about.name, "prompts": count, "bounds": "one standard error" if count > 1 else None},
    )
