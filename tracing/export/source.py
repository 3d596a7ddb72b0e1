"""A recorded graph as a Python script for nnsight 0.8.1, to be read, changed and run without this library.

    script = graph.to_nnsight_source(model, model_name="openai-community/gpt2")
    print(script)                      # the Python text
    script.save("patching.py")         # and its constants beside it, patching.safetensors

`python patching.py [MODEL]` runs it and writes what the graph saves to `patching.saved.safetensors`, by name.

nnsight runs a block as it stands, with real tensors, and wants values in the forward's order. So the script reads and
writes in that order, each forward is a trace of its own, prompts are padded as they are here, and where a value crosses
from prompt to prompt there is a barrier. What nnsight cannot say raises `ExportError` naming the node and its line.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import safetensors.torch
from torch import Tensor

from tracing.engines.program import compile_graph
from tracing.errors import ExportError, UnusedValueWarning
from tracing.export.body import Body
from tracing.export.facts import Facts, facts_of
from tracing.export.plan import Home, Plan
from tracing.export.writer import Guards, Statement, Writer
from tracing.graph.nodes import Graph
from tracing.graph.text import quoted

VERSION: Final = "0.8.1"
ROW_FIELDS: Final = frozenset(
    {"input_ids", "inputs_embeds", "attention_mask", "token_type_ids", "position_ids", "labels", "decoder_input_ids",
     "decoder_inputs_embeds", "decoder_attention_mask"}
)  # fmt: skip
"""Inputs that nnsight takes prompt by prompt."""
_WIDTH: Final = 96
_INDENT: Final = "    "


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the constants that it reads. `str(script)` is its text."""

    text: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return (
            f"Script({len(self.text.splitlines())} lines, {len(self.tensors)} tensors; print it, or script.save(path))"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `path`, and the constants to the same name with `.safetensors`."""
        target = Path(path)
        if self.tensors:
            safetensors.torch.save_file(dict(self.tensors), target.with_suffix(".safetensors"))
        target.write_text(self.text, encoding="utf-8")
        return target


def to_nnsight_source(graph: Graph, model: Any = None, *, model_name: str | None = None) -> Script:
    """The script of a graph that was recorded on `model`; `model_name` is the folder or hub id it loads by default.

    Raises `ExportError` naming the node and line for what nnsight cannot express: places inside attention,
    `tracer.apply`, modules of your own, and models that are no text models.
    """
    model = graph.model() if model is None else model
    if model is None:
        raise ExportError(
            "The graph comes from a file, or the model that it was recorded on is gone.",
            remedy="Give the model: graph.to_nnsight_source(model).",
        )
    rules = getattr(model, "rules", None)
    if rules is None or rules.encoder_decoder:
        raise ExportError(
            f"Graphs of {type(model.module).__name__} cannot be exported: a script loads a text model by its name, and "
            "nnsight pads no encoder-decoder's prompts.",
            remedy="Export a trace of a LanguageModel, of a decoder or an encoder.",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusedValueWarning)
        program = compile_graph(graph, model)
    facts = facts_of(program, model)
    body = Body(Plan(program, facts, model))
    body.write_all()
    return _Assembly(body.writer, facts, model, _name(model) if model_name is None else model_name).script()


def _name(model: Any) -> str:
    """What transformers loads a model by; "" where nobody knows."""
    if model.source is not None:
        return model.source.name if model.source.fetched else str(model.source.folder)
    return str(getattr(model.module, "name_or_path", "") or "")


class _Assembly:
    """Puts header, prompts, traces and ending together."""

    def __init__(self, writer: Writer, facts: Sequence[Facts], model: Any, name: str) -> None:
        self._writer = writer
        self._facts = facts
        self._model = model
        self._name = name
        self._lines: list[str] = []

    def script(self) -> Script:
        for facts in self._facts:
            if self._runs(facts):
                self._prompts(facts)
        self._after(-1)
        for facts in self._facts:
            if self._runs(facts):
                self._lines.append("")
                self._trace(facts)
            self._after(facts.number)
        main = "\n".join(self._lines)
        given = "sys.argv[1] if len(sys.argv) > 1 else MODEL" if self._name else "sys.argv[1]"
        return Script(f"{self._header(main)}{main}\n{_ENDING.format(given=given)}", self._writer.tensors)

    def _runs(self, facts: Facts) -> bool:
        """Whether anything is read or written in a forward."""
        return bool(self._inside(facts)) or self._wants_result(facts)

    def _inside(self, facts: Facts) -> list[Home]:
        return [home for home in self._writer.blocks.of if home.inside and home.forward == facts.number]

    def _wants_result(self, facts: Facts) -> bool:
        return ("", "result") in facts.forward.sites

    def _emit(self, text: str, depth: int) -> None:
        self._lines.append(f"{_INDENT * depth}{text}" if text else "")

    # -- prompts ------------------------------------------------------------------------------------------------------
    def _prompts(self, facts: Facts) -> None:
        if facts.batch.args:
            lines = ", ".join(str(invoke.line) for invoke in facts.forward.invokes)
            raise ExportError(
                f"The prompt at {lines} cannot be exported: its model takes inputs that are not called input_ids.",
                remedy="Give the prompt by name: model.trace(input_ids=...).",
            )
        for invoke in facts.forward.invokes:
            if invoke.inputs is None:
                continue
            rows = facts.rows[invoke.index]
            self._emit(f"prompt_{invoke.index} = {{", 1)
            for name, value in facts.batch.kwargs.items():
                if self._by_row(name, value, facts):
                    self._emit(f'"{name}": {self._writer.constant(value[rows.start : rows.stop])},', 2)
            self._emit("}", 1)

    @staticmethod
    def _by_row(name: str, value: Any, facts: Facts) -> bool:
        return name in ROW_FIELDS and isinstance(value, Tensor) and value.shape[:1] == (facts.batch.total,)

    def _options(self, facts: Facts) -> str:
        options = {name: value for name, value in facts.batch.kwargs.items() if not self._by_row(name, value, facts)}
        options.update(facts.forward.stage.options)
        if facts.generating and getattr(self._model, "_generation", {}).get("pad_token_id") is None:
            options.setdefault("pad_token_id", self._model.rules.pad_id)
        try:
            return ", ".join(f"{name}={self._writer.expressions.value(value)}" for name, value in options.items())
        except TypeError as error:
            raise ExportError(
                f"An option of the trace at {facts.forward.stage.line} cannot be exported: {error}.",
                remedy="Give numbers, text and tensors as options.",
            ) from None

    # -- traces -------------------------------------------------------------------------------------------------------
    def _trace(self, facts: Facts) -> None:
        options = self._options(facts)
        barriers = self._writer.blocks.barriers.get(facts.number, [])
        invokes = facts.forward.invokes
        call = "generate" if facts.generating else "trace"
        if len(invokes) == 1 and not facts.generating and not barriers:
            given = ", ".join(part for part in (f"prompt_{invokes[0].index}", options) if part)
            self._emit(f"with model.trace({given}):", 1)
            self._block(Home(facts.number, invokes[0].index, inside=True), 2)
            return
        self._emit(f"with model.{call}({options}) as tracer:", 1)
        for name in barriers:
            self._emit(f"{name} = tracer.barrier(2)", 2)
        for invoke in invokes:
            self._emit(f"with tracer.invoke({'' if invoke.inputs is None else f'prompt_{invoke.index}'}):", 2)
            self._block(Home(facts.number, invoke.index, inside=True), 3)
        whole = Home(facts.number, None, inside=True)
        if whole in self._writer.blocks.of:
            self._emit("with tracer.invoke():", 2)
            self._block(whole, 3)
        if self._wants_result(facts):
            self._emit("with tracer.invoke():  # of its own, so that it is kept when the generation ends early", 2)
            self._emit(f"result_{facts.number} = tracer.result.clone()", 3)
            self._emit(f"nnsight.save(result_{facts.number})", 3)

    def _block(self, home: Home, depth: int) -> None:
        statements = self._writer.blocks.of.get(home, [])
        if not statements:
            self._emit("pass", depth)
        elif self._facts[home.forward].generating:
            self._steps(statements, depth)
        else:
            self._statements(statements, depth)

    def _steps(self, statements: Sequence[Statement], depth: int) -> None:
        steps = sorted({one.step for one in statements})
        if len(steps) == steps[-1] - steps[0] + 1:
            self._emit(f"for step in tracer.iter[{steps[0]}:{steps[-1] + 1}]:", depth)
        else:
            self._emit(f"for step in tracer.iter[{steps}]:", depth)
        if len(steps) == 1:
            self._statements(statements, depth + 1)
            return
        for number, step in enumerate(steps):
            self._emit(f"{'if' if not number else 'elif'} step == {step}:", depth + 1)
            self._statements([one for one in statements if one.step == step], depth + 2)

    def _after(self, forward: int) -> None:
        self._statements(self._writer.blocks.of.get(Home(forward), []), 1)

    def _statements(self, statements: Sequence[Statement], depth: int) -> None:
        line = ""
        guards: Guards = ()
        for one in statements:
            inner = depth + one.depth
            if one.guards != guards:
                guards, line = one.guards, ""
                if guards:
                    self._emit(f"if {self._condition(one)}:", inner)
            if one.line and one.line != line:
                note, line = f"  # {one.line}", one.line
            else:
                note = ""
            self._emit(f"{one.text}{note}", inner + bool(guards))

    def _condition(self, statement: Statement) -> str:
        parts = [("" if expected else "not ") + self._writer.text_outside(node) for node, expected in statement.guards]
        return " and ".join(parts)

    # -- header and ending --------------------------------------------------------------------------------------------
    def _header(self, main: str) -> str:
        module = self._model.module
        kind = type(module).__name__
        attention = "eager" if any(facts.eager for facts in self._facts) else getattr(
            module.config, "_attn_implementation", None
        )  # fmt: skip
        options = f"dtype={self._model.module.dtype}" + (
            f", attn_implementation={quoted(attention)}" if attention else ""
        )
        helpers = "".join(text for name, text in _HELPERS.items() if f"{name}(" in main)
        constants = _CONSTANTS if self._writer.tensors else ""
        return _HEADER.format(
            version=VERSION,
            copy="import copy\n" if "replaced(" in main else "",
            functional="import torch.nn.functional as F\n" if "F." in main else "",
            load="load_file, save_file" if self._writer.tensors else "save_file",
            kind=kind,
            task="text-generation" if module.can_generate() else "feature-extraction",
            name=quoted(self._name),
            helpers=helpers,
            options=options,
            constants=constants,
        )


_HEADER: Final = '''"""A recorded trace as a script for nnsight {version}.

    python SCRIPT.py [MODEL]

MODEL is a folder or a hub id. What the trace saves is written beside the script, as SCRIPT.saved.safetensors.
"""

{copy}import sys
from pathlib import Path

import nnsight
import torch
{functional}from nnsight import TransformersModel
from safetensors.torch import {load}
from transformers import AutoTokenizer, {kind}

MODEL = {name}
HERE = Path(__file__)
saved = {{}}


def save(name, value):
    """Keep a value as it is now; the items of a tuple, list or dict by their numbers or keys."""
    if isinstance(value, (tuple, list, dict)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            save(f"{{name}}.{{key}}", item)
    elif value is not None:
        saved[name] = value.detach().cpu().clone() if isinstance(value, torch.Tensor) else torch.tensor(value)

{helpers}
def main(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    module = {kind}.from_pretrained(folder, {options}).eval()
    model = TransformersModel(module, tokenizer=tokenizer, task="{task}")
{constants}
'''
_CONSTANTS: Final = '    constants = load_file(HERE.with_suffix(".safetensors"))\n'
_HELPERS: Final = {
    "without_padding": '''
def without_padding(tensor, pad, length):
    """A prompt's own positions: axes of the padded length without their first columns."""
    for axis in range(1, tensor.dim()):
        if tensor.shape[axis] == length:
            tensor = tensor.narrow(axis, pad, length - pad)
    return tensor

''',
    "replaced": '''
def replaced(output, name, value):
    """A model's output with another value in one field."""
    output = copy.copy(output)
    output[name] = value
    return output

''',
}
_ENDING: Final = """
    tensors = {{name: value.contiguous() for name, value in saved.items()}}
    save_file(tensors, HERE.with_suffix(".saved.safetensors"))


if __name__ == "__main__":
    main({given})
"""
