"""The logit lens: what the model would say if it stopped at a layer (nostalgebraist 2020).

For a prompt, a layer l and a position t, with h the residual stream (or another site) there:

    lens(l, t) = unembed(norm_final(h)),   softcapped as the model does

1. run the model once a batch of equally long prompts and keep the site at every layer;
2. read it, some rows at a time so that logits of a large vocabulary fit, beside the model's own last logits;
3. keep a few numbers a cell: top tokens, the metric, rank and probability of the answer, entropy, and
   KL(final ‖ lens) = Σ p_final (log p_final − log p_lens).
A tuned lens puts its translator before the norm. attn_out and mlp_out are read alone, normed by their own scale: that
is a look at a direction; `direct_logit_attribution` is what adds up.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np

from tracing.errors import PromptError, SpecError
from tracing.lenses.lens_run import LensRun
from tracing.lenses.lens_run import LogitLens as LogitLens
from tracing.lenses.places import Positions, chosen
from tracing.lenses.prompts import Prompt, are_pairs, batches, is_whole, pairs_of, position_in, prompts_of
from tracing.lenses.readout import checked
from tracing.lenses.steps import Step, Steps, finish
from tracing.lenses.tuned import TunedLens
from tracing.metric_facts import METRICS
from tracing.metrics import Metric, get
from tracing.models.pretrained import Pretrained
from tracing.prompts import TokenizedPair

LensSite = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
LENS_SITES: Final = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
LOOKS: Final = ("metric", "rank", "probability", "kl", "entropy")


def logit_lens(
    model: Pretrained,
    prompts: Any,
    metric: str | Callable[..., Any] | None = None,
    *,
    site: LensSite = "resid_pre",
    layers: Sequence[int] | None = None,
    top: int = 5,
    tables: Sequence[int] | None = None,
    looks: Sequence[str] | None = None,
    positions: Positions = "end",
    at: int | Literal["all", "answer"] = "all",
    run: Literal["clean", "corrupted"] = "clean",
    lens: TunedLens | None = None,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LogitLens:
    """Read hidden states of every layer as if they were the last.

    `prompts` are texts, rows of ids, pixels, or pairs, of which the `run` is read; a `metric` needs pairs, unless it is
    a function of the logits alone. At every position the distribution is compared with the pair's answer and foil.
    `top` tokens go into a table for each prompt in `tables` (indices from 0; None: all), 0 makes none. `looks` are some
    of "metric", "rank", "probability", "kl", "entropy" (None: all that the prompts allow). `positions` lines prompts of
    unequal lengths up at their first or last token; `at` "answer" reads only where the model answers, a number only
    there. With nothing but a metric that reads answers and foils, only those columns of the vocabulary are computed.
    `progress(done, total)` counts prompts.

    Raises `SiteError` where the family has no such site or no unembedding, `PromptError` for prompts that cannot be
    read or lack a foil, `MetricError` for an unknown metric, `ModelError` for a tuned lens of another model,
    `AdapterError` where the readout does not give the model's own logits, `Stopped` once `should_stop()`.
    """
    steps = lens_steps(
        model, prompts, metric, site=site, layers=layers, top=top, tables=tables, looks=looks, positions=positions,
        at=at, run=run, lens=lens, batch=batch, should_stop=should_stop,
    )  # fmt: skip
    return finish(steps, progress)


def lens_steps(
    model: Pretrained,
    prompts: Any,
    metric: str | Callable[..., Any] | None = None,
    *,
    site: LensSite = "resid_pre",
    layers: Sequence[int] | None = None,
    top: int = 5,
    tables: Sequence[int] | None = None,
    looks: Sequence[str] | None = None,
    positions: Positions = "end",
    at: int | Literal["all", "answer"] = "all",
    run: Literal["clean", "corrupted"] = "clean",
    lens: TunedLens | None = None,
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
) -> Steps[LogitLens]:
    """`logit_lens` step by step: the same arguments and errors, raised by the first step."""
    if site not in LENS_SITES:
        raise SpecError(f"The lens does not read {site!r}.", remedy=f"Sites: {', '.join(LENS_SITES)}.")
    model.adapter.site(site, 0, model.facts)
    wanted = chosen(layers, model.facts.n_layers, "layer")
    measure = None if metric is None else get(metric)
    pairs = pairs_of(model, prompts, needs_foil=_needs_foil(measure)) if are_pairs(prompts) else ()
    read = prompts_of(model, pairs or prompts, run=run)
    found = _looks(looks, measure, pairs)
    if lens is not None:
        if not isinstance(lens, TunedLens):
            raise SpecError(f"lens={lens!r} is no tuned lens.", remedy="Give what TunedLens.from_files read.")
        lens.require_fits(model, site)
    if positions not in ("start", "end"):
        raise SpecError(f"Positions cannot be counted from {positions!r}.", remedy='Use "start" or "end".')
    if not is_whole(top) or not 0 <= top <= model.facts.vocab_size:
        raise SpecError(f"top={top!r} is no number of tokens.", remedy=f"Give 0 to {model.facts.vocab_size}.")
    if at != "all":
        for prompt in read:
            position_in(prompt, None if at == "answer" else at, model)
    first = next(batches(read[:1], 1, model.device))
    readout, error = checked(model, first.inputs)
    rows, columns = len(wanted) + (site == "resid_pre"), 1 if at != "all" else max(prompt.length for prompt in read)
    shape = rows, columns, top
    keys = ["raw" if look == "metric" else look for look in found]
    shown = chosen(tables, len(read), "prompt") if top else ()
    reading = LensRun(
        model=model, prompts=read, pairs=pairs, metric=measure, site=site, layers=wanted, top=top, shown=shown,
        looks=found, positions=positions, at=at, lens=lens, batch=batch, readout=readout, error=error,
        values={key: np.full((len(read), rows, columns), np.nan) for key in keys},
        final=np.full(len(read), np.nan),
        tokens={number: (np.zeros(shape, np.int64), np.full(shape, np.nan)) for number in shown},
        run=run, answers=tuple(_answer(model, prompt) for prompt in read),
    )  # fmt: skip
    for done in reading.steps(should_stop or (lambda: False)):
        yield Step(done, len(read), reading.grids)
    return reading.result()


def _answer(model: Pretrained, prompt: Prompt) -> int | None:
    try:
        return position_in(prompt, None, model)
    except PromptError:
        return None


def _needs_foil(metric: Metric | None) -> str:
    return metric.facts.name if metric is not None and metric.facts.needs_foil else ""


def _looks(looks: Sequence[str] | None, metric: Metric | None, pairs: Sequence[TokenizedPair]) -> tuple[str, ...]:
    """The looks that were asked for. Raises `PromptError` where they need answers and there are no pairs."""
    named = metric is not None and metric.facts.name in METRICS
    if named and not pairs:
        assert metric is not None
        raise PromptError(
            f"The metric {metric.facts.name} compares with answers, and these prompts have none.",
            remedy="Give PromptPair objects, or a function of the logits.",
        )
    needs = {"rank", "probability"}
    if looks is None:
        return tuple(
            look for look in LOOKS if (look != "metric" or metric is not None) and (pairs or look not in needs)
        )
    unknown = [look for look in looks if look not in LOOKS or (look == "metric" and metric is None)]
    if unknown or (not pairs and needs & set(looks)):
        raise SpecError(
            f"The looks {', '.join(map(str, looks))} are not possible here.",
            remedy=f"Looks: {', '.join(LOOKS)}; metric needs metric=, rank and probability need pairs.",
        )
    return tuple(dict.fromkeys(looks))
