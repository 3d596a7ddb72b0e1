"""What a tapping context does to everything else: threads, copies, configurations, generation, gradients, errors."""

import copy
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
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
)
from tracing.engines import attention_guards
from tracing.engines.attention import KINDS, TAPPED, TAPPED_FLASH, Taps, tapped

THREADED = ["gpt2", "llama", "gemma2", "falcon", "bloom", "gptj"]


def attributes(model: nn.Module) -> list[tuple[str, set[str], Any]]:
    return [(path, set(m.__dict__), m.__dict__.get("config")) for path, m in model.named_modules()]


def untouched(model: nn.Module, before: list[tuple[str, set[str], Any]]) -> bool:
    after = attributes(model)
    same = all(a[:2] == b[:2] and a[2] is b[2] for a, b in zip(before, after, strict=True))
    return same and not attention_guards._standing and attention_guards.state.active is None


# -- nothing is left, nothing is seen from outside --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "falcon", "bloom", "gptj"])
def test_nothing_is_left_after_the_block_or_an_exception(name: str) -> None:
    model = build(name)
    model(**inputs(name))
    before, registered = attributes(model), set(ALL_ATTENTION_FUNCTIONS) | {TAPPED, TAPPED_FLASH}
    with tapped(model, {attention(model, name): reads([])}, eager=True):
        model(**inputs(name))
        assert not untouched(model, before)
    assert untouched(model, before)

    def fail(_kind: str, _tensor: Tensor) -> Tensor:
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        tapped(model, {attention(model, name): Taps(fail, frozenset({"pattern"}), frozenset())}),
    ):
        model(**inputs(name))
    assert untouched(model, before)
    assert set(ALL_ATTENTION_FUNCTIONS) == registered
    assert model.config._attn_implementation == ("sdpa" if FAMILIES[name].sdpa else "eager")


@pytest.mark.parametrize("name", ["llama", "falcon"])
def test_the_configuration_is_saved_and_copied_as_ever_inside_a_block(name: str, tmp_path: Path) -> None:
    model = build(name, dtype=torch.float32)
    module = attention(model, name)
    model.save_pretrained(tmp_path / "plain")
    with tapped(model, {module: reads([])}, eager=True):
        assert isinstance(module.config, type(model.config))
        assert module.config == model.config
        assert repr(module.config) == repr(model.config)
        assert model.config._attn_implementation == "sdpa"
        module.config.note = "kept"
        twin = copy.deepcopy(model)
        model.save_pretrained(tmp_path / "tapped")
        with torch.no_grad():
            expected = twin(**inputs(name))[0]
    assert model.config.note == "kept"
    assert attention(twin, name).config is twin.config
    assert type(twin.config) is type(model.config)
    del model.config.note
    plain, saved = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("plain", "tapped"))
    assert {**saved, "note": None} == {**plain, "note": None}
    torch.testing.assert_close(model(**inputs(name))[0], expected)


