"""Exported scripts: what they look like, where they are written, and what is refused with node, line and remedy.

That nnsight gets our numbers from them is shown in `tests/parity/test_nnsight_export.py`.
"""

import ast
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests import zoo
from tests.unit.tracing.seed import support
from tracing import LanguageModel, Model
from tracing.errors import ExportError
from tracing.graph import codec
from tracing.graph.lines import Line
from tracing.graph.nodes import Graph

IDS = [3, 5, 7, 11]
OTHER = [8, 2]


@pytest.fixture(scope="module")
def gpt2() -> LanguageModel:
    return LanguageModel(support.gpt2(layers=3).double(), tokenizer=support.TOKENIZER)


@pytest.fixture(scope="module")
def graph(gpt2: LanguageModel) -> Graph:
    """Steers layer 1 of one prompt."""
    with gpt2.trace(IDS) as tracer:
        gpt2.transformer.h[1].output[0][:, -1] += torch.linspace(-1, 1, 32)
        gpt2.output[0, -1].argmax().save()
    return tracer.graph


def main_of(text: str) -> str:
    """The traces of a script."""
    ast.parse(text)
    start = text.index("    prompt_0 = {") if "    prompt_0 = {" in text else text.index("def main")
    return text[start : text.index("    tensors = {name")]


# -- what a script looks like -----------------------------------------------------------------------------------------
def test_a_trace_becomes_a_trace(graph: Graph) -> None:
    text = str(graph.to_nnsight_source(model_name="gpt2"))
    statements = [line.partition("  # ")[0] for line in main_of(text).splitlines() if line]

    assert statements == [
        "    prompt_0 = {",
        '        "input_ids": torch.tensor([[3, 5, 7, 11]]),',
        "    }",
        "    with model.trace(prompt_0, use_cache=False):",
        "        h_1 = model.transformer.h[1].output",
        '        add_2 = h_1[:, -1].clone().add_(constants["constant_0"])',
        "        h_1_edited = h_1.clone()",
        "        h_1_edited[:, -1] = add_2",
        "        model.transformer.h[1].output = h_1_edited",
        "        logits = model.output.logits",
        "        value_6 = torch.argmax(logits[0, -1])",
        '        save("value_6", value_6)',
    ]


def test_a_script_names_the_users_lines_and_the_model(graph: Graph) -> None:
    text = str(graph.to_nnsight_source(model_name="openai-community/gpt2"))

    assert 'MODEL = "openai-community/gpt2"' in text
    assert "# test_source.py:" in text
    assert "GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64" in text
    assert "main(sys.argv[1] if len(sys.argv) > 1 else MODEL)" in text


def test_a_model_without_a_name_must_be_given_to_the_script(graph: Graph) -> None:
    assert "    main(sys.argv[1])\n" in str(graph.to_nnsight_source(model_name=""))


def test_a_folder_is_the_scripts_model(tmp_path: Path) -> None:
    model = LanguageModel(support.save(support.gpt2(layers=1), tmp_path / "tiny"))
    with model.trace(IDS) as tracer:
        model.output.save()

    assert f'MODEL = "{tmp_path / "tiny"}"' in str(tracer.graph.to_nnsight_source())


def test_floating_constants_are_beside_the_script_and_short_whole_ones_in_it(graph: Graph, tmp_path: Path) -> None:
    script = graph.to_nnsight_source()
    path = script.save(tmp_path / "steer.py")

    assert path.read_text() == str(script)
    torch.testing.assert_close(load_file(tmp_path / "steer.safetensors")["constant_0"], torch.linspace(-1, 1, 32))
    assert "load_file(HERE" in str(script)


def test_a_script_without_constants_is_one_file(gpt2: LanguageModel, tmp_path: Path) -> None:
    with gpt2.trace(IDS) as tracer:
        (gpt2.output.argmax(-1) == torch.tensor([3])).save()
    tracer.graph.to_nnsight_source().save(tmp_path / "plain.py")

    assert [path.name for path in tmp_path.iterdir()] == ["plain.py"]
    assert "torch.tensor([3])" in (tmp_path / "plain.py").read_text()


def test_saved_values_have_the_names_of_a_stored_graph(gpt2: LanguageModel) -> None:
    with gpt2.trace(IDS) as tracer:
        gpt2.output.mean().save()
    graph = tracer.graph
    graph.saves[next(iter(graph.saves))] = "mean of logits"

    assert 'save("mean of logits", ' in str(graph.to_nnsight_source())


