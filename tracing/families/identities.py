"""The identities of `certificate`, each as (name, formula, largest deviation relative to the largest value)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tracing.families.adapter import Adapter
from tracing.families.facts import ModelFacts
from tracing.families.reading import Seen

TINY = 1e-30
Found = tuple[str, str, float]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, or one stack of it, and what a forward showed. `prefix` is "encoder_" for an encoder's sites."""

    module: nn.Module
    adapter: Adapter
    facts: ModelFacts
    seen: Seen
    prefix: str = ""

    def all(self, name: str) -> list[Tensor]:
        """A site's values by layer; empty where the family has no such site."""
        return self.seen.all(self.prefix + name)

    def in_block(self, layer: int, path: str) -> nn.Module:
        """A module of a block."""
        return self.module.get_submodule(f"{self.adapter.blocks}.{layer}.{path}")


def errors_of(subject: Subject) -> Iterator[Found]:
    """Every identity that the family has."""
    if subject.adapter.encoder is not None:
        encoder = Subject(subject.module, subject.adapter.encoder, subject.facts, subject.seen, "encoder_")
        for name, formula, error in _stream(encoder):
            yield f"encoder_{name}", f"encoder: {formula}", error
    yield from _stream(subject)
    if "z" in subject.adapter.sites:
        yield "heads", "Σ z·W_O + b_O = attn_out" + _before_norm(subject.adapter), _heads(subject)
        yield from _attention(subject)
    yield from _readout(subject)


def _stream(subject: Subject) -> Iterator[Found]:
    """Identities 1 and 2."""
    adapter = subject.adapter
    embedding = sum((subject.seen.outputs[path] for path in adapter.embeddings), start=torch.zeros(()))
    parts = [name for name in ("attn_out", *dict(adapter.others), "mlp_out") if name in adapter.sites]
    if adapter.residual == "post_norm":
        yield "residual", "embeddings = embed", deviation(embedding, subject.all("embed")[0])
        formula = "LN(resid_pre + attn_out) = resid_mid, LN(resid_mid + mlp_out) = resid_post"
        yield "block", formula, _worst(_post_norm_blocks(subject))
        return
    total = sum((value for name in parts for value in subject.all(name)), start=embedding)
    yield (
        "residual",
        f"embeddings + Σ ({' + '.join(parts)}) = final residual",
        deviation(total, subject.all("resid_post")[-1]),
    )
    middle = "resid_mid" in adapter.sites
    formula = f"resid_pre + {' + '.join(parts)} = resid_post"
    if middle:
        formula = "resid_pre + attn_out = resid_mid, resid_mid + mlp_out = resid_post"
    yield "block", formula, _worst(_blocks(subject, parts, middle))


def _blocks(subject: Subject, parts: list[str], middle: bool) -> Iterator[float]:
    before, after = subject.all("resid_pre"), subject.all("resid_post")
    added = {name: subject.all(name) for name in parts}
    mid = subject.all("resid_mid") if middle else []
    for layer in range(len(after)):
        start = before[layer]
        if middle:
            yield deviation(start + added["attn_out"][layer], mid[layer])
            yield deviation(mid[layer] + added["mlp_out"][layer], after[layer])
        else:
            yield deviation(sum((added[name][layer] for name in parts), start=start), after[layer])
        if layer:
            yield deviation(after[layer - 1], start)


def _post_norm_blocks(subject: Subject) -> Iterator[float]:
    before, mid, after = (subject.all(name) for name in ("resid_pre", "resid_mid", "resid_post"))
    attn_out, mlp_out = subject.all("attn_out"), subject.all("mlp_out")
    first, second = subject.adapter.norm_after
    for layer in range(len(after)):
        yield deviation(subject.in_block(layer, first)(before[layer] + attn_out[layer]), mid[layer])
        yield deviation(subject.in_block(layer, second)(mid[layer] + mlp_out[layer]), after[layer])
        if layer:
            yield deviation(after[layer - 1], before[layer])


def _sums_at_attn(adapter: Adapter) -> bool:
    """Whether the heads add up to `attn`'s own output, because a norm lies between it and the residual stream."""
    return adapter.attn_out not in ("", adapter.out_proj)


def _before_norm(adapter: Adapter) -> str:
    return " before its norm" if _sums_at_attn(adapter) else ""


def _heads(subject: Subject) -> float:
    adapter, errors = subject.adapter, []
    for layer, z in enumerate(subject.all("z")):
        out_proj = subject.in_block(layer, adapter.out_proj)
        total = head_writes(out_proj, z).sum(-2)
        bias = getattr(out_proj, "bias", None)
        whole = subject.seen.outputs[f"{adapter.blocks}.{layer}.{adapter.attn}"]
        right = whole if _sums_at_attn(adapter) else subject.all("attn_out")[layer]
        errors.append(deviation(total if bias is None else total + bias, right))
    return max(errors)


