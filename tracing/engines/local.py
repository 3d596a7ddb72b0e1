"""Runs a recorded graph on a model in this process, through hooks."""

from contextlib import suppress
from typing import Any

from tracing.engines.hooking import hooked
from tracing.engines.program import Forward, compile_graph
from tracing.engines.rows import Scope
from tracing.engines.run import Enough, Run, grad_mode
from tracing.engines.unreached import settle
from tracing.graph.nodes import Graph
from tracing.graph.recorder import Cell


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
        for cell in cells.values():
            cell.publish()


def _run_forward(run: Run, forward: Forward) -> None:
    model, generating = run.model, forward.stage.mode == "generate"
    inputs = [invoke.inputs for invoke in forward.invokes if invoke.inputs is not None]
    batch = model.batch(inputs, generating=generating)
    _assign_rows(run, forward, batch)
    run.begin(forward)
    with hooked(run, forward, steps=generating), suppress(Enough):
        if generating:
            run.visit_result(model.generate_ids(*batch.args, **{**batch.kwargs, **forward.stage.options}))
        else:
            model.call(*batch.args, **{**batch.kwargs, **forward.stage.options})
    if run.failed is not None:  # a module of the model caught it and went on
        raise run.failed
    settle(run, forward)


def _assign_rows(run: Run, forward: Forward, batch: Any) -> None:
    rows = iter(batch.rows)
    encoded = bool(getattr(getattr(run.model.module, "config", None), "is_encoder_decoder", False))
    for invoke in forward.invokes:
        if invoke.inputs is None:
            run.scopes[invoke.index] = Scope(0, batch.total, batch.total, 0, None)
        else:
            mine = next(rows)
            run.scopes[invoke.index] = Scope(
                mine.start, mine.stop, batch.total, mine.pad, batch.length, mine.decoder, batch.decoder_length, encoded
            )
