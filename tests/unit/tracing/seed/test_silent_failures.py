"""The fourteen ways in which the peer's own documentation says that it fails silently: here each works or raises."""

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.tracing.seed import support
from tests.unit.tracing.seed.support import close, ids, line_of, run, zeroed
from tracing import LanguageModel
from tracing.errors import GradientError, NotSavedError, StepNotReachedError, TracingError, UnusedValueWarning

PROMPT = "The capital of France is"
FILE = Path(__file__).name


@pytest.fixture(scope="module")
def gpt2() -> LanguageModel:
    """Four layers in float64."""
    return LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _weights_stay(gpt2: LanguageModel) -> Any:
    before = {name: value.clone() for name, value in gpt2._model.named_parameters()}
    yield
    assert all(torch.equal(value, before[name]) for name, value in gpt2._model.named_parameters())


def generated(model: LanguageModel, steps: int, **kwargs: Any) -> list[int]:
    """The tokens that transformers generates after the prompt."""
    tokens = ids(PROMPT)
    module: Any = model._model
    out = module.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=steps, do_sample=False, pad_token_id=0, **kwargs
    )
    return out[0, tokens.shape[1] :].tolist()  # type: ignore[no-any-return]


def test_01_rebinding_a_name_instead_of_writing_warns_at_its_line(gpt2: LanguageModel) -> None:
    with pytest.warns(UnusedValueWarning) as caught, gpt2.trace(PROMPT):  # noqa: PT031
        acts = gpt2.transformer.h[2].output
        acts = acts * 0  # rebinds
        unchanged = gpt2.output[0, -1].save()

    assert [(Path(w.filename).name, w.lineno) for w in caught] == [(FILE, line_of(__file__, "rebinds"))]
    close(unchanged, run(gpt2._model, ids(PROMPT))[0][0, -1])


def test_01_the_writes_that_were_meant_change_the_run_and_do_not_warn(gpt2: LanguageModel) -> None:
    def in_place() -> None:
        gpt2.transformer.h[2].output[:] = 0

    def assigned() -> None:
        gpt2.transformer.h[2].output = gpt2.transformer.h[2].output * 0

    def augmented() -> None:
        acts = gpt2.transformer.h[2].output
        acts *= 0

    expected, _ = run(gpt2._model, ids(PROMPT), writes={"transformer.h.2": zeroed})
    for write in (in_place, assigned, augmented):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with gpt2.trace(PROMPT):
                write()
                logits = gpt2.output.save()
        close(logits, expected)


@pytest.mark.parametrize("call", ["trace", "generate"])
def test_02_a_run_method_called_without_with_warns_that_nothing_ran(gpt2: LanguageModel, call: str) -> None:
    options = {"max_new_tokens": 2} if call == "generate" else {}
    with pytest.warns(RuntimeWarning, match="with") as caught:  # noqa: PT031
        getattr(gpt2, call)(PROMPT, **options)  # without with
        gc.collect()
    assert (Path(caught[0].filename).name, caught[0].lineno) == (FILE, line_of(__file__, "without with"))


def test_03_a_generation_option_of_trace_is_an_error_that_names_generate(gpt2: LanguageModel) -> None:
    with pytest.raises(TypeError, match="generate"), gpt2.trace(PROMPT, max_new_tokens=5):
        gpt2.output.save()


