"""Idioms that broke, or silently changed their meaning, between versions of the peer: here each works or raises."""

import gc
import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.tracing.seed import support
from tests.unit.tracing.seed.support import close, ids, line_of, run, zeroed
from tracing import LanguageModel
from tracing.errors import CausalityError, RecordError

PROMPT = "The capital of France is"
OTHER = "The cat sat on the"
FILE = Path(__file__).name


@pytest.fixture(scope="module")
def gpt2() -> LanguageModel:
    """Four layers in float64."""
    return LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER, dtype=torch.float64)


@pytest.fixture(scope="module")
def zero_1(gpt2: LanguageModel) -> Tensor:
    """Logits with the output of layer 1 set to zero."""
    return run(gpt2._model, ids(PROMPT), writes={"transformer.h.1": zeroed})[0]


def gradient_of(path: str) -> Tensor:
    """The gradient of the last position's summed logits, from torch."""
    logits, found = run(support.gpt2().double(), ids(PROMPT), reads=[path], grad=True)
    return torch.autograd.grad(logits[0, -1].sum(), found[path])[0]


def test_output_0_saved_is_the_whole_hidden_state(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[1].output[0].save()
    assert tuple(hidden.shape) == (1, 5, 32)
    close(hidden, run(gpt2._model, ids(PROMPT), reads=["transformer.h.1"])[1]["transformer.h.1"])


@pytest.mark.parametrize("invokes", [False, True])
def test_output_0_set_to_zero_reaches_every_prompt(gpt2: LanguageModel, invokes: bool) -> None:
    if invokes:
        with gpt2.trace() as tracer:
            found = []
            for prompt in (PROMPT, OTHER):
                with tracer.invoke(prompt):
                    gpt2.transformer.h[1].output[0][:] = 0
                    found.append(gpt2.output.save())
        logits = torch.cat([value.value for value in found])
    else:
        with gpt2.trace([PROMPT, OTHER]):
            gpt2.transformer.h[1].output[0][:] = 0
            saved = gpt2.output.save()
        logits = saved.value
    close(logits, run(gpt2._model, ids([PROMPT, OTHER]), writes={"transformer.h.1": zeroed})[0])


def test_a_tuple_assigned_to_a_block_is_its_hidden_state(gpt2: LanguageModel, zero_1: Tensor) -> None:
    with gpt2.trace(PROMPT):
        zeros = torch.zeros_like(gpt2.transformer.h[1].output[0])
        gpt2.transformer.h[1].output = (zeros,)
        logits = gpt2.output.save()
    close(logits, zero_1)


def test_a_tuple_built_from_the_rest_of_a_block_output_works(gpt2: LanguageModel, zero_1: Tensor) -> None:
    with gpt2.trace(PROMPT):
        zeros = torch.zeros_like(gpt2.transformer.h[1].output[0])
        gpt2.transformer.h[1].output = (zeros,) + gpt2.transformer.h[1].output[1:]  # noqa: RUF005
        logits = gpt2.output.save()
    close(logits, zero_1)


def test_retain_grad_on_output_0_gives_the_gradient(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[1].output[0].save()
        hidden.retain_grad()
        gpt2.output[0, -1].sum().backward()

    close(hidden.grad, gradient_of("transformer.h.1"))


def test_model_output_is_the_logits_tensor_with_its_methods(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        best = gpt2.output.argmax(-1).save()
        first = gpt2.output[0].save()
        named = gpt2.output.logits.save()

    logits, _ = run(gpt2._model, ids(PROMPT))
    assert torch.equal(best.value, logits.argmax(-1))
    close(first, logits[0])
    close(named, logits)


def test_a_gradient_saved_before_a_bare_backward_is_there(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        gradient = gpt2.transformer.h[1].output.grad.save()
        gpt2.output[0, -1].sum().backward()

    close(gradient, gradient_of("transformer.h.1"))


def test_value_after_the_block_is_the_tensor(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[1].output.save()
    assert type(hidden.value) is Tensor


def test_a_patch_between_prompts_at_the_same_layer_needs_no_barrier(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        with tracer.invoke(PROMPT):
            clean = gpt2.transformer.h[1].output
        with tracer.invoke(OTHER):
            gpt2.transformer.h[1].output = clean
            logits = gpt2.output.save()

    clean_value = run(gpt2._model, ids(PROMPT), reads=["transformer.h.1"])[1]["transformer.h.1"]
    close(logits, run(gpt2._model, ids(OTHER), writes={"transformer.h.1": lambda _: clean_value})[0])


def test_reads_in_any_order_are_the_values_of_the_run(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        found = {n: gpt2.transformer.h[n].output.save() for n in (3, 0, 2, 1)}

    _, expected = run(gpt2._model, ids(PROMPT), reads=[f"transformer.h.{n}" for n in range(4)])
    for n, value in found.items():
        close(value, expected[f"transformer.h.{n}"])


def test_a_write_to_an_earlier_layer_from_a_later_value_raises(gpt2: LanguageModel) -> None:
    with pytest.raises(CausalityError), gpt2.trace(PROMPT):
        gpt2.transformer.h[0].output[:] = gpt2.transformer.h[2].output
        gpt2.output.save()


def test_an_edit_written_after_the_logits_were_read_is_applied(gpt2: LanguageModel, zero_1: Tensor) -> None:
    with gpt2.trace(PROMPT):
        logits = gpt2.output.save()
        gpt2.transformer.h[1].output[:] = 0
    close(logits, zero_1)


# -- places where source capture cannot go ----------------------------------------------------------------------------
def test_a_one_line_body(gpt2: LanguageModel, zero_1: Tensor) -> None:
    with gpt2.trace(PROMPT): gpt2.transformer.h[1].output[:] = 0; logits = gpt2.output.save()  # fmt: skip  # noqa: E701, E702
    close(logits, zero_1)


def test_a_body_that_starts_with_try(gpt2: LanguageModel, zero_1: Tensor) -> None:
    with gpt2.trace(PROMPT):
        try:
            gpt2.transformer.h[1].output[:] = 0
        finally:
            logits = gpt2.output.save()
    close(logits, zero_1)


def test_executed_text(gpt2: LanguageModel, zero_1: Tensor) -> None:
    names: dict[str, Any] = {"model": gpt2, "prompt": PROMPT}
    source = "with model.trace(prompt):\n    model.transformer.h[1].output[:] = 0\n    logits = model.output.save()\n"
    exec(source, names)
    close(names["logits"], zero_1)


def test_an_exit_stack(gpt2: LanguageModel, zero_1: Tensor) -> None:
    with ExitStack() as stack:
        stack.enter_context(gpt2.trace(PROMPT))
        gpt2.transformer.h[1].output[:] = 0
        logits = gpt2.output.save()
    close(logits, zero_1)


def test_a_return_inside_the_block(gpt2: LanguageModel, zero_1: Tensor) -> None:
    def traced() -> Any:
        with gpt2.trace(PROMPT):
            gpt2.transformer.h[1].output[:] = 0
            return gpt2.output.save()

    close(traced(), zero_1)


def test_an_interactive_session_fed_by_standard_input() -> None:
    session = """
import torch
from torch import nn
from tracing import Model
model = Model(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
x = torch.ones(1, 4)
with model.trace(x) as tracer:
    hidden = model[0].output.save()
    model[0].output[:] = 1
    out = model.output.save()

print("same", torch.equal(hidden.value, model._model[0](x)), torch.equal(out.value, model._model[2](torch.ones(1, 4))))
with model.trace(x): lost = model[0].output

lost.shape
print("end")
"""
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=session,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    assert "same True True\n" in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith("end")
    assert "NotSavedError" in done.stderr
    assert "<stdin>:1" in done.stderr or "<python-input" in done.stderr


def test_a_list_of_saves_made_by_a_comprehension(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        layers = [block.output.save() for block in gpt2.transformer.h]

    assert [tuple(layer.shape) for layer in layers] == [(1, 5, 32)] * 4


# -- uses of a live proxy that need its value -------------------------------------------------------------------------
def _if(proxy: Any) -> None:
    if proxy:
        pass


def _for(proxy: Any) -> None:
    for _ in proxy:
        pass


@pytest.mark.parametrize(
    ("use", "alternative"),
    [
        (_if, r"tracer\.cond.*torch\.where"),
        (_for, r"tracer\.iter"),
        (float, "save it"),
        (math.exp, "save it"),
        (int, "save it"),
        (len, "shape"),
    ],
)
def test_a_live_proxy_used_as_a_value_names_the_alternative(
    gpt2: LanguageModel, use: Callable[[Any], Any], alternative: str
) -> None:
    with pytest.raises(RecordError, match=alternative), gpt2.trace(PROMPT):
        use(gpt2.output[0, -1, 0])


def test_a_saved_proxy_is_a_number_for_float_and_math(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        one = gpt2.output[0, -1, 0].save()
    expected = run(gpt2._model, ids(PROMPT))[0][0, -1, 0].item()
    assert float(one) == pytest.approx(expected, abs=1e-12)
    assert math.exp(one) == pytest.approx(math.exp(expected), rel=1e-12)


# -- options ----------------------------------------------------------------------------------------------------------
def test_validate_knows_shapes_while_recording_and_raises_on_the_line(gpt2: LanguageModel) -> None:
    with pytest.raises(RuntimeError), gpt2.trace(PROMPT, validate=True):
        hidden = gpt2.transformer.h[1].output
        assert tuple(hidden.shape) == (1, 5, 32)
        reached = True
        hidden @ torch.zeros(3, 3, dtype=torch.float64)
        pytest.fail("the line before has to raise")
    assert reached


def test_a_misspelt_option_is_an_error_with_a_suggestion(gpt2: LanguageModel) -> None:
    with pytest.raises(TypeError, match=r"remot.*remote"), gpt2.trace(PROMPT, remot=True):
        gpt2.output.save()


def test_a_generation_option_of_trace_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(TypeError, match=r"max_new_tokens.*generate"), gpt2.trace(PROMPT, max_new_tokens=5):
        gpt2.output.save()


def test_trace_without_with_warns_at_its_line(gpt2: LanguageModel) -> None:
    with pytest.warns(RuntimeWarning, match="nothing ran") as caught:  # noqa: PT031
        gpt2.trace(PROMPT)  # bare
        gc.collect()
    assert (Path(caught[0].filename).name, caught[0].lineno) == (FILE, line_of(__file__, "bare"))


def test_a_trace_with_a_block_does_not_warn(gpt2: LanguageModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gpt2.trace(PROMPT):
            gpt2.output.save()
        gc.collect()


def test_four_threads_trace_one_model(gpt2: LanguageModel) -> None:
    def trace(number: int) -> Tensor:
        with gpt2.trace((PROMPT, OTHER)[number % 2]):
            gpt2.transformer.h[1].output[:, number % 5] = 0
            logits = gpt2.output.save()
        return logits.value  # type: ignore[no-any-return]

    expected = [trace(n) for n in range(10)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(trace, [n % 10 for n in range(40)]))
    assert all(torch.equal(value, expected[n % 10]) for n, value in enumerate(found))


def test_a_local_folder_is_loaded_with_its_tokenizer(tmp_path: Path) -> None:
    model = LanguageModel(str(support.save(support.gpt2(), tmp_path / "saved")))
    with model.trace(PROMPT):
        logits = model.output.save()
    close(logits, run(support.gpt2(), ids(PROMPT))[0])
