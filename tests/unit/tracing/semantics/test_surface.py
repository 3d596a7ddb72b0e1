"""Semantics 11: skip, stop, cache, session, edit, conditions, apply, names, tree."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.seed import support
from tests.unit.tracing.seed.support import calls, close, ids, outputs, rows, run
from tracing import LanguageModel, Model
from tracing.errors import GraphFormatError, RecordError, SiteNotReachedError, TracingError

PROMPT, OTHER = "The capital of France is", "The cat sat on the"


def logits_of(model: LanguageModel, prompt: Any = PROMPT, **writes: Any) -> Tensor:
    """Reference logits with blocks (`h1=function`) written by hooks."""
    return run(
        model._model, ids(prompt), writes={f"transformer.{name[0]}.{name[1:]}": f for name, f in writes.items()}
    )[0]


# -- skip -------------------------------------------------------------------------------------------------------------
def test_a_skipped_module_does_not_run_and_gives_the_value(gpt2: LanguageModel) -> None:
    called, stack = calls(gpt2._model)
    with stack, gpt2.trace(PROMPT):
        gpt2.transformer.h[1].skip(gpt2.transformer.h[1].input)
        out = gpt2.transformer.h[1].output.save()
        logits = gpt2.output.save()

    assert "transformer.h.1.mlp" not in called
    before = run(gpt2._model, ids(PROMPT), reads=["transformer.h.0"])[1]["transformer.h.0"]
    close(out, before)
    close(logits, logits_of(gpt2, h1=lambda _: before))


def test_a_skip_with_a_constant_and_of_a_plain_module(net: Model) -> None:
    with net.trace(rows()):
        net.second.skip(torch.ones(2, 6, dtype=torch.float64))
        out = net.output.save()
    with net._model.second.register_forward_hook(lambda _, __, o: torch.ones_like(o)):
        close(out, outputs(net._model, rows())[""])


def test_a_site_inside_a_skipped_module_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(SiteNotReachedError, match="mlp"), gpt2.trace(PROMPT):
        gpt2.transformer.h[1].skip(gpt2.transformer.h[1].input)
        gpt2.transformer.h[1].mlp.output.save()


def test_a_skip_in_one_prompt_of_two_leaves_the_other_alone(gpt2: LanguageModel) -> None:
    found: list[Any] = []
    with gpt2.trace() as tracer:
        with tracer.invoke(PROMPT):
            gpt2.transformer.h[1].skip(gpt2.transformer.h[1].input)
            found.append(gpt2.output.save())
        with tracer.invoke(OTHER):
            found.append(gpt2.output.save())
    before = run(gpt2._model, ids(PROMPT), reads=["transformer.h.0"])[1]["transformer.h.0"]
    close(found[0], logits_of(gpt2, h1=lambda _: before))
    close(found[1], logits_of(gpt2, OTHER))


def test_a_skip_in_every_prompt(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        found = []
        for prompt in (PROMPT, OTHER):
            with tracer.invoke(prompt):
                gpt2.transformer.h[1].skip(gpt2.transformer.h[1].input)
                found.append(gpt2.output.save())
    for prompt, logits in zip((PROMPT, OTHER), found, strict=True):
        before = run(gpt2._model, ids(prompt), reads=["transformer.h.0"])[1]["transformer.h.0"]
        close(logits, logits_of(gpt2, prompt, h1=lambda _, value=before: value))


# -- stop -------------------------------------------------------------------------------------------------------------
def test_stop_ends_the_forward_after_what_was_asked_for(gpt2: LanguageModel) -> None:
    called, stack = calls(gpt2._model)
    with stack, gpt2.trace(PROMPT) as tracer:
        hidden = gpt2.transformer.h[1].output.save()
        tracer.stop()

    assert "transformer.h.2" not in called
    close(hidden, run(gpt2._model, ids(PROMPT), reads=["transformer.h.1"])[1]["transformer.h.1"])


def test_a_value_that_a_stop_prevents_is_no_silent_nothing(gpt2: LanguageModel) -> None:
    with pytest.raises(TracingError):
        with gpt2.trace(PROMPT) as tracer:
            gpt2.transformer.h[1].output.save()
            tracer.stop()
            logits = gpt2.output.save()
        logits.sum()


# -- cache ------------------------------------------------------------------------------------------------------------
def test_a_cache_holds_the_outputs_of_its_modules_after_writes(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT) as tracer:
        cache = tracer.cache(modules=[gpt2.transformer.h[0], "transformer.h.1.mlp"])
        gpt2.transformer.h[0].output[:, 0] = 0

    def first_zero(value: Tensor) -> Tensor:
        value[:, 0] = 0
        return value

    _, found = run(
        gpt2._model, ids(PROMPT), reads=["transformer.h.0", "transformer.h.1.mlp"],
        writes={"transformer.h.0": first_zero},
    )  # fmt: skip
    assert set(cache.keys()) == set(found)
    close(cache["transformer.h.0"].output, found["transformer.h.0"])
    close(cache.transformer.h[0].output, found["transformer.h.0"])
    close(cache["model.transformer.h.1.mlp"].output, found["transformer.h.1.mlp"])


def test_a_cache_of_everything_with_inputs_and_dtype(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT) as tracer:
        cache = tracer.cache(include_inputs=True, dtype=torch.float32)

    _, found = run(gpt2._model, ids(PROMPT), reads=["transformer.h.2", "transformer.ln_f"])
    assert cache["transformer.h.2"].output.dtype == torch.float32
    close(cache["transformer.h.2"].output, found["transformer.h.2"].float())
    close(cache["transformer.ln_f"].output, found["transformer.ln_f"].float())
    torch.testing.assert_close(cache["transformer.h.3"].input, cache["transformer.h.2"].output)
    assert "lm_head" in cache
    assert "transformer.h" not in cache


def test_a_cache_in_an_invoke_holds_its_rows(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        with tracer.invoke("Hello world"):
            cache = tracer.cache(modules=[gpt2.transformer.h[1]])
        with tracer.invoke(PROMPT):
            gpt2.output.save()
    close(
        cache["transformer.h.1"].output,
        run(gpt2._model, ids("Hello world"), reads=["transformer.h.1"])[1]["transformer.h.1"],
    )


# -- session ----------------------------------------------------------------------------------------------------------
def test_values_flow_between_the_traces_of_a_session_without_saves(gpt2: LanguageModel) -> None:
    with gpt2.session():
        with gpt2.trace(OTHER):
            clean = gpt2.transformer.h[3].output
        with gpt2.trace(PROMPT):
            gpt2.transformer.h[0].output[:] = clean
            logits = gpt2.output.save()

    late = run(gpt2._model, ids(OTHER), reads=["transformer.h.3"])[1]["transformer.h.3"]
    close(logits, logits_of(gpt2, h0=lambda _: late))


def test_a_session_loops_over_prompts_and_computes_between_traces(gpt2: LanguageModel) -> None:
    with gpt2.session():
        means = []
        for prompt in (PROMPT, OTHER):
            with gpt2.trace(prompt):
                means.append(gpt2.transformer.h[1].output.mean(1))
        difference = (means[0] - means[1]).save()

    expected = [
        run(gpt2._model, ids(prompt), reads=["transformer.h.1"])[1]["transformer.h.1"].mean(1)
        for prompt in (PROMPT, OTHER)
    ]
    close(difference, expected[0] - expected[1])


# -- edit -------------------------------------------------------------------------------------------------------------
def test_an_edit_is_part_of_every_trace_of_the_edited_model_only(gpt2: LanguageModel) -> None:
    with gpt2.edit() as edited:
        edited.transformer.h[1].output[:] = 0
    found = []
    for prompt in (PROMPT, OTHER):
        with edited.trace(prompt):
            found.append(edited.output.save())
        with gpt2.trace(prompt):
            clean = gpt2.output.save()
        close(clean, logits_of(gpt2, prompt))
    for prompt, logits in zip((PROMPT, OTHER), found, strict=True):
        close(logits, logits_of(gpt2, prompt, h1=torch.zeros_like))


def test_edits_stack_apply_to_each_prompt_and_are_cleared() -> None:
    model = LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER, dtype=torch.float64)
    with model.edit(inplace=True):
        model.transformer.h[0].output *= 2
    with model.edit(inplace=True):
        model.transformer.h[2].output[:, 0] = 0
    with model.trace() as tracer:
        found = []
        for prompt in (PROMPT, "Hello world"):
            with tracer.invoke(prompt):
                found.append(model.output.save())

    def first_zero(value: Tensor) -> Tensor:
        value[:, 0] = 0
        return value

    for prompt, logits in zip((PROMPT, "Hello world"), found, strict=True):
        close(logits, logits_of(model, prompt, h0=lambda value: value * 2, h2=first_zero))
    model.clear_edits()
    with model.trace(PROMPT):
        clean = model.output.save()
    close(clean, logits_of(model))


def test_edits_are_saved_and_loaded_as_json(gpt2: LanguageModel, tmp_path: Path) -> None:
    vector = torch.linspace(-1, 1, 32, dtype=torch.float64)
    with gpt2.edit() as edited:
        edited.transformer.h[1].output[:, -1] += vector
        edited.transformer.h[2].mlp.output = edited.transformer.h[2].mlp.output * 0.5
    edited.save_edits(tmp_path / "steer")
    assert (tmp_path / "steer.json").read_text().startswith("{")
    other = LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER, dtype=torch.float64)
    other.load_edits(tmp_path / "steer")
    found = []
    for model in (edited, other):
        with model.trace(PROMPT):
            found.append(model.output.save())

    assert torch.equal(found[0].value, found[1].value)
    assert not torch.allclose(found[0].value, logits_of(gpt2))


def test_a_damaged_file_of_edits_is_refused(gpt2: LanguageModel, tmp_path: Path) -> None:
    with gpt2.edit() as edited:
        edited.transformer.h[1].output[:] = 0
    edited.save_edits(tmp_path / "edit")
    text = (tmp_path / "edit.json").read_text()
    (tmp_path / "edit.json").write_text(text.replace("write", "eval", 1))
    with pytest.raises(GraphFormatError):
        edited.load_edits(tmp_path / "edit")


def test_an_edit_holds_at_every_step_of_a_generation(gpt2: LanguageModel) -> None:
    with gpt2.edit() as edited:
        edited.transformer.h[1].output[:] = 0
    with edited.generate(PROMPT, max_new_tokens=3, do_sample=False, pad_token_id=0) as tracer:
        result = tracer.result.save()

    module: Any = gpt2._model
    with module.transformer.h[1].register_forward_hook(lambda _, __, out: torch.zeros_like(out)):
        tokens = ids(PROMPT)
        expected = module.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3, do_sample=False, pad_token_id=0
        )
    assert torch.equal(result.value, expected)


# -- conditions and functions -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [-1e9, 1e9])
def test_a_condition_runs_one_of_two_blocks(gpt2: LanguageModel, limit: float) -> None:
    with gpt2.trace(PROMPT) as tracer:
        condition = gpt2.transformer.h[0].output.norm() > limit
        with tracer.cond(condition) as branch:
            gpt2.transformer.h[1].output[:] = 0
        with branch.otherwise():
            gpt2.transformer.h[2].output *= 2
        logits = gpt2.output.save()

    expected = logits_of(gpt2, h1=torch.zeros_like) if limit < 0 else logits_of(gpt2, h2=lambda value: value * 2)
    close(logits, expected)


def test_a_condition_that_is_known_needs_no_cond(gpt2: LanguageModel) -> None:
    with pytest.raises(RecordError, match="if"), gpt2.trace(PROMPT) as tracer, tracer.cond(True):
        gpt2.output.save()


def test_apply_runs_any_function_on_the_values(gpt2: LanguageModel) -> None:
    seen: list[tuple[int, ...]] = []

    def count(value: Tensor, *, scale: int) -> Tensor:
        seen.append(tuple(value.shape))
        return torch.as_tensor(value.numpy().sum() * scale)

    with gpt2.trace(PROMPT) as tracer:
        hidden = gpt2.transformer.h[1].output
        total = tracer.apply(count, hidden, scale=2).save()
        gpt2.transformer.h[2].output = tracer.apply(lambda value: value * 2, gpt2.transformer.h[2].output)
        logits = gpt2.output.save()

    assert seen == [(1, 5, 32)]
    value = run(gpt2._model, ids(PROMPT), reads=["transformer.h.1"])[1]["transformer.h.1"]
    assert float(total) == pytest.approx(float(value.sum() * 2), rel=1e-12)
    close(logits, logits_of(gpt2, h2=lambda value: value * 2))


# -- names ------------------------------------------------------------------------------------------------------------
def test_renamed_modules_go_by_both_names() -> None:
    model = LanguageModel(
        support.gpt2(),
        tokenizer=support.TOKENIZER,
        dtype=torch.float64,
        rename={"layers": "transformer.h", "ff": "mlp"},
    )
    with model.trace(PROMPT):
        one = model.layers[1].ff.output.save()
        two = model.transformer.h[1].mlp.output.save()
    assert torch.equal(one.value, two.value)


def test_the_tree_can_be_walked(gpt2: LanguageModel) -> None:
    assert gpt2.get("transformer.h.2.attn").path == "transformer.h.2.attn"
    assert gpt2.transformer.h[-1].path == "transformer.h.3"
    assert [block.path for block in gpt2.transformer.h[1:3]] == ["transformer.h.1", "transformer.h.2"]
    assert len(gpt2.transformer.h) == 4
    assert [block.path for block in gpt2.transformer.h] == [f"transformer.h.{n}" for n in range(4)]
    assert "transformer.h.0.attn" in dict(gpt2.named_modules())
    assert hasattr(gpt2, "transformer")
    assert not hasattr(gpt2, "wibble")


def test_print_shows_the_tree_with_its_sites(gpt2: LanguageModel, net: Model) -> None:
    for name in ("transformer", "attn", "c_proj", "lm_head", "resid_post"):
        assert name in str(gpt2)
    for name in ("first", "second", "unused"):
        assert name in str(net)


def test_underscore_model_is_the_wrapped_module() -> None:
    module = support.gpt2()
    assert LanguageModel(module, tokenizer=support.TOKENIZER)._model is module
    assert not support.hooks_in(module)


def test_standard_sites_have_their_shapes_and_values(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        post = gpt2.sites.resid_post[2].save()
        z = gpt2.sites.z[1][:, :, 2].save()
        pattern = gpt2.sites.pattern[3].save()
        logits = gpt2.output.save()

    expected, found = run(gpt2._model, ids(PROMPT), reads=["transformer.h.2"])
    close(post, found["transformer.h.2"])
    assert tuple(z.shape) == (1, 5, 8)
    assert tuple(pattern.shape) == (1, 4, 5, 5)
    close(pattern.sum(-1), torch.ones(1, 4, 5, dtype=torch.float64))
    assert torch.equal(logits.value, expected)


def test_a_written_head_changes_only_that_head(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        gpt2.sites.z[1][:, :, 2] = 0
        logits = gpt2.output.save()

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        merged = args[0].clone()
        merged[..., 16:24] = 0
        return (merged, *args[1:])

    with gpt2._model.transformer.h[1].attn.c_proj.register_forward_pre_hook(hook):
        close(logits, run(gpt2._model, ids(PROMPT))[0])