def head_writes(out_proj: nn.Module, z: Tensor) -> Tensor:
    """What each head adds, before bias and norm: z `[batch, position, head, d_head]` to `[…, head, d_model]`."""
    weight = output_weight(out_proj).reshape(*z.shape[-2:], -1)
    return torch.einsum("bphd,hdm->bphm", z, weight)


def output_weight(linear: nn.Module) -> Tensor:
    """W_O as `[head · d_head, d_model]`, whatever way round the module stores it (Conv1D does not transpose)."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(linear, nn.Linear) else weight


def _attention(subject: Subject) -> Iterator[Found]:
    """Identities 4 and 5."""
    patterns, group = subject.all("pattern"), subject.facts.n_heads // max(1, subject.facts.n_kv_heads)
    if patterns:
        pairs = zip(patterns, subject.all("v"), subject.all("z"), strict=True)
        weighted = ((torch.einsum("bhqk,bkhd->bqhd", p, v.repeat_interleave(group, 2)), z) for p, v, z in pairs)
        yield "pattern", "pattern·v = z", _worst(deviation(total, z) for total, z in weighted)
    if subject.all("q_rot"):
        norms = dict(zip("qk", subject.adapter.qk_norm, strict=True))
        for kind, name in (("q", "queries"), ("k", "keys")):
            formula = f"{'norm(' + kind + ')' if norms[kind] else kind} = {kind}_rot at position 0, up to a factor"
            yield name, formula, _worst(_unrotated(subject, kind, norms[kind]))
    elif patterns:
        yield "queries and keys", "softmax(q·k / √d_head) = pattern", _worst(_softmaxes(subject, group))


def _unrotated(subject: Subject, kind: str, norm: str) -> Iterator[float]:
    pairs = zip(subject.all(kind), subject.all(f"{kind}_rot"), strict=True)
    for layer, (projected, seen) in enumerate(pairs):
        first, rotated = projected[:, 0], seen[:, 0]
        if norm:
            part = subject.in_block(layer, norm)
            # A norm is over each head, or over all of them side by side: its weight says which.
            whole = next(part.parameters()).shape[0] != first.shape[-1]
            first = part(first.flatten(-2)).unflatten(-1, first.shape[-2:]) if whole else part(first)
        if first.shape != rotated.shape:
            first = first.repeat_interleave(rotated.shape[-2] // first.shape[-2], -2)
        factor = (first * rotated).sum() / (first * first).sum().clamp_min(TINY)
        yield deviation(first * factor, rotated)


def _softmaxes(subject: Subject, group: int) -> Iterator[float]:
    scale = subject.facts.d_head**-0.5
    for q, k, pattern in zip(subject.all("q"), subject.all("k"), subject.all("pattern"), strict=True):
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k.repeat_interleave(group, 2)) * scale
        # Where the pattern is exactly 0 there is a mask, or a score that makes no difference.
        yield deviation(scores.masked_fill(pattern == 0, -torch.inf).softmax(-1), pattern)


def _readout(subject: Subject) -> Iterator[Found]:
    """Identity 6."""
    adapter, seen, errors, formulas = subject.adapter, subject.seen, [], []
    if adapter.final_norm:
        errors.append(deviation(seen.inputs[adapter.final_norm], subject.all("resid_post")[-1]))
        formulas.append("the final norm gets resid_post")
    if adapter.unembed:
        logits = seen.outputs[adapter.unembed]
        cap = getattr(getattr(subject.module, "config", None), "final_logit_softcapping", None)
        logits = torch.tanh(logits / cap) * cap if cap else logits
        right = subject.all("logits")[0]
        errors.append(deviation(logits.to(right.dtype), right))  # Mamba returns float32 whatever it computed in
        formulas.append("the unembedding returns the logits")
    if errors:
        yield "readout", ", ".join(formulas), max(errors)


def deviation(left: Tensor, right: Tensor) -> float:
    """Largest difference, relative to the largest value of the right side. Raises `RuntimeError` for unequal shapes."""
    if left.shape != right.shape:
        raise RuntimeError(f"shapes {tuple(left.shape)} and {tuple(right.shape)} do not agree")
    undefined = left.isnan() & right.isnan()  # a weight that is no number says nothing about the adapter
    if undefined.all():
        return torch.inf
    error = (left - right).abs()[~undefined].max() / right.abs()[~undefined].max().clamp_min(TINY)
    return float(error.nan_to_num(torch.inf))


def _worst(errors: Iterable[float]) -> float:
    return max(errors)