def test_04_a_name_after_the_block_that_was_not_saved_says_so_and_where(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        lost = gpt2.transformer.h[2].output  # not saved
        gpt2.output.save()

    with pytest.raises(NotSavedError, match=f"{FILE}:{line_of(__file__, 'not saved')}"):
        lost.norm()


def test_05_code_between_invokes_sees_what_the_invoke_before_it_bound(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        with tracer.invoke(PROMPT):
            first = gpt2.transformer.h[1].output.save()
        doubled = (first * 2).save()
        with tracer.invoke(PROMPT):
            gpt2.transformer.h[1].output = doubled
            logits = gpt2.output.save()

    _, found = run(gpt2._model, ids(PROMPT), reads=["transformer.h.1"])
    close(doubled, found["transformer.h.1"] * 2)
    close(logits, run(gpt2._model, ids(PROMPT), writes={"transformer.h.1": lambda value: value * 2})[0])


def test_06_saved_elements_of_an_unsaved_list_are_part_of_the_graph_that_is_sent(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT) as tracer:
        layers = [block.output[0].save() for block in gpt2.transformer.h]
        saves = len(tracer.graph.saves)

    assert saves == len(layers) == 4
    _, found = run(gpt2._model, ids(PROMPT), reads=[f"transformer.h.{n}" for n in range(4)])
    for n, layer in enumerate(layers):
        close(layer, found[f"transformer.h.{n}"])


def test_07_a_gradient_without_a_backward_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(GradientError, match=rf"{FILE}:{line_of(__file__, 'no backward')}"), gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[-1].output
        hidden.grad.save()  # no backward


def test_07_a_gradient_outside_the_backward_block_is_that_of_torch(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[2].output
        gpt2.output[0, -1].sum().backward()
        gradient = hidden.grad.save()

    logits, found = run(support.gpt2().double(), ids(PROMPT), reads=["transformer.h.2"], grad=True)
    close(gradient, torch.autograd.grad(logits[0, -1].sum(), found["transformer.h.2"])[0])


def test_08_a_loop_body_that_reads_a_later_layer_first_writes_in_the_same_step(gpt2: LanguageModel) -> None:
    late: list[Any] = []
    with gpt2.generate(PROMPT, max_new_tokens=4, min_new_tokens=4, do_sample=False) as tracer:
        for _ in tracer.iter[1:3]:
            late.append(gpt2.transformer.h[3].output[:, -1].save())
            gpt2.transformer.h[1].output[:] = 0
        result = tracer.result.save()

    expected = []
    step = -1

    def write(module: Any, args: Any, output: Tensor) -> Tensor:
        nonlocal step
        step += 1
        return torch.zeros_like(output) if step in (1, 2) else output

    def read(module: Any, args: Any, output: Tensor) -> None:
        if step in (1, 2):
            expected.append(output[:, -1].clone())

    blocks = gpt2._model.transformer.h
    with blocks[1].register_forward_hook(write), blocks[3].register_forward_hook(read):
        tokens = generated(gpt2, 4, min_new_tokens=4)
    assert result[0, 5:].tolist() == tokens
    for value, reference in zip(late, expected, strict=True):
        close(value, reference)


def test_09_code_after_a_loop_longer_than_the_run_runs_and_missing_steps_say_so(gpt2: LanguageModel) -> None:
    free = generated(gpt2, 5)
    stop = free[1]
    made = free.index(stop) + 1
    steps: list[Any] = []
    after = False
    with gpt2.generate(PROMPT, max_new_tokens=5, do_sample=False, eos_token_id=stop, pad_token_id=0) as tracer:
        for _ in tracer.iter[:5]:
            steps.append(gpt2.output[0, -1].argmax(dim=-1).save())
        after = True
        result = tracer.result.save()

    assert after
    assert result[0, 5:].tolist() == free[:made]
    assert [int(step) for step in steps[:made]] == free[:made]
    for step in steps[made:]:
        with pytest.raises(StepNotReachedError):
            int(step)


def test_10_a_stale_name_of_the_enclosing_scope_does_not_shadow_the_patch(gpt2: LanguageModel) -> None:
    clean: Any = torch.full((1, 5, 32), 100.0, dtype=torch.float64)
    with gpt2.trace() as tracer:
        with tracer.invoke(PROMPT):
            clean = gpt2.transformer.h[1].output
        with tracer.invoke("The cat sat on the"):
            gpt2.transformer.h[1].output[:] = clean
            logits = gpt2.output.save()

    _, found = run(gpt2._model, ids(PROMPT), reads=["transformer.h.1"])
    patched, _ = run(
        gpt2._model, ids("The cat sat on the"), writes={"transformer.h.1": lambda _: found["transformer.h.1"]}
    )
    close(logits, patched)


def test_11_an_in_place_edit_after_a_later_module_was_read_is_applied(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        early = gpt2.transformer.h[0].output
        later = gpt2.transformer.h[2].output.save()
        early *= 2
        logits = gpt2.output
        logits[0, -1, 7].backward()
        gradient = later.grad.save()
        logits = logits.save()

    module = support.gpt2().double()
    doubled: dict[str, Callable[[Tensor], Tensor]] = {"transformer.h.0": lambda value: value * 2}
    expected, found = run(module, ids(PROMPT), reads=["transformer.h.2"], writes=doubled, grad=True)
    close(later, found["transformer.h.2"].detach())
    close(logits, expected.detach())
    close(gradient, torch.autograd.grad(expected[0, -1, 7], found["transformer.h.2"])[0])


def test_12_a_weight_written_in_a_trace_never_changes_later_traces(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        before = gpt2.output.save()
    edited: Any = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with gpt2.trace(PROMPT):
                gpt2.transformer.wte.weight[int(ids(PROMPT)[0, 0])] = 0.0  # weight
                edited = gpt2.output.save()
        except TracingError as error:
            assert "weight" in str(error)  # noqa: PT017 (an error, an effect or a warning: only silence is wrong)
            caught = []
    if edited is not None and torch.allclose(edited.value, before.value):
        assert [(w.category, w.lineno) for w in caught] == [(UnusedValueWarning, line_of(__file__, "weight"))]
    with gpt2.trace(PROMPT):
        after = gpt2.output.save()
    assert torch.equal(after.value, before.value)


def test_13_output_0_of_a_block_that_returns_a_tensor_is_all_rows(gpt2: LanguageModel) -> None:
    prompts = ["The cat sat on the", PROMPT]
    with gpt2.trace(prompts):
        hidden = gpt2.transformer.h[1].output[0].save()
        gpt2.transformer.h[2].output[0][:] = 0
        logits = gpt2.output.save()

    expected, found = run(gpt2._model, ids(prompts), reads=["transformer.h.1"], writes={"transformer.h.2": zeroed})
    assert tuple(hidden.shape) == (2, 5, 32)
    close(hidden, found["transformer.h.1"])
    close(logits, expected)


def test_14_only_the_proxy_that_was_saved_is_saved(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        kept = gpt2.transformer.h[1].output.save()
        other = gpt2.transformer.h[1].output
        part = gpt2.transformer.h[1].output[:, 0]

    assert tuple(kept.shape) == (1, 5, 32)
    for proxy in (other, part):
        with pytest.raises(NotSavedError):
            proxy.sum()
