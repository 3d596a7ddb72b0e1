"""Node attribution of every source: one forward and one backward of a part's base run.

    AtP(u) = Σ (u(ablated) − u(base)) · ∂metric/∂u at the base run

For heads the gradient is taken at z, before W_O; for MLPs at what they write; for `input` at the token embedding.
Source: Nanda 2023, attribution patching; Kramár et al. 2024 (arXiv 2403.00745).
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tracing.circuits.readout import at_answer, logits_of
from tracing.circuits.runs import Part, call_backbone
from tracing.engines.hooks import first_argument, hooks, main_output, with_main_output

if TYPE_CHECKING:
    from tracing.circuits.exact import Task

BLIND: Final = 1e-4
"""A gradient sees nothing where all attributions together are below this share of what the whole prompt changes.

At a metric's minimum (a divergence from the run itself) rounding leaves about 1e-6 in float32, never exactly zero."""


def node_attribution(made: "Task", part: Part) -> tuple[NDArray[Any], NDArray[Any]]:
    """AtP of every source `[pair, source]`, and each pair's gradient at the final residual, its largest entry."""
    seen, final, values = _forward(made, part)
    wanted = [seen["input"], *seen["z"], *seen["mlp"], final]
    grads: tuple[Tensor | None, ...] = torch.autograd.grad(values.sum(), wanted, allow_unused=True)
    shapes = [part.base.writes.embedding, *part.base.writes.z, *part.base.writes.mlp, part.base.residual[-1]]
    found = [
        torch.zeros_like(like) if grad is None else grad.reshape(like.shape)
        for grad, like in zip(grads, shapes, strict=True)
    ]
    layers = len(made.blocks)
    base, ablated = part.base.writes, part.ablated
    nodes = torch.zeros(len(part.members), len(made.layout.sources), dtype=torch.float64)
    nodes[:, 0] = ((ablated.embedding - base.embedding) * found[0]).sum((1, 2))
    for layer in range(layers):
        heads = (ablated.z[layer] - base.z[layer]) * found[1 + layer]
        nodes[:, made.layout.heads(layer)] = heads.sum((1, 3)).double().cpu()
        mlp = (ablated.mlp[layer] - base.mlp[layer]) * found[1 + layers + layer]
        nodes[:, made.layout.mlp(layer)] = mlp.sum((1, 2)).double().cpu()
    slopes: NDArray[Any] = found[-1].abs().amax((1, 2)).float().cpu().numpy()
    return np.asarray(nodes), slopes


def _forward(made: "Task", part: Part) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Tensors of the base run that carry gradients, the final residual, and the metric of each pair."""
    model = made.model
    seen: dict[str, Any] = {"z": [], "mlp": []}
    last: list[Tensor] = []

    def embed(output: Any) -> Any:
        # Weights have no gradients, so the graph starts here.
        seen["input"] = main_output(output).detach().clone().requires_grad_(True)
        return with_main_output(output, seen["input"])

    ids = [pair.clean_ids if made.direction == "noising" else pair.corrupted_ids for pair in part.members]
    with torch.enable_grad(), hooks() as registered:
        registered.after(model.part(model.adapter.embeddings[0]), embed)
        for block in made.blocks:
            registered.before(block.out_proj, lambda args, kwargs: seen["z"].append(first_argument(args, kwargs)))
            registered.after(block.mlp_exit, lambda output: seen["mlp"].append(main_output(output)))
        registered.after(made.blocks[-1].module, lambda output: last.append(main_output(output)))
        call_backbone(model, torch.tensor([list(row) for row in ids], device=model.device))
        final = last[0]
        targets = part.targets
        at = at_answer(part, final, made.answer)
        if made.metric.facts.needs_reference:
            clean = at_answer(part, part.clean_final.clone(), made.answer)
            targets = replace(targets, reference=logits_of(model, clean))
        values = made.metric(logits_of(model, at), targets)
    return seen, final, values
