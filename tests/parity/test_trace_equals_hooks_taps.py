"""Sites inside attention against references that never look inside: transformers' own eager patterns, its cache of
keys, and z as a plain hook sees it.

The pattern is the family's own softmax, which most take in float32 whatever the model's precision: 2e-7 there, 1e-12
where it is taken in float64. A written pattern is used as it is: 1e-12.
"""

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import zoo
from tests.parity import hooks
from tests.parity.subjects import NAMES, UNPADDED, WITH_HEADS, Subject, error, subject

TOLERANCE = 1e-12
FLOAT32 = 1e-6
"""Softmax in float32: 6e-8 in a pattern, which the padded and the written path reach by other sums."""

TAPPED = [name for name in WITH_HEADS if not name.startswith("tracr")]
CAUSAL = [name for name in TAPPED if name not in ("bert", "vit")]
TRACR = [name for name in NAMES if name.startswith("tracr")]
MORE_THAN_PRODUCTS = ("bloom", "gemma2")
"""Scores with ALiBi added, and capped ones."""
KINDS = ("q_rot", "k_rot", "scores", "pattern")


@functools.cache
def eager(name: str) -> Any:
    """The same weights with transformers' eager attention, which returns its patterns."""
    if name.startswith("falcon"):  # which cannot change its attention once it is made
        return zoo.double(zoo.model(name, attn_implementation="eager"))
    module: Any = copy.deepcopy(subject(name).module)
    module.set_attn_implementation("eager")
    return module


