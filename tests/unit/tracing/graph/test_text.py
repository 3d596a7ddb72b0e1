"""A graph as text: a line a node, as Python writes it, with the line of the user's code."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.unit.tracing.seed import support
from tracing import LanguageModel, Model
from tracing.graph import codec
from tracing.graph.text import literal, quoted

IDS = [3, 5, 7]


@pytest.fixture(scope="module")
def net() -> Model:
    return Model(support.Net())


@pytest.fixture(scope="module")
def gpt2() -> LanguageModel:
    return LanguageModel(support.gpt2(layers=2), tokenizer=support.TOKENIZER)


def lines(tracer: Any) -> list[str]:
    """The text without the user's lines."""
    return [line.partition("  # ")[0] for line in str(tracer.graph).splitlines()]


def test_each_node_names_the_line_that_recorded_it(net: Model) -> None:
    with net.trace(support.rows()) as tracer:
        net.first.output.mean(-1).save()  # marked

    number = support.line_of(__file__, "marked")
    where = f"test_text.py:{number} in test_each_node_names_the_line_that_recorded_it"
    assert str(tracer.graph) == f"%0 = site first.output  # {where}\n%1 = mean(%0, -1)  → saved  # {where}"


def test_reads_writes_and_operations_look_like_python(net: Model) -> None:
    with net.trace(support.rows()) as tracer:
        hidden = net.first.output
        hidden[:, 1:3] = 0
        hidden[..., -1] += 2
        scaled = torch.softmax(hidden * 2 - 1, dim=-1)
        net.third.output = scaled @ torch.eye(6, dtype=torch.float64)
        scaled.transpose(0, 1)[[0, 1]].save()

    assert lines(tracer) == [
        "%0 = site first.output",
        "%1 = write(%0[:, 1:3], 0)  → first.output",
        "%2 = %1[..., -1]",
        "%3 = add_(%2, 2)",
        "%4 = write(%1[..., -1], %3)  → first.output",
        "%5 = %4 * 2",
        "%6 = %5 - 1",
        "%7 = softmax(%6, dim=-1)",
        "%8 = %7 @ tensor<float64 [6, 6]>",
        "%9 = site third.output",
        "%10 = write(%9, %8)  → third.output",
        "%11 = %7.transpose(0, 1)",
        "%12 = %11[[0, 1]]  → saved",
    ]


def test_gradients_name_their_backward(net: Model) -> None:
    with net.trace(support.rows()) as tracer:
        hidden = net.first.output
        with net.output.sum().backward():
            hidden.grad[:, 0] = 0

    assert lines(tracer)[-3:] == [
        "%4 = backward 0 of %3",
        "%5 = %0.grad of backward 0",
        "%6 = write(%5[:, 0], 0)  → gradient of %0, backward 0",
    ]


def test_conditions_steps_and_prompts_stand_behind_a_node(gpt2: LanguageModel) -> None:
    with gpt2.generate(max_new_tokens=2) as tracer:
        with tracer.invoke(IDS):
            pass
        with tracer.invoke(IDS), tracer.iter[:2]:
            hidden = gpt2.transformer.h[0].output
            with tracer.cond(hidden.sum() > 0) as branch:
                hidden[:] = 0
            with branch.otherwise():
                hidden[:] = 1

    site = "transformer.h.0.output [prompt 1]"
    assert lines(tracer) == [
        f"%0 = site {site}  at steps 0, 1",
        "%1 = %0  at steps 0, 1",
        "%2 = sum(%1)  at steps 0, 1",
        "%3 = %2 > 0  at steps 0, 1",
        f"%4 = write(%0[:], 0)  → {site}  if %3  at steps 0, 1",
        f"%5 = write(%4[:], 1)  → {site}  if not %3  at steps 0, 1",
    ]


def test_the_traces_of_a_session_are_listed(gpt2: LanguageModel) -> None:
    with gpt2.session() as session:
        with gpt2.trace(IDS):
            hidden = gpt2.transformer.h[0].output
        with gpt2.trace() as tracer:
            for _ in range(2):
                with tracer.invoke(IDS):
                    gpt2.transformer.h[1].output[:] = hidden
                    gpt2.output.save()

    assert lines(session)[:2] == ["trace 0: forward of prompt 0", "trace 1: forward of prompts 1, 2"]


def test_modules_skips_and_functions_have_their_words(gpt2: LanguageModel) -> None:
    with gpt2.trace(IDS) as tracer:
        entering = gpt2.transformer.h[1].input
        gpt2.transformer.h[1].skip(entering)
        gpt2.lm_head(gpt2.transformer.ln_f(entering)).save()
        tracer.apply(lambda value: value, entering).save()
        tracer.stop()

    shown = lines(tracer)
    assert shown[1:5] == [
        "%1 = %0.input",
        "%2 = skip(%1)  → transformer.h.1",
        "%3 = transformer.ln_f(%1)",
        "%4 = lm_head(%3)  → saved",
    ]
    assert shown[5].startswith("%5 = apply(<<lambda>>")
    assert shown[6] == "%6 = stop"


def test_a_stored_graph_has_the_same_text_and_names_what_it_saves(net: Model) -> None:
    with net.trace(support.rows()) as tracer:
        net.first.output.save()
    graph = tracer.graph
    graph.saves[0] = "hidden"
    again = codec.loads(*codec.dumps(graph))

    assert str(again) == str(graph)
    assert '→ saved as "hidden"' in str(again)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1,), "(1,)"),
        ([1, (2.5, None)], "[1, (2.5, None)]"),
        ({"a": True}, '{"a": True}'),
        (slice(1, None), "slice(1, None, None)"),
        (..., "..."),
        (float("-inf"), 'float("-inf")'),
        (torch.float32, "torch.float32"),
        (torch.device("cpu"), 'torch.device("cpu")'),
        ('say "it"', "'say \"it\"'"),
        ("it's", '"it\'s"'),
        ("two\nlines", '"two\\nlines"'),
    ],
)
def test_values_are_python_literals(value: Any, text: str) -> None:
    nothing: Callable[[Any], str] = str
    assert literal(value, nothing, nothing) == text


def test_an_object_has_no_text() -> None:
    with pytest.raises(TypeError, match="a object has no text"):
        literal([object()], str, str)


def test_short_whole_constants_are_written_out(net: Model) -> None:
    with net.trace(support.rows()) as tracer:
        (net.last.output.argmax(-1) == torch.tensor([0, 2])).save()
        (net.last.output * torch.tensor(0.5)).save()
        (net.last.output + torch.ones(3, dtype=torch.float64)).save()

    shown = lines(tracer)
    assert "%2 = %1 == tensor([0, 2])  → saved" in shown
    assert "%3 = %0 * tensor(0.5)  → saved" in shown
    assert "%4 = %0 + tensor<float64 [3]>  → saved" in shown


def test_text_is_in_double_quotes_where_it_can_be() -> None:
    assert quoted("plain") == '"plain"'
