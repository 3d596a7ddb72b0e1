"""Taps in the situations of real runs: padding, generation, precision, gradients, fake tensors; and what is refused."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests.unit.tracing.engines.attention_models import (
    FAMILIES,
    VOCAB,
    attention,
    build,
    inputs,
    keep,
    merged_z,
    patterns,
    reads,
    softmax,
    weighted,
)
from tracing.engines import attention_guards
from tracing.engines.attention import KINDS, TAPPED_FLASH, Taps, tapped
from tracing.errors import SiteError

DECODERS = [name for name, family in FAMILIES.items() if family.inputs == "ids" and name != "bert"]
# Of the others, eager masks hold float64's least number, -inf in the float32 of the softmax: a padded row is NaN there.
PADDED = [name for name in DECODERS if FAMILIES[name].sdpa or not FAMILIES[name].float32]


# -- padding, generation, precision, gradients ------------------------------------------------------------------------


@pytest.mark.parametrize("name", PADDED)
def test_left_padding_changes_nothing_for_the_tokens(name: str) -> None:
    model = build(name)
    module, ids = attention(model, name), inputs(name)["input_ids"]
    mask = (torch.arange(12) >= 3).long().expand(2, -1)
    padded = {"input_ids": torch.cat([ids[:, :3] * 0, ids], dim=1), "attention_mask": mask}
    if name not in ("bloom", "opt"):  # these count positions by the mask
        padded["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    found: list[dict[str, Tensor]] = []
    with torch.no_grad():
        for given in ({"input_ids": ids}, padded):
            plain, into = model(**given)[0], []
            with tapped(model, {module: reads(into)}):
                assert torch.equal(model(**given)[0], plain)
            found.append(dict(into))
        short, long = found
        other = torch.rand_like(long["pattern"])
        with tapped(model, {module: Taps(lambda _k, _x: other, frozenset(), frozenset({"pattern"}))}):
            z = merged_z(lambda: model(**padded), model, name)
        copies = Taps(lambda _k, x: x.clone(), frozenset(), frozenset({"scores", "pattern"}))
        with tapped(model, {attention(model, name, n): copies for n in (0, 1)}):
            explicit = model(**padded)[0]
    # Rows of padding attend to nothing: whatever they hold must not reach the tokens.
    torch.testing.assert_close(explicit[:, 3:], plain[:, 3:], rtol=0, atol=1e-4)
    torch.testing.assert_close(z, weighted(name, other, long["v"]), rtol=0, atol=1e-12)
    torch.testing.assert_close(long["pattern"][:, :, 3:, 3:], short["pattern"], rtol=0, atol=1e-6)
    assert bool((long["pattern"][:, :, 3:, :3] == 0).all())


@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "mistral", "gemma3", "gpt_bigcode", "falcon", "bloom", "gptj", "opt"]
)
def test_generation_with_a_cache_shows_every_step(name: str) -> None:
    model = build(name, dtype=torch.float32)
    ids = inputs(name)["input_ids"]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    found: list[tuple[str, Tensor]] = []
    with tapped(model, {attention(model, name): reads(found)}):
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    assert torch.equal(out, plain)
    steps = [dict(found[n : n + len(KINDS)]) for n in range(0, len(found), len(KINDS))]
    assert len(steps) == 4
    with torch.no_grad():
        whole: list[tuple[str, Tensor]] = []
        with tapped(model, {attention(model, name): reads(whole, "pattern")}):
            model(out[:, :-1])
    for number, step in enumerate(steps):
        assert step["pattern"].shape[2] == (9 if number == 0 else 1)
        keys = step["pattern"].shape[-1]  # a sliding window keeps the last ones
        row = whole[0][1][:, :, 8 + number, : 9 + number]
        torch.testing.assert_close(step["pattern"][:, :, -1], row[..., -keys:], rtol=0, atol=2e-6)
        torch.testing.assert_close(softmax(name, step["scores"]), step["pattern"], rtol=0, atol=1e-6)


def test_a_static_cache_hides_the_empty_keys() -> None:
    model, found = build("llama", dtype=torch.float32), []
    ids = inputs("llama")["input_ids"]
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "disable_compile": True}
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), cache_implementation="static", **options)
    with tapped(model, {attention(model, "llama"): reads(found, "v", "pattern")}):
        out = model.generate(ids, attention_mask=torch.ones_like(ids), cache_implementation="static", **options)
    assert torch.equal(out, plain)
    first = dict(found[:2])["pattern"]
    assert first.shape[-1] > 9
    assert bool((first[..., 9:] == 0).all())
    torch.testing.assert_close(first.sum(-1), torch.ones(first.shape[:3]))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "bloom", "gptj"])
def test_bfloat16_patterns_are_the_eager_ones_and_writing_them_back_is_exact(name: str, implementation: str) -> None:
    model, eager = build(name, implementation, torch.bfloat16), build(name, "eager", torch.bfloat16)
    with torch.no_grad():
        expected = patterns(eager, name, **inputs(name))[0]
        z = merged_z(lambda: eager(**inputs(name)), eager, name)
        found: list[tuple[str, Tensor]] = []
        copies = Taps(lambda kind, x: keep(found)(kind, x).clone(), frozenset(), frozenset({"scores", "pattern"}))
        with tapped(model, {attention(model, name): copies}):
            again = merged_z(lambda: model(**inputs(name)), model, name)
    assert torch.equal(dict(found)["pattern"], expected)
    assert dict(found)["pattern"].dtype == torch.bfloat16
    assert torch.equal(again, z)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "falcon", "bloom", "bert"])
def test_gradients_flow_through_taps(name: str, kind: str) -> None:
    model = build(name)
    kept: list[Tensor] = []

    def visit(_kind: str, tensor: Tensor) -> Tensor:
        kept.append(tensor.detach().clone().requires_grad_())
        return kept[0]

    def loss(edit: Callable[[str, Tensor], Tensor]) -> Tensor:
        with tapped(model, {attention(model, name): Taps(edit, frozenset(), frozenset({kind}))}):
            total: Tensor = model(**inputs(name))[0].double().tanh().sum()
        return total

    (gradient,) = torch.autograd.grad(loss(visit), kept)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(kept[0].shape, generator=generator, dtype=kept[0].dtype)
    if kind == "scores":
        direction = direction * (kept[0].detach() > -1e30)
    step = 1e-5 if not FAMILIES[name].float32 else 1e-3  # the float32 softmax of bloom rounds finer steps away
    with torch.no_grad():
        ahead, behind = (loss(lambda _k, x, s=s: x + s * direction) for s in (step, -step))
    slope = (ahead - behind) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-3, atol=1e-4)


def test_a_written_pattern_lies_on_the_way_even_where_it_is_cast() -> None:
    model, found = build("llama", dtype=torch.bfloat16), []
    taps = Taps(keep(found), frozenset(), frozenset({"pattern"}))
    with tapped(model, {attention(model, "llama"): taps}):
        loss = model(**inputs("llama")).logits.float().sum()
    (gradient,) = torch.autograd.grad(loss, found[0][1])
    assert bool((gradient != 0).any())


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["falcon", "falcon_alibi", "llama"])
def test_reading_a_forward_that_returns_its_attentions_leaves_it_bit_equal(name: str, implementation: str) -> None:
    model, found = build(name, implementation), []
    with torch.no_grad():
        plain = model(**inputs(name), output_attentions=True)
        with tapped(model, {attention(model, name): reads(found)}):
            again = model(**inputs(name), output_attentions=True)
    assert torch.equal(again.logits, plain.logits)
    if plain.attentions:
        assert torch.equal(again.attentions[0], plain.attentions[0])
        assert torch.equal(dict(found)["pattern"], plain.attentions[0])


# -- hooks and errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "part"), [("bloom", "query_key_value"), ("falcon", "query_key_value")])
def test_a_hook_that_takes_a_softmax_or_reshapes_is_not_mistaken_for_the_attention(name: str, part: str) -> None:
    model = build(name)
    module, found = attention(model, name), []
    handle = module.get_submodule(part).register_forward_hook(
        lambda _m, _a, output: torch.softmax(output.reshape(output.shape), -1) * 0 + output
    )
    with torch.no_grad(), tapped(model, {module: reads(found)}):
        model(**inputs(name))
    handle.remove()
    with torch.no_grad():
        expected = patterns(build(name, "eager"), name, **inputs(name))[0]
    torch.testing.assert_close(dict(found)["pattern"], expected, rtol=0, atol=1e-12)
    assert [kind for kind, _ in found] == list(KINDS)


def test_modules_without_attention_are_refused_with_the_right_one_named() -> None:
    model = build("llama")
    with (
        pytest.raises(SiteError, match=r"model\.layers\.0\.mlp \(LlamaMLP\).*such as model\.layers\.0\.self_attn"),
        tapped(model, {model.model.layers[0].mlp: reads([])}),
    ):
        pass
    config = transformers.MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, state_size=4)
    mamba = transformers.MambaForCausalLM(config)
    with (
        pytest.raises(SiteError, match=r"layers\.0\.mixer .* no attention .* submodules"),
        tapped(mamba, {mamba.backbone.layers[0].mixer: reads([])}),
    ):
        pass
    assert not attention_guards._standing


def test_unknown_taps_are_refused() -> None:
    with pytest.raises(SiteError, match=r"no tap 'z'\. Taps are q_rot"):
        reads([], "z")


def test_implementations_without_a_readable_mask_are_refused_for_scores_and_patterns_only() -> None:
    model = copy.deepcopy(build("llama"))
    module = attention(model, "llama")
    model.config._attn_implementation = "flex_attention"
    with (
        pytest.raises(SiteError, match=r"'flex_attention' attention.*set_attn_implementation"),
        tapped(model, {module: reads([], "pattern")}),
    ):
        pass
    with pytest.raises(SiteError, match="set_attn_implementation"), tapped(model, {}, eager=True):
        pass
    with tapped(model, {module: reads([], "q_rot", "k_rot", "v")}):
        pass


def test_any_other_implementation_is_called_as_before() -> None:
    calls: list[tuple[str, Tensor]] = []

    def mine(module: nn.Module, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append((module.config._attn_implementation, query))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, *args, **kwargs)

    transformers.AttentionInterface.register("tests_flash", mine)
    model = copy.deepcopy(build("llama"))
    model.config._attn_implementation = "tests_flash"
    found: list[tuple[str, Tensor]] = []
    with tapped(model, {attention(model, "llama"): Taps(lambda _k, x: x * 2, frozenset(), frozenset({"q_rot"}))}):
        names: list[str] = []
        handle = attention(model, "llama").q_proj.register_forward_hook(
            lambda *_: names.append(attention(model, "llama").config._attn_implementation)
        )
        model(**inputs("llama"))
        handle.remove()
    ALL_ATTENTION_FUNCTIONS._global_mapping.pop("tests_flash")
    assert names == [TAPPED_FLASH]
    assert [name for name, _ in calls] == ["tests_flash", "tests_flash"]
    with tapped(build("llama"), {attention(build("llama"), "llama"): reads(found, "q_rot")}):
        build("llama")(**inputs("llama"))
    assert torch.equal(calls[0][1], found[0][1] * 2)


def test_a_visitor_may_only_change_what_it_said_it_writes_and_no_shapes() -> None:
    model = build("llama")
    module = attention(model, "llama")
    with (
        pytest.raises(ValueError, match="changed 'v', which is not among"),
        tapped(model, {module: Taps(lambda _k, x: x + 1, frozenset({"v"}), frozenset())}),
    ):
        model(**inputs("llama"))
    with (
        pytest.raises(ValueError, match=r"v is \[2, 2, 9, 8\], so \[1, 2, 9, 8\] cannot"),
        tapped(model, {module: Taps(lambda _k, x: x[:1], frozenset(), frozenset({"v"}))}),
    ):
        model(**inputs("llama"))


def test_attention_sinks_are_refused_where_the_softmax_shows_them() -> None:
    config = transformers.GptOssConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=16, num_local_experts=2, num_experts_per_tok=1, pad_token_id=0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = transformers.GptOssForCausalLM(config).eval()
    found: list[tuple[str, Tensor]] = []
    with torch.no_grad():
        with tapped(model, {model.model.layers[0].self_attn: reads(found, "q_rot", "v")}):
            model(**inputs("llama"))
        with (
            pytest.raises(SiteError, match="attention sinks"),
            tapped(model, {model.model.layers[0].self_attn: reads(found, "pattern")}),
        ):
            model(**inputs("llama"))
    assert [kind for kind, _ in found] == ["q_rot", "v"]


# -- more ways to run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("encoder.block.1.layer.0.SelfAttention", "encoder_attentions"),
        ("decoder.block.1.layer.1.EncDecAttention", "cross_attentions"),
    ],
)
def test_t5_is_tapped_in_its_encoder_and_its_cross_attention(path: str, field: str) -> None:
    model, found = build("t5", "eager"), []
    with torch.no_grad():
        expected = model(**inputs("t5"), output_attentions=True)[field][1]
        with tapped(model, {model.get_submodule(path): reads(found)}):
            model(**inputs("t5"))
    assert torch.equal(dict(found)["pattern"], expected)


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "bloom", "gptj", "t5", "vit"])
def test_fake_tensors_have_the_shapes_of_the_real_ones(name: str) -> None:
    model = copy.deepcopy(build(name))
    module = attention(model, name)
    real: list[tuple[str, Tensor]] = []
    with torch.no_grad(), tapped(model, {module: reads(real)}):
        model(**inputs(name))
    fake: list[tuple[str, Tensor]] = []
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), tapped(model, {module: reads(fake)}):
        model(**{key: torch.empty_like(value) for key, value in inputs(name).items()})
    assert [(kind, x.shape, x.dtype) for kind, x in fake] == [(kind, x.shape, x.dtype) for kind, x in real]


def test_a_forward_that_somebody_else_wrapped_is_still_called() -> None:
    model, calls, found = copy.deepcopy(build("bloom")), [], []
    module = attention(model, "bloom")
    original = module.forward

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(*args, **kwargs)

    module.forward = wrapped
    with tapped(model, {module: reads(found)}):
        model(**inputs("bloom"))
    assert (len(calls), len(found)) == (1, len(KINDS))
    assert module.forward is wrapped
