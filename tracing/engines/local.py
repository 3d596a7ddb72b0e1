"""Runs a recorded graph on a model in this process, through hooks."""

from contextlib import suppress
from typing import Any

import torch

from tracing.engines.hooking import hooked
from tracing.engines.program import Forward, compile_graph
from tracing.engines.rows import Scope
from tracing.engines.run import Enough, Run, grad_mode
from tracing.engines.skipping import note_tuples
from tracing.engines.unreached import refuse_late, settle
from tracing.errors import PromptError
from tracing.graph.cells import Cell
from tracing.graph.nodes import Graph


def execute(model: Any, graph: Graph, cells: dict[int, Cell]) -> None:
    """Run the graph and fill the cells of its saved values.

    Raises what the user's operations raise, with a note naming the line that recorded them; `SiteNotReachedError` for
    a site that the forward does not pass; `CausalityError` before anything runs.
    """
    model.require_weights()
    program = compile_graph(graph, model)
    run = Run(model, program, cells)
    try:
        with grad_mode(program):
            run.start()
            for forward in program.forwards:
                if forward.pending or forward.skips:
                    _run_forward(run, forward)
    finally:
        run.release()
        with torch.inference_mode(False):  # what users get are ordinary tensors
            for cell in cells.values():
                cell.publish()


def _run_forward(run: Run, forward: Forward) -> None:
    if run.stopped(forward):  # before its first site, or in another forward of its trace
        run.begin(forward)
        settle(run, forward)
        return
    model, generating = run.model, forward.stage.mode == "generate"
    refuse_late(run, forward)
    inputs = [invoke.inputs for invoke in forward.invokes if invoke.inputs is not None]
    copies = copies_of(model, forward, len(inputs)) if generating else 1
    batch = model.batch(inputs, generating=generating, steps=forward.steps)
    assign_rows(run, forward, batch, copies)
    run.begin(forward)
    with hooked(run, forward, steps=generating), suppress(Enough):
        try:
            if generating:
                run.visit_result(model.generate_ids(*batch.args, **{**batch.kwargs, **forward.stage.options}))
            else:
                model.call(*batch.args, **{**batch.kwargs, **forward.stage.options})
        except Exception as error:
            note_tuples(run, forward, error)
            raise
    if run.failed is not None:  # a module of the model caught it and went on
        raise run.failed
    settle(run, forward)


def copies_of(model: Any, forward: Forward, prompts: int) -> int:
    """How many rows the generation makes of one. Raises `PromptError` where several prompts cannot be told apart."""
    copies: int = model.sequences_of(forward.stage.options)
    if copies > 1 and prompts > 1:
        raise PromptError(
            f"The generation at {forward.stage.line} makes {copies} rows of each prompt (num_beams, "
            "num_return_sequences), so that the values of its prompts cannot be told apart.",
            remedy="Generate prompt by prompt: model.generate(prompt, ...), or without beams.",
        )
    return copies


def assign_rows(run: Run, forward: Forward, batch: Any, copies: int) -> None:
    """Tell the run which rows of a batch belong to which prompt."""
    rows, total = iter(batch.rows), batch.total * copies
    encoded = bool(getattr(getattr(run.model.module, "config", None), "is_encoder_decoder", False))
    for invoke in forward.invokes:
        if invoke.inputs is None:
            run.scopes[invoke.index] = Scope(0, total, total, 0, None)
        else:
            mine = next(rows)
            run.scopes[invoke.index] = Scope(
                mine.start * copies, mine.stop * copies, total,
                mine.pad, batch.length, mine.decoder, batch.decoder_length, encoded,
            )  # fmt: skip