def patterns(one: Subject, prompt: dict[str, Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found: tuple[Tensor, ...] = eager(one.name)(**one.plain(prompt), output_attentions=True).attentions
    return found


def keys(one: Subject, prompt: dict[str, Tensor], layer: int) -> Tensor:
    """The keys that the model keeps for later steps: rotated, `[batch, position, head, d_head]`."""
    with torch.no_grad():
        found: Tensor = one.module(**prompt, use_cache=True).past_key_values.layers[layer].keys
    return found.transpose(1, 2)


def z_of(one: Subject, pattern: Tensor, v: Tensor) -> Tensor:
    """pattern · v, head by head, `[batch, position, head, d_head]`."""
    group = one.where.heads // one.where.kv
    return torch.stack(
        [pattern[:, head].to(v.dtype) @ v[:, :, head // group] for head in range(one.where.heads)], 2
    )  # fmt: skip


def tapped(one: Subject, prompt: dict[str, Tensor], layer: int) -> dict[str, Any]:
    with one.model.trace(*one.arguments(prompt)):
        found = {kind: getattr(one.model.sites, kind)[layer].save() for kind in KINDS}
        found["logits"] = one.model.output.save()
    return {kind: value.value for kind, value in found.items()}


@pytest.mark.parametrize("name", TAPPED)
def test_scores_and_patterns_of_every_layer(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(0)
    expected = patterns(one, prompt)
    plain = hooks.logits(one.module, one.plain(prompt))
    places = [one.where.place(site, layer) for layer in range(one.layers) for site in ("v", "z")]
    seen, _ = hooks.reads(one.module, one.plain(prompt), places)
    for layer in range(one.layers):
        found = tapped(one, prompt, layer)
        assert torch.equal(found["logits"], plain)  # reading leaves the model as it is
        assert error(found["pattern"], expected[layer]) < FLOAT32
        assert error(found["scores"].softmax(-1), found["pattern"]) < FLOAT32
        assert error(z_of(one, found["scores"].softmax(-1), seen[2 * layer]), seen[2 * layer + 1]) < FLOAT32


@pytest.mark.parametrize("name", TAPPED)
def test_queries_and_keys_as_they_meet(name: str) -> None:
    """Keys are those of the cache; queries those whose products with them are the scores that patterns come from."""
    one = subject(name)
    prompt = one.prompt(1)
    for layer in range(one.layers):
        found = tapped(one, prompt, layer)
        if name in CAUSAL:
            cached = keys(one, prompt, layer)  # a sliding window keeps the last ones
            assert torch.equal(found["k_rot"][:, -cached.shape[1] :], cached), layer
        if name in MORE_THAN_PRODUCTS:
            continue
        product = products(found["q_rot"], found["k_rot"])
        real = found["scores"] > -1e30  # the rest is masked
        scaled = product * scale(product, found["scores"], real)
        assert error(scaled[real], found["scores"][real]) < (FLOAT32 if name == "gptj" else TOLERANCE), layer


def products(q: Tensor, k: Tensor) -> Tensor:
    """q · k of every head, `[batch, head, query, key]`."""
    group = q.shape[2] // k.shape[2]
    return torch.stack([q[:, :, head] @ k[:, :, head // group].mT for head in range(q.shape[2])], 1)


def scale(product: Tensor, scores: Tensor, real: Tensor) -> float:
    """The one factor between products and scores, from the largest."""
    largest = (product.abs() * real).flatten().argmax()
    return float(scores.flatten()[largest] / product.flatten()[largest])


@pytest.mark.parametrize("name", TAPPED)
def test_taps_of_two_prompts(name: str) -> None:
    one = subject(name)
    prompts = one.two()
    saved: list[dict[str, Any]] = []
    with one.model.trace() as tracer:
        for prompt in prompts:
            with tracer.invoke(*one.arguments(prompt)):
                saved.append({kind: getattr(one.model.sites, kind)[one.middle].save() for kind in KINDS})
    for prompt, found in zip(prompts, saved, strict=True):
        alone = tapped(one, prompt, one.middle)
        for kind in KINDS:
            value, expected = found[kind].value, alone[kind]
            if kind == "scores":  # the masked ones are as low as the mask makes them
                assert torch.equal(value > -1e30, expected > -1e30)
                value, expected = value[expected > -1e30], expected[expected > -1e30]
            limit = FLOAT32 if kind == "pattern" else TOLERANCE
            assert error(value, expected) < limit, kind


def written(one: Subject, prompt: dict[str, Tensor], kind: str, edit: Any) -> tuple[Tensor, Tensor]:
    """Logits with an edited site, and the site after the edit."""
    with one.model.trace(*one.arguments(prompt)):
        edit(getattr(one.model.sites, kind)[one.middle])
        after = getattr(one.model.sites, kind)[one.middle].save()
        logits = one.model.output.save()
    return logits.value, after.value


def expected_with(one: Subject, prompt: dict[str, Tensor], pattern: Tensor) -> Tensor:
    """Logits of a plain forward in which z is that pattern's."""
    ((v,), _) = hooks.reads(one.module, one.plain(prompt), [one.where.place("v", one.middle)])
    z = one.where.place("z", one.middle)
    return hooks.writes(one.module, one.plain(prompt), [(z, lambda _: z_of(one, pattern, v))])[0]


@pytest.mark.parametrize("name", TAPPED)
def test_a_written_pattern_is_used(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(0)

    def edit(part: Any) -> None:
        part[:, 0, 1:] = part[:, 1, 1:]
        part[:, 2, -1, :2] += 0.25

    found, after = written(one, prompt, "pattern", edit)
    assert error(found, expected_with(one, prompt, after)) < TOLERANCE
    before = patterns(one, prompt)[one.middle].clone()
    edit(before)
    assert error(after, before) < FLOAT32


@pytest.mark.parametrize("name", TAPPED)
def test_written_scores_are_used(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(0)

    def edit(part: Any) -> None:
        part[:, 1, :, 0] += 2.0

    found, after = written(one, prompt, "scores", edit)
    before = tapped(one, prompt, one.middle)["scores"].clone()
    edit(before)
    assert torch.equal(after, before)
    assert error(found, expected_with(one, prompt, before.softmax(-1))) < FLOAT32  # float32 in the softmax


@pytest.mark.parametrize("name", [name for name in TAPPED if name not in MORE_THAN_PRODUCTS])
@pytest.mark.parametrize("kind", ["q_rot", "k_rot"])
def test_written_queries_and_keys_are_used(name: str, kind: str) -> None:
    one = subject(name)
    prompt = one.prompt(0)
    before = tapped(one, prompt, one.middle)

    def edit(part: Any) -> None:
        part[:, 1:, 0] *= -0.5

    found, after = written(one, prompt, kind, edit)
    q, k = before["q_rot"].clone(), before["k_rot"].clone()
    edit(q if kind == "q_rot" else k)
    assert torch.equal(after, q if kind == "q_rot" else k)
    real, product = before["scores"] > -1e30, products(before["q_rot"], before["k_rot"])
    scores = torch.where(real, products(q, k) * scale(product, before["scores"], real), before["scores"])
    assert error(found, expected_with(one, prompt, scores.softmax(-1))) < (FLOAT32 if name == "gptj" else TOLERANCE)


@pytest.mark.parametrize("name", [name for name in TAPPED if name not in UNPADDED])
def test_a_written_pattern_of_one_prompt_of_two(name: str) -> None:
    one = subject(name)
    first, second = one.two()
    with one.model.trace() as tracer:
        with tracer.invoke(*one.arguments(first)):
            one.model.sites.pattern[one.middle][:, 0] = one.model.sites.pattern[one.middle][:, 1]
            after = one.model.sites.pattern[one.middle].save()
            edited = one.model.output.save()
        with tracer.invoke(*one.arguments(second)):
            other = one.model.output.save()
    assert error(edited, expected_with(one, first, after.value)) < FLOAT32
    plain = hooks.logits(one.module, one.plain(second)).detach()
    assert error(other, plain) < FLOAT32  # its row takes the explicit path with the edited one


@pytest.mark.parametrize("name", TAPPED)
def test_the_gradient_of_a_pattern(name: str) -> None:
    """Against autograd with respect to the pattern of a z that is made of it by hand."""
    one = subject(name)
    prompt = one.prompt(0)
    with one.model.trace(*one.arguments(prompt)):
        pattern = one.model.sites.pattern[one.middle]
        gradient, kept = pattern.grad.save(), pattern.save()
        one.model.output.sin().sum().backward()
    ((v,), _) = hooks.reads(one.module, one.plain(prompt), [one.where.place("v", one.middle)])
    leaf = kept.value.clone().requires_grad_()
    place = one.where.place("z", one.middle)
    with torch.enable_grad(), hooks.hooks(
        one.module, [(place, lambda tensor: place.written(tensor, z_of(one, leaf, v)))]
    ):  # fmt: skip
        (expected,) = torch.autograd.grad(hooks.logits(one.module, one.plain(prompt)).sin().sum(), leaf)
    assert error(gradient, expected) < TOLERANCE


@pytest.mark.parametrize("name", TRACR)
def test_the_pattern_of_a_module_of_ones_own(name: str) -> None:
    """An item of what its attention returns: read, and not to be written."""
    one = subject(name)
    prompt = one.prompt(0)
    seen: list[Tensor] = []
    attention: nn.Module = one.module.get_submodule(f"{one.where.blocks}.0.{one.where.attn_out}")
    with attention.register_forward_hook(lambda _, __, output: seen.append(output[1].clone())):
        hooks.logits(one.module, one.plain(prompt))
    with one.model.trace(*one.arguments(prompt)):
        found = one.model.sites.pattern[0].save()
    assert torch.equal(found.value, seen[0])
