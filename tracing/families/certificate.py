"""Does an adapter describe the model it is used on? Three identities, checked on the model's own forward.

1. residual: embeddings + Σ over layers of (attn_out + mlp_out) = the residual behind the last block;
2. heads: Σ over heads of z_h · W_O[h] (+ b_O) = attn_out, in every layer;
3. pattern: attention pattern · v = z, in every layer, key-value heads repeated over their query heads.
All are linear, so they hold to rounding whatever the weights; a wrong path, slice or head order breaks them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tracing.errors import AdapterError
from tracing.models import LanguageModel
from tracing.patching.hooks import first_argument, hooks, main_output

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
        return self.error <= self.tolerance


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was checked on which family, and how exact it is."""

    family: str
    identities: tuple[Identity, ...]

    @property
    def exact(self) -> bool:
        """True where every identity holds."""
        return all(identity.holds for identity in self.identities)

    def __str__(self) -> str:
        lines = [f"Adapter {self.family}: {'describes this model' if self.exact else 'DOES NOT describe this model'}"]
        for one in self.identities:
            verdict = "holds" if one.holds else "FAILS"
            lines.append(f"  {verdict}  {one.formula}  (off by {one.error:.1e}, allowed {one.tolerance:.0e})")
        return "\n".join(lines)


@dataclass(slots=True)
class _Seen:
    """What one forward showed, a list entry a layer."""

    embeddings: list[Tensor]
    final: list[Tensor]
    attn_out: list[Tensor]
    mlp_out: list[Tensor]
    z: list[Tensor]
    v: list[Tensor]
    pattern: list[Tensor]


def certify(model: LanguageModel, *, strict: bool = True, ids: Tensor | None = None) -> CheckReport:
    """Check the adapter on a short prompt (`ids` `[batch, position]`, by default seven ids spread over the vocabulary).

    Raises `AdapterError`, with the report as its message, where `strict` and an identity fails or a path is missing.
    """
    if ids is None:
        ids = torch.arange(1, 8).mul(model.facts.vocab_size // 9 or 1).remainder(model.facts.vocab_size)[None]
    ids = ids.to(model.device)
    try:
        seen = _run(model, ids)
        errors = (_residual_error(seen), _heads_error(model, seen), _pattern_error(model, seen))
    except (AttributeError, RuntimeError, IndexError) as error:
        raise AdapterError(
            f"The adapter {model.adapter.family!r} does not fit this model: {error}.",
            remedy="Its module paths or slices differ from this version of the architecture.",
        ) from error
    tolerance = TOLERANCE[model.dtype]
    names = (
        ("residual", "embeddings + Σ (attn_out + mlp_out) = final residual"),
        ("heads", "Σ z·W_O + b_O = attn_out"),
        ("pattern", "pattern·v = z"),
    )
    report = CheckReport(
        model.adapter.family,
        tuple(Identity(*name, error, tolerance) for name, error in zip(names, errors, strict=True)),
    )
    if strict and not report.exact:
        raise AdapterError(str(report), remedy="Fix the adapter's paths and slices, then check again.")
    return report


@contextmanager
def _eager(model: LanguageModel) -> Iterator[None]:
    """Attention that returns its pattern, for the time of the check.

    What every part's config said before is written back as it was: switching back by name would check the name again,
    and would give parts with different implementations the same one.
    """
    module: Any = model.module
    configs = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        module.set_attn_implementation("eager")
        yield
    finally:
        for config, was in before:
            config._attn_implementation = was


def _run(model: LanguageModel, ids: Tensor) -> _Seen:
    adapter, seen = model.adapter, _Seen([], [], [], [], [], [], [])
    d_head = model.facts.d_head

    def attention(output: Any) -> None:
        seen.attn_out.append(main_output(output))
        seen.pattern.append(output[1])

    def before_out(args: Any, kwargs: Any) -> None:
        seen.z.append(split_heads(first_argument(args, kwargs), d_head))

    with hooks() as registered, torch.inference_mode(), _eager(model):
        for path in adapter.embeddings:
            registered.after(model.part(path), lambda output: seen.embeddings.append(main_output(output)))
        for block in model.blocks:
            registered.after(block.get_submodule(adapter.attn), attention)
            registered.before(block.get_submodule(adapter.out_proj), before_out)
            registered.after(
                block.get_submodule(adapter.v.path),
                lambda output: seen.v.append(adapter.v.of(main_output(output), d_head)),
            )
            registered.after(block.get_submodule(adapter.mlp), lambda output: seen.mlp_out.append(main_output(output)))
        registered.after(model.blocks[-1], lambda output: seen.final.append(main_output(output)))
        model.part(adapter.backbone)(input_ids=ids, use_cache=False)
    return seen


def _deviation(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max().clamp_min(1e-30))


def _residual_error(seen: _Seen) -> float:
    total = sum(seen.embeddings) + sum(seen.attn_out) + sum(seen.mlp_out)
    assert isinstance(total, Tensor)
    return _deviation(total, seen.final[0])


def _heads_error(model: LanguageModel, seen: _Seen) -> float:
    errors = []
    for block, z, attn_out in zip(model.blocks, seen.z, seen.attn_out, strict=True):
        out_proj = block.get_submodule(model.adapter.out_proj)
        weight = split_heads(output_weight(out_proj).T, model.facts.d_head).permute(1, 2, 0)
        total = torch.einsum("bphd,hdm->bpm", z, weight)
        bias = getattr(out_proj, "bias", None)
        errors.append(_deviation(total if bias is None else total + bias, attn_out))
    return max(errors)


def split_heads(values: Tensor, d_head: int) -> Tensor:
    """`[…, head · d_head]` to `[…, head, d_head]`."""
    return values.reshape(*values.shape[:-1], -1, d_head)


def output_weight(linear: nn.Module) -> Tensor:
    """W_O as `[head · d_head, d_model]`, whatever way round the module stores it (Conv1D does not transpose)."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(linear, nn.Linear) else weight


def _pattern_error(model: LanguageModel, seen: _Seen) -> float:
    group = model.facts.n_heads // model.facts.n_kv_heads
    return max(
        _deviation(torch.einsum("bhqk,bkhd->bqhd", pattern, v.repeat_interleave(group, 2)), z)
        for pattern, v, z in zip(seen.pattern, seen.v, seen.z, strict=True)
    )
