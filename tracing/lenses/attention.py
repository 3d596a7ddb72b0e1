"""Attention patterns of every head, read inside the attention the model runs anyway (no eager attention needed).

pattern[q, k]         the softmax of the family's own scores, with its scaling, softcap, bias, mask and window
value_weighted[q, k]  pattern[q, k] · ‖v_k W_O[h]‖, divided by its sum over k: how much of what the head writes at q
                      comes from k (Kobayashi et al. 2020, arXiv 2004.10102), for a token that is much attended to and
                      carries little is no source. The norm is taken before the output bias and any norm behind.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.errors import MetricError, SiteError, SpecError, Stopped
from tracing.events import Quantity
from tracing.families.identities import output_weight
from tracing.lenses.places import chosen
from tracing.lenses.prompts import Batch, Prompt, batches, bidirectional, prompts_of
from tracing.lenses.reading import observe
from tracing.lenses.steps import Step, Steps, finish
from tracing.models.pretrained import Pretrained
from tracing.results import Attention

MOST_NUMBERS: Final = 2**28
"""Entries of all patterns together; more is refused."""
TOKENS: Final = 2048
PATTERN: Final = Quantity("pattern", "Attention", "share of a query's attention", "sequential", (0.0, 1.0))
WEIGHTED: Final = Quantity(
    "value_weighted", "Value-weighted attention", "share of ‖pattern · v W_O‖ of a query", "sequential", (0.0, 1.0)
)


def attention_patterns(
    model: Pretrained,
    prompts: Any,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    value_weighted: bool = True,
    run: Literal["clean", "corrupted"] = "clean",
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Attention]:
    """One `Attention` a prompt, `[layer, head, query, key]` in float32; keys that come later are NaN in causal models.

    `prompts` as in `logit_lens`; of pairs the `run` is read. `layers` and `heads` choose some, in that order (facts
    name them). `progress(done, total)` counts prompts.
    Raises `SiteError` for a model without attention that can be seen, `SpecError` for layers or heads that do not
    exist and for more numbers than 2^28, `PromptError` for prompts that cannot be read, `Stopped`.
    """
    steps = attention_steps(
        model, prompts, layers=layers, heads=heads, value_weighted=value_weighted, run=run, batch=batch,
        should_stop=should_stop,
    )  # fmt: skip
    return finish(steps, progress)


def attention_steps(
    model: Pretrained,
    prompts: Any,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    value_weighted: bool = True,
    run: Literal["clean", "corrupted"] = "clean",
    batch: int | Literal["auto"] = "auto",
    should_stop: Callable[[], bool] | None = None,
) -> Steps[list[Attention]]:
    """`attention_patterns` step by step: the same arguments and errors, raised by the first step."""
    require_patterns(model)
    wanted = chosen(layers, model.facts.n_layers, "layer")
    rows = chosen(heads, model.facts.n_heads, "head")
    read = prompts_of(model, prompts, run=run)
    numbers = sum(prompt.length**2 for prompt in read) * len(wanted) * len(rows) * (1 + value_weighted)
    if numbers > MOST_NUMBERS:
        raise SpecError(
            f"The patterns of {len(read)} prompts, {len(wanted)} layers and {len(rows)} heads are {numbers / 1e6:.0f} "
            f"million numbers; at most {MOST_NUMBERS / 1e6:.0f} million are kept.",
            remedy="Choose layers=, heads=, or fewer prompts.",
        )
    found: dict[int, Attention] = {}
    for one in batches(read, batch, model.device, TOKENS):
        if should_stop is not None and should_stop():
            raise Stopped
        planes = _planes(model, one, wanted, rows, value_weighted)
        for row, number in enumerate(one.numbers):
            own = {key: values[row] for key, values in planes.items()}
            found[number] = _result(model, read[number], own, wanted, rows, run)
        yield Step(len(found), len(read))
    return [found[number] for number in range(len(read))]


def require_patterns(model: Pretrained) -> None:
    """Raises `SiteError` where the model has no attention pattern that can be seen."""
    if "pattern" not in model.adapter.sites:
        raise SiteError(
            f"The family {model.family} has no attention whose pattern can be seen.",
            remedy=f"Its sites: {', '.join(model.adapter.all_sites)}.",
        )


def require_shares(pattern: Tensor, layer: int) -> None:
    """Raises `MetricError` where attention is not a number, which must not be taken for a masked place."""
    if bool(pattern.isnan().any()):
        raise MetricError(
            f"The attention of layer {layer} is not a number.",
            remedy="Look at the weights, or run in float32.",
            where={"layer": layer},
        )


def _planes(
    model: Pretrained, batch: Batch, layers: Sequence[int], heads: Sequence[int], weighted: bool
) -> dict[str, NDArray[np.float32]]:
    """`[row, layer, head, query, key]` by plane."""
    index = torch.tensor(list(heads), device=model.device)
    patterns: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}

    def keep(name: str, layer: int, value: Tensor) -> None:
        if name == "pattern":
            require_shares(value, layer)
            patterns[layer] = value[:, index].clone()
        else:
            values[layer] = value.clone()

    observe(
        model,
        batch.inputs,
        [(name, n) for n in layers for name in (("pattern", "v") if weighted else ("pattern",))],
        keep,
    )
    with torch.inference_mode():
        found = {"pattern": torch.stack([patterns[layer] for layer in layers], 1)}
        if weighted:
            sizes = [write_sizes(model, layer, values[layer])[:, index] for layer in layers]
            product = found["pattern"].to(sizes[0].dtype) * torch.stack(sizes, 1)[:, :, :, None]
            found["value_weighted"] = product / product.sum(-1, keepdim=True).clamp_min(torch.finfo(product.dtype).tiny)
        if not bidirectional(model):
            later = torch.ones(batch.length, batch.length, dtype=torch.bool, device=model.device).triu(1)
            found = {key: plane.masked_fill(later, torch.nan) for key, plane in found.items()}
        return {key: plane.float().cpu().numpy() for key, plane in found.items()}


def write_sizes(model: Pretrained, layer: int, v: Tensor) -> Tensor:
    """‖v_k W_O[h]‖ `[row, head, key]`, float32 or wider, of v `[row, key, kv_head, d_head]`."""
    facts = model.facts
    wide = torch.float64 if v.dtype == torch.float64 else torch.float32
    weight = output_weight(model.block_modules[layer].get_submodule(model.adapter.out_proj)).to(wide)
    per_head = weight.reshape(facts.n_heads, facts.d_head, -1)
    gram = per_head @ per_head.transpose(1, 2)  # ‖v W‖² = v W Wᵀ vᵀ, without v W of every key
    each = v.to(wide).repeat_interleave(facts.n_heads // v.shape[2], 2)
    return torch.einsum("bkhd,hde,bkhe->bhk", each, gram, each).clamp_min(0).sqrt()


def _result(
    model: Pretrained,
    prompt: Prompt,
    planes: dict[str, NDArray[np.float32]],
    layers: Sequence[int],
    heads: Sequence[int],
    run: str,
) -> Attention:
    return Attention(
        name=f"attention_{prompt.number}",
        title=f"Attention, prompt {prompt.number}: {prompt.short}",
        tokens=prompt.tokens,
        quantities=tuple(one for one in (PATTERN, WEIGHTED) if one.key in planes),
        planes={key: np.ascontiguousarray(values) for key, values in planes.items()},
        facts={
            "prompt": prompt.number, "run": run, "layers": list(layers), "heads": list(heads),
            "causal": not bidirectional(model), "value_weighted": "pattern · ‖v W_O‖, each query's sum 1",
        },
    )  # fmt: skip
