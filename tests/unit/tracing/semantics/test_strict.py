"""Semantics 5: what is misspelt, misplaced or not known yet is an error that names the alternative."""

import gc
import math
import operator
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.tracing.seed import support
from tests.unit.tracing.seed.support import close, line_of, outputs, rows
from tracing import LanguageModel, Model
from tracing.errors import OperationError, PromptError, RecordError, TracingError, UnusedValueWarning

PROMPT = "The capital of France is"
FILE = Path(__file__).name


# -- options ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("option", "suggestion"),
    [
        ("remot", "remote"),
        ("validat", "validate"),
        ("use_cach", "use_cache"),
        ("output_attention", "output_attentions"),
    ],
)
def test_an_unknown_option_of_trace_is_an_error_with_a_suggestion(
    gpt2: LanguageModel, option: str, suggestion: str
) -> None:
    with pytest.raises(TypeError, match=rf"{option}.*{suggestion}"), gpt2.trace(PROMPT, **{option: True}):
        gpt2.output.save()


def test_an_option_of_nothing_at_all_is_an_error(gpt2: LanguageModel, net: Model) -> None:
    with pytest.raises(TypeError, match="wibble"), gpt2.trace(PROMPT, wibble=3):
        gpt2.output.save()
    with pytest.raises(TypeError, match="wibble"), net.trace(rows(), wibble=3):
        net.output.save()


def test_a_forward_that_takes_any_keyword_takes_no_slip_of_ours() -> None:
    class Open(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor, **options: Any) -> torch.Tensor:
            return self.inner(x) * options.get("scale", 1)

    model = Model(Open())
    x = torch.ones(1, 3)
    with pytest.raises(TypeError, match=r"no option 'remot'.*Did you mean remote="), model.trace(x, remot=True):
        model.output.save()
    with model.trace(x, scale=2):
        doubled = model.output.save()
    close(doubled, model._model(x, scale=2).detach())


@pytest.mark.parametrize("option", ["max_new_tokens", "do_sample", "temperature", "num_beams"])
def test_an_option_of_generation_names_generate(gpt2: LanguageModel, option: str) -> None:
    with pytest.raises(TypeError, match=rf"{option}.*generate"), gpt2.trace(PROMPT, **{option: 1}):
        gpt2.output.save()


def test_an_unknown_option_of_generate_is_an_error_with_a_suggestion(gpt2: LanguageModel) -> None:
    with pytest.raises(TypeError, match=r"max_new_token\b.*max_new_tokens"), gpt2.generate(PROMPT, max_new_token=2):
        gpt2.output.save()


def test_options_of_the_forward_reach_it() -> None:
    model = LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER)  # of its own: transformers leaves hooks on it
    with model.trace(PROMPT, output_hidden_states=True):
        states = model.output.hidden_states.save()
        last = model.transformer.ln_f.output.save()
    assert len(states) == 5
    close(states[-1], last.value)


# -- `with` -----------------------------------------------------------------------------------------------------------
def test_a_trace_without_with_warns_at_its_line(net: Model) -> None:
    with pytest.warns(RuntimeWarning, match="without `with`") as caught:  # noqa: PT031
        net.trace(rows())  # without
        gc.collect()
    assert (Path(caught[0].filename).name, caught[0].lineno) == (FILE, line_of(__file__, "without"))


def test_a_refused_option_does_not_warn_of_a_missing_with(gpt2: LanguageModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError):
            gpt2.trace(PROMPT, remot=True)
        gc.collect()


def test_a_tracer_is_used_once(net: Model) -> None:
    tracer = net.trace(rows())
    with tracer:
        net.output.save()
    with pytest.raises(RecordError, match="again"), tracer:
        net.output.save()


def test_a_trace_inside_a_trace_of_the_same_model_is_a_trace_of_its_own(net: Model) -> None:
    with net.trace(rows()):
        net.first.output[:] = 0
        with net.trace(rows(seed=1)):
            inner = net.output.save()
        outer = net.output.save()

    close(inner, outputs(net._model, rows(seed=1))[""])
    with net._model.first.register_forward_hook(lambda _, __, out: torch.zeros_like(out)):
        close(outer, outputs(net._model, rows())[""])


def test_traces_of_two_models_nest(net: Model) -> None:
    other = Model(torch.nn.Linear(4, 2).double())
    with net.trace(rows()):
        with other.trace(rows()):
            inner = other.output.save()
        net.last.output = net.last.output + inner.sum()
        out = net.output.save()
    close(inner, outputs(other._model, rows())[""])
    close(out, outputs(net._model, rows())[""] + inner.value.sum())


# -- live proxies -----------------------------------------------------------------------------------------------------
def _if(value: Any) -> None:
    if value:
        pass


def _for(value: Any) -> None:
    for _ in value:
        pass


def _unpack(value: Any) -> None:
    _, *_ = value