@pytest.mark.parametrize("name", ["falcon", "bloom", "gptj"])
def test_a_copy_made_inside_a_block_is_independent_of_the_tapped_model(name: str) -> None:
    model = build(name)
    with tapped(model, {attention(model, name): reads([])}):
        twin = copy.deepcopy(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for changed in (twin, other):
            for parameter in attention(changed, name).parameters():
                parameter.mul_(0.5)
        assert torch.equal(twin(**inputs(name))[0], other(**inputs(name))[0])
        assert not torch.equal(twin(**inputs(name))[0], model(**inputs(name))[0])


def test_an_implementation_chosen_inside_a_block_holds_afterwards() -> None:
    model = copy.deepcopy(build("llama"))
    found: list[tuple[str, Tensor]] = []
    with tapped(model, {attention(model, "llama"): reads(found, "pattern")}):
        model.set_attn_implementation("eager")
        expected = patterns(model, "llama", **inputs("llama"))[0]
    assert model.config._attn_implementation == "eager"
    assert torch.equal(found[0][1], expected)


def test_two_models_of_a_class_keep_their_own_settings() -> None:
    sdpa, eager = build("llama"), build("llama", "eager")
    seen: dict[str, list[tuple[str, Tensor]]] = {"sdpa": [], "eager": []}
    with (
        tapped(sdpa, {attention(sdpa, "llama"): reads(seen["sdpa"], "pattern")}),
        tapped(eager, {attention(eager, "llama"): reads(seen["eager"], "scores")}),
    ):
        first, second = sdpa(**inputs("llama"))[0], eager(**inputs("llama"))[0]
    assert [[kind for kind, _ in found] for found in seen.values()] == [["pattern"], ["scores"]]
    assert torch.equal(first, sdpa(**inputs("llama"))[0])
    assert torch.equal(second, eager(**inputs("llama"))[0])


def test_contexts_nest_for_different_modules_of_a_model() -> None:
    model, outer, inner = build("llama"), [], []
    first, second = attention(model, "llama", 0), attention(model, "llama", 1)
    with tapped(model, {first: reads(outer, "v")}):
        with tapped(model, {second: reads(inner, "v")}):
            model(**inputs("llama"))
        assert (len(outer), len(inner)) == (1, 1)
        with (
            pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn .* already"),
            tapped(model, {first: reads(inner)}),
        ):
            pass
        model(**inputs("llama"))
    assert (len(outer), len(inner)) == (2, 1)


@pytest.mark.parametrize("name", ["llama", "falcon", "bloom", "gptj"])
def test_a_forward_that_a_visitor_starts_is_not_tapped(name: str) -> None:
    model, count = build(name), []

    def visit(kind: str, tensor: Tensor) -> Tensor:
        count.append(kind)
        model(**inputs(name))
        return tensor

    with tapped(model, {attention(model, name): Taps(visit, frozenset(KINDS), frozenset())}):
        model(**inputs(name))
    assert count == list(KINDS)


# -- threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", THREADED)
def test_other_threads_neither_see_nor_feel_a_block(name: str) -> None:
    model = build(name, dtype=torch.float32)
    given, module = inputs(name, torch.float32), attention(model, name)
    with torch.no_grad():
        plain, plain_pattern = model(**given)[0], None
        with tapped(model, {module: Taps(lambda _k, x: x * 0, frozenset(), frozenset({"v"}))}):
            edited = model(**given)[0]
    assert not torch.equal(plain, edited)
    failures: list[str] = []
    start = threading.Barrier(4)

    def check(number: int) -> None:
        start.wait()
        for _ in range(40):
            found: list[tuple[str, Tensor]] = []
            with torch.no_grad():
                if number == 0:
                    out, expected = model(**given)[0], plain
                elif number == 1:
                    with tapped(model, {module: reads(found)}):
                        out, expected = model(**given)[0], plain
                    if [kind for kind, _ in found] != list(KINDS):
                        failures.append(f"read {found}")
                elif number == 2:
                    with tapped(model, {module: Taps(lambda _k, x: x * 0, frozenset(), frozenset({"v"}))}):
                        out, expected = model(**given)[0], edited
                else:
                    with tapped(model, {}, eager=True):
                        out, expected = model(**given)[0], eager_out
            if not torch.equal(out, expected):
                failures.append(f"thread {number}: {(out - expected).abs().max()}")

    assert plain_pattern is None
    with torch.no_grad(), tapped(model, {}, eager=True):
        eager_out = model(**given)[0]
    threads = [threading.Thread(target=check, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not attention_guards._standing


def test_eager_in_one_thread_and_sdpa_in_another_at_the_same_time() -> None:
    model, module = build("gpt2", dtype=torch.float32), attention(build("gpt2", dtype=torch.float32), "gpt2")
    given, called = inputs("gpt2"), {"eager": 0, "sdpa": 0}
    names = threading.local()
    handle = module.attn_dropout.register_forward_hook(lambda *_: called.update({names.own: called[names.own] + 1}))
    outputs = module.register_forward_hook(lambda _m, _a, o: returned[names.own].append(o[1]))
    returned: dict[str, list[Tensor | None]] = {"eager": [], "sdpa": []}

    def run(own: str) -> None:
        names.own = own
        for _ in range(50):
            with torch.no_grad():
                if own == "eager":
                    with tapped(model, {}, eager=True):
                        model(**given)
                else:
                    model(**given)

    threads = [threading.Thread(target=run, args=(own,)) for own in called]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handle.remove()
    outputs.remove()
    assert called == {"eager": 50, "sdpa": 0}
    assert all(pattern is None for pattern in returned["sdpa"])
    assert all(isinstance(pattern, Tensor) for pattern in returned["eager"])


# -- the eager switch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "falcon_alibi"])
def test_the_eager_switch_gives_the_output_and_patterns_of_the_eager_model(name: str) -> None:
    model, eager = build(name), build(name, "eager")
    with torch.no_grad():
        expected = eager(**inputs(name))[0]
        wanted = patterns(eager, name, **inputs(name))
        returned: list[Tensor] = []
        handles = [
            attention(model, name, n).register_forward_hook(lambda _m, _a, o: returned.append(o[-1])) for n in (0, 1)
        ]
        with tapped(model, {}, eager=True):
            out = model(**inputs(name))[0]
        for handle in handles:
            handle.remove()
    assert torch.equal(out, expected)
    assert all(torch.equal(a, b) for a, b in zip(returned, wanted, strict=True))


@pytest.mark.parametrize(("name", "dropout"), [("gpt2", "attn_dropout"), ("bert", "dropout"), ("gptj", "attn_dropout")])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_eager_switch_sends_the_pattern_through_the_dropout_module(
    name: str, dropout: str, implementation: str
) -> None:
    model = build(name, implementation)
    module, given = attention(model, name).get_submodule(dropout), []
    module.register_forward_pre_hook(lambda _m, args: given.append(args[0]))
    handle = module.register_forward_hook(lambda _m, _args, output: output * 0)
    with torch.no_grad(), tapped(model, {}, eager=True):
        z = merged_z(lambda: model(**inputs(name)), model, name)
    handle.remove()
    module._forward_pre_hooks.clear()
    with torch.no_grad():
        assert torch.equal(given[0], patterns(build(name, "eager"), name, **inputs(name))[0])
    assert bool((z == 0).all())


def test_gpt2_reordered_attention_in_float32_is_tapped_as_itself() -> None:
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=4, reorder_and_upcast_attn=True, bos_token_id=0, eos_token_id=1
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).to(torch.bfloat16).eval()
    found: list[tuple[str, Tensor]] = []
    module = model.transformer.h[0].attn
    with torch.no_grad():
        expected = model(**inputs("gpt2"), output_attentions=True)
        with tapped(model, {module: Taps(keep(found), frozenset(), frozenset({"scores", "pattern"}))}, eager=True):
            out = model(**inputs("gpt2"))
    assert torch.equal(out.logits, expected.logits)
    assert torch.equal(found[1][1], expected.attentions[0])
    assert (found[0][1].dtype, found[1][1].dtype) == (torch.float32, torch.bfloat16)