def test_values_wait_at_a_barrier_where_they_cross_prompts(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        with tracer.invoke(IDS):
            hidden = gpt2.transformer.h[1].output
        with tracer.invoke(IDS[::-1]):
            gpt2.transformer.h[1].output[:] = hidden
            gpt2.output.save()

    text = str(tracer.graph.to_nnsight_source())
    assert text.count("barrier_0_0 = tracer.barrier(2)") == 1
    assert text.count("            barrier_0_0()\n") == 2


def test_a_later_value_in_an_earlier_place_takes_two_traces(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        with tracer.invoke(IDS):
            late = gpt2.transformer.h[2].output[:, -1]
        with tracer.invoke(OTHER):
            gpt2.transformer.h[0].output[:, -1] = late
            gpt2.output.save()

    text = main_of(str(tracer.graph.to_nnsight_source()))
    assert text.count("with model.trace(") == 2
    assert "barrier" not in text


def test_padding_is_written_out_and_cut_off(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        for prompt in (IDS, OTHER):
            with tracer.invoke(prompt):
                gpt2.transformer.h[0].output.save()

    text = main_of(str(tracer.graph.to_nnsight_source()))
    assert '"attention_mask": torch.tensor([[0, 0, 0, 1, 1]])' in text
    assert '"position_ids": torch.tensor([[0, 0, 0, 0, 1]])' in text
    assert 'save("value_3", h_0_2[:, 3:])' in text


# -- which model ------------------------------------------------------------------------------------------------------
def test_a_graph_from_a_file_takes_the_model(gpt2: LanguageModel, graph: Graph) -> None:
    again = codec.loads(*codec.dumps(graph))

    assert str(again.to_nnsight_source(gpt2)) == str(graph.to_nnsight_source())
    with pytest.raises(ExportError, match=r"comes from a file.*to_nnsight_source\(model\)"):
        again.to_nnsight_source()


def test_a_graph_keeps_no_model_alive() -> None:
    model = LanguageModel(support.gpt2(layers=1), tokenizer=support.TOKENIZER)
    with model.trace(IDS) as tracer:
        model.output.save()
    graph = tracer.graph
    del model, tracer
    gc.collect()

    assert graph.model() is None
    with pytest.raises(ExportError, match="is gone"):
        graph.to_nnsight_source()


def test_a_line_of_a_stored_graph_stays_a_comment(gpt2: LanguageModel) -> None:
    with gpt2.trace(IDS) as tracer:
        gpt2.output.save()
    graph = tracer.graph
    for node in graph.nodes:
        node.line = Line("a.py\nraise SystemExit", 1, "f\r\nraise SystemExit\x1b[2J")

    text = str(graph.to_nnsight_source())

    assert not any(isinstance(node, ast.Raise) for node in ast.walk(ast.parse(text)))
    assert "\x1b" not in text
    assert len(str(graph).splitlines()) == len(graph.nodes)


# -- what is refused --------------------------------------------------------------------------------------------------
Block = Callable[[Any, Any], object]


def doubled(value: Any) -> Any:
    return value * 2


def applies(model: Any, tracer: Any) -> None:
    tracer.apply(doubled, model.transformer.h[0].output).save()


def reads_rotated_queries(model: Any, tracer: Any) -> None:
    model.sites.q_rot[1].save()


def writes_a_pattern(model: Any, tracer: Any) -> None:
    model.sites.pattern[1][:, 0] = 0
    model.output.save()


def saves_a_dtype(model: Any, tracer: Any) -> None:
    model.transformer.h[0].output.dtype.save()


@pytest.mark.parametrize(
    ("block", "reason", "remedy"),
    [
        (applies, "holds a Python function", "operations of torch"),
        (reads_rotated_queries, "no place for 'q_rot' inside attention", "sites.q"),
        (writes_a_pattern, "only read an attention pattern", "sites.v"),
        (saves_a_dtype, "only tensors are kept", "Save the tensor"),
    ],
)
def test_what_nnsight_cannot_say_names_node_line_and_remedy(
    gpt2: LanguageModel, block: Block, reason: str, remedy: str
) -> None:
    with gpt2.trace(IDS) as tracer:
        block(gpt2, tracer)

    with pytest.raises(ExportError) as raised:
        tracer.graph.to_nnsight_source()

    text = str(raised.value)
    assert text.startswith("Node %")
    assert f"in {block.__name__})" in text
    assert reason in text
    assert remedy in text
    assert raised.value.code == "not_exportable"


def test_a_pattern_of_padded_prompts_is_refused_in_float64(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        for prompt in (IDS, OTHER):
            with tracer.invoke(prompt):
                gpt2.sites.pattern[1].save()

    with pytest.raises(ExportError, match=r"NaN of padding.*prompts of one length"):
        tracer.graph.to_nnsight_source()


def test_a_module_of_ones_own_is_refused(gpt2: LanguageModel) -> None:
    model = gpt2.copy()
    model.transformer.h[1].sae = nn.Linear(32, 32).double()
    with model.trace(IDS) as tracer:
        block = model.transformer.h[1]
        block.output = block.sae(block.output)
        model.output.save()

    with pytest.raises(ExportError, match=r"module of your own.*Export the model's part"):
        tracer.graph.to_nnsight_source()


def test_models_that_are_no_text_models_are_refused() -> None:
    net = Model(support.Net())
    with net.trace(support.rows()) as tracer:
        net.first.output.save()

    with pytest.raises(ExportError, match="Graphs of Net cannot be exported"):
        tracer.graph.to_nnsight_source()


def test_encoder_decoders_are_refused() -> None:
    model = LanguageModel(zoo.ZOO["t5"](), tokenizer=support.TOKENIZER)
    with model.trace(IDS) as tracer:
        model.output.save()

    with pytest.raises(ExportError, match="T5ForConditionalGeneration cannot be exported"):
        tracer.graph.to_nnsight_source()
