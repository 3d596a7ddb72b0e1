"""Does an adapter describe the model it is used on? Identities, checked on the model's own forward.

Where the residual stream is a sum (all but post-norm models):
1. residual: embeddings + Σ over layers of what sublayers add (attn_out, mlp_out, …) = the last block's output;
2. block: resid_mid = resid_pre + attn_out and resid_post = resid_mid + mlp_out, in every layer, which also is the
   next layer's resid_pre. Parallel blocks have no middle; post-norm blocks have LN(resid_pre + attn_out) = resid_mid.
Where there are heads:
3. heads: Σ over heads of z_h · W_O[h] (+ b_O) = attn_out (or what the norm behind attention gets);
4. pattern: attention pattern · v = z, key-value heads repeated over their query heads;
5. queries and keys: at position 0, where rotation does nothing, q_rot = q and k_rot = k, after the norm that some
   families put there, and up to one factor (some scale queries). Attention that cannot be tapped, of modules of one's
   own: softmax(q·k / √d_head) = pattern.
And 6. readout: the final norm gets the last residual, and the unembedding returns the logits (softcapped or not).
All but 5 and the norms are linear, so they hold to rounding whatever the weights; a wrong path, slice or head order
breaks them. The model's attention is switched to its eager path in this thread alone, for the time of the check.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracing.errors import AdapterError, SiteError
from tracing.families.adapter import Adapter
from tracing.families.facts import ModelFacts, model_facts
from tracing.families.identities import Subject, errors_of
from tracing.families.reading import read
from tracing.families.registry import adapter_for, config_of

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest deviation allowed, relative to the largest value of the right-hand side."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One checked identity: its formula, the largest deviation relative to the largest value, and the limit."""

    name: str
    formula: str
    error: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the deviation is within the limit."""
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was checked on which family, and how exact it is."""

    family: str
    identities: tuple[Identity, ...]
    unchecked: tuple[str, ...] = ()
    """What could not be checked, and why."""

    @property
    def exact(self) -> bool:
        """True where every identity holds."""
        return all(identity.holds for identity in self.identities)

    def __str__(self) -> str:
        lines = [f"Adapter {self.family}: {'describes this model' if self.exact else 'DOES NOT describe this model'}"]
        for one in self.identities:
            verdict = "holds" if one.holds else "FAILS"
            lines.append(f"  {verdict}  {one.formula}  (off by {one.error:.1e}, allowed {one.tolerance:.0e})")
        lines += [f"  not checked: {one}" for one in self.unchecked]
        return "\n".join(lines)


def certify(model: Any, *, strict: bool = True, inputs: Mapping[str, Any] | None = None) -> CheckReport:
    """Check the adapter of a model, wrapped or not, on one small input (by default one of seven tokens, or an image).

    Raises `AdapterError`, with the report as its message, where `strict` and an identity fails, and whenever a path is
    missing or leads to something else than the adapter says.
    """
    module, adapter, facts = _parts(model)
    weight = next(module.parameters())
    try:
        seen = read(module, adapter, facts, _inputs(module, adapter, facts, inputs))
        subject = Subject(module, adapter, facts, seen)
        allowed = _tolerance(module, weight.dtype)
        with torch.inference_mode():
            found = tuple(Identity(*one, allowed) for one in errors_of(subject))
    except (AttributeError, RuntimeError, IndexError, AssertionError, SiteError) as error:
        raise AdapterError(
            f"The adapter {adapter.family!r} does not fit this model: {error}.",
            remedy="Its module paths or slices differ from this version of the architecture.",
        ) from error
    except TypeError as error:
        called = f"{adapter.input_name}=ids" if adapter.input_name else "ids"
        raise AdapterError(
            f"The adapter {adapter.family!r} does not fit this model: its forward cannot be called as "
            f"{type(module).__name__}.forward({called}): {error}.",
            remedy='Adapter(input_name="...") is the name of the forward\'s argument, "" for one given by position; or '
            "give all inputs by name: families.check(model, inputs={...}).",
        ) from error
    unchecked = (f"attention from inside: {seen.missing}",) if seen.missing else ()
    report = CheckReport(adapter.family, found, unchecked)
    if strict and not report.exact:
        raise AdapterError(str(report), remedy="Fix the adapter's paths and slices, then check again.")
    return report


def _parts(model: Any) -> tuple[nn.Module, Adapter, ModelFacts]:
    """Module, adapter and sizes of a wrapper (as it has them) or of a bare module."""
    if isinstance(model, nn.Module):
        return model, adapter_for(model), model_facts(config_of(model))
    return model._model, model.adapter, model.facts


def _tolerance(module: nn.Module, dtype: torch.dtype) -> float:
    # Mamba's default rounds the residual stream to float32 in every block, whatever the weights are.
    if getattr(getattr(module, "config", None), "residual_in_fp32", False):
        dtype = torch.float32 if dtype == torch.float64 else dtype
    return TOLERANCE[dtype]


def _inputs(
    module: nn.Module, adapter: Adapter, facts: ModelFacts, inputs: Mapping[str, Any] | None
) -> Mapping[str, Any] | tuple[Tensor, ...]:
    """A forward's arguments: given, or seven ids spread over the vocabulary, or an image of waves."""
    weight = next(module.parameters())
    if inputs is not None:
        return {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)
            for name, value in inputs.items()
        }
    if adapter.input_name == "pixel_values":
        config: Any = module.config
        size = config.image_size if isinstance(config.image_size, list | tuple) else (config.image_size,) * 2
        waves = torch.arange(config.num_channels * size[0] * size[1], device=weight.device).mul(0.7).sin()
        return {"pixel_values": waves.reshape(1, config.num_channels, *size).to(weight.dtype)}
    tokens = min(7, facts.max_positions)
    ids = torch.arange(1, tokens + 1, device=weight.device).mul(facts.vocab_size // 9 or 1)[None] % facts.vocab_size
    if not adapter.input_name:
        return (ids,)
    more = {"decoder_input_ids": ids[:, :-2]} if adapter.encoder else {}
    # A cache would only cost memory; models with attention and state space models have this switch, encoders do not.
    caching = {"use_cache": False} if getattr(getattr(module, "config", None), "use_cache", None) else {}
    return {adapter.input_name: ids, **more, **caching}