MISUSES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "if": (_if, r"tracer\.cond.*torch\.where"),
    "and": (lambda x: x and 1, r"tracer\.cond"),
    "not": (operator.not_, r"tracer\.cond"),
    "chained comparison": (lambda x: 0 < x < 1, r"tracer\.cond"),
    "int": (int, "save it"),
    "float": (float, "save it"),
    "math": (math.exp, "save it"),
    "round": (lambda x: f"{x:.3f}", "save it"),
    "len": (len, "shape"),
    "for": (_for, r"tracer\.iter"),
    "unpacking": (_unpack, "index it"),
    "in": (lambda x: 3 in x, "index it"),
    "list": (list, "index it"),
    "sum": (sum, "index it"),
    "range": (range, "save it"),
    "index of a list": (lambda x: ["a", "b"][x], "save it"),
    "array": (np.asarray, r"tracer\.apply"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_a_live_proxy_as_a_value_is_an_error_that_names_line_and_alternative(net: Model, misuse: str) -> None:
    use, alternative = MISUSES[misuse]
    with pytest.raises(RecordError, match=rf"(?i){alternative}") as raised, net.trace(rows()):
        use(net.first.output[0])
    assert FILE in str(raised.value)
    assert isinstance(raised.value, TypeError)


@pytest.mark.parametrize(
    "use", [lambda x: x.numpy(), lambda x: x.data_ptr(), lambda x: x.storage(), lambda x: x.wibble]
)
def test_an_operation_that_no_graph_holds_names_apply(net: Model, use: Callable[[Any], Any]) -> None:
    with pytest.raises((OperationError, TypeError), match=r"apply|argument"), net.trace(rows()):
        use(net.first.output)


def test_a_misspelt_method_names_near_ones(net: Model) -> None:
    with pytest.raises(OperationError, match="softmax"), net.trace(rows()):
        net.first.output.sofmax(-1)


def test_a_misspelt_attribute_of_a_module_names_near_ones(gpt2: LanguageModel) -> None:
    for name, near in (("outptu", "output"), ("atnn", "attn")):
        with pytest.raises(AttributeError, match=near), gpt2.trace(PROMPT):
            getattr(gpt2.transformer.h[0], name).save()


def test_setting_a_misspelt_attribute_is_no_silent_no_op(gpt2: LanguageModel) -> None:
    with pytest.raises(AttributeError, match="outptu"), gpt2.trace(PROMPT):
        gpt2.transformer.h[0].outptu = 0
    with pytest.raises((TracingError, AttributeError)), gpt2.trace(PROMPT):
        gpt2.transformer.h[0].output.dta = 0
    with pytest.raises((TracingError, AttributeError, TypeError)), gpt2.trace(PROMPT):
        gpt2.transformer.h[0] = torch.zeros(1)
    with pytest.raises((TracingError, AttributeError, TypeError)), gpt2.trace(PROMPT):
        gpt2.transformer.h[0].mlp = torch.zeros(1)


def test_a_proxy_written_into_a_plain_tensor_says_what_to_do(net: Model) -> None:
    results = torch.zeros(3, 6)
    with pytest.raises(RecordError, match="after the trace"), net.trace(rows()):
        results[0] = net.first.output[0]


# -- places -----------------------------------------------------------------------------------------------------------
def test_a_site_outside_a_trace_is_an_error(net: Model) -> None:
    for access in (lambda: net.first.output, lambda: net.first.input, lambda: net.output, lambda: net.first.inputs):
        with pytest.raises(RecordError, match=r"with model\.trace"):
            access()


def test_a_write_outside_a_trace_is_an_error(net: Model) -> None:
    with pytest.raises(RecordError, match=r"with model\.trace"):
        net.first.output = torch.zeros(1)


def test_a_site_outside_the_blocks_of_its_prompts_is_an_error(net: Model) -> None:
    with pytest.raises(RecordError, match="invoke"), net.trace() as tracer:
        with tracer.invoke(rows()):
            net.first.output.save()
        net.first.output.save()


def test_a_trace_without_a_prompt_is_an_error(net: Model, gpt2: LanguageModel) -> None:
    for model in (net, gpt2):
        with pytest.raises((PromptError, RecordError)), model.trace() as tracer, tracer.invoke():
            model.output.save()


def test_an_invoke_in_a_trace_that_has_a_prompt_is_an_error(net: Model) -> None:
    with pytest.raises(RecordError, match="invoke"), net.trace(rows()) as tracer, tracer.invoke(rows()):
        pass


def test_invokes_do_not_nest(net: Model) -> None:
    with pytest.raises(RecordError, match="nest"), net.trace() as tracer, tracer.invoke(rows()), tracer.invoke(rows()):
        pass


# -- values that nobody uses ------------------------------------------------------------------------------------------
def test_a_computed_value_that_is_not_used_warns_at_its_line(net: Model) -> None:
    with pytest.warns(UnusedValueWarning) as caught, net.trace(rows()):  # noqa: PT031
        hidden = net.first.output
        hidden = hidden * 0  # unused
        net.output.save()
    assert [(Path(w.filename).name, w.lineno) for w in caught] == [(FILE, line_of(__file__, "unused"))]


def test_a_rebinding_inside_a_helper_warns_there(net: Model) -> None:
    def ablate(value: Any) -> None:
        value = value - value.mean()  # in ablate

    with pytest.warns(UnusedValueWarning) as caught, net.trace(rows()):  # noqa: PT031
        ablate(net.first.output)
        net.output.save()
    assert line_of(__file__, "in ablate") in [w.lineno for w in caught]


def test_used_values_do_not_warn(net: Model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with net.trace(rows()) as tracer:
            hidden = net.first.output
            net.third.output = hidden * 2
            net.first.output[:, hidden.sum(0).argmax()] = (hidden + 1)[0, 0]
            found = tracer.list()
            found.append(hidden.mean())
            found.save()
            net.output.save()
