"""Where attribution reads: one `Spot` a site and layer, and hooks that see its value and, in a backward, its gradient.

A spot's value is brought to `[example, position, (head,) feature]` by the adapter's own steps, which hold for gradients
just as well, since all of them are views. What is summed over and what stays is the caller's affair.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from tracing.engines.attention import Scorer, Taps, can_score, tapped
from tracing.engines.hooks import Hooks, first_argument, hooks, main_output
from tracing.errors import SiteError
from tracing.families.sites import GLOBAL_SITES, HEAD_SITES, Step
from tracing.graph.heads import get_heads
from tracing.models import LanguageModel

NEURONS: Final = "neurons"
WRITES: Final = ("attn_out", "cross_out", "mlp_out", "mixer_out")
"""Sites that blocks add to the residual stream."""
ROTATED: Final = ("q_rot", "k_rot")
INSIDE: Final = ("scores", "pattern", *ROTATED)
"""Sites inside the attention function, which no module's input or output shows."""
WITH_HEADS: Final = (*HEAD_SITES, *INSIDE)


@dataclass(frozen=True, slots=True)
class Spot:
    """One site at one layer."""

    site: str
    layer: int
    path: str
    kind: str
    """"output" or "inputs" of the module at `path`, or a kind of `tracing.engines.attention`."""
    steps: tuple[Step, ...] = field(hash=False)

    def part(self, value: Tensor, rows: int) -> Tensor:
        """The site's own part of a module's tensor, or of its gradient."""
        for step in self.steps:
            if step[0] == "rows":
                value = torch.unflatten(value, 0, (rows, -1))
            elif step[0] == "index":
                value = value[step[1]]
            elif step[0] == "view":
                value = getattr(value, step[1])(*step[2])
            elif step[0] not in ("first", "main"):
                value = get_heads(value, step)
        return value


See = Callable[[Spot, Tensor], None]
"""Gets a spot and the whole tensor that its steps start from."""


def spots(model: LanguageModel, site: str) -> list[Spot]:
    """A site's spots, layer by layer.

    Raises `SiteError` for a site that the family does not have, and for those without layers.
    """
    adapter, facts = model.adapter, model.facts
    if site == NEURONS:
        return [Spot(site, layer, f"{adapter.blocks}.{layer}.{down_projection(model)}", "inputs",
                     (("rows",),) if "mlp_out" in adapter.flat else ()) for layer in range(facts.n_layers)]  # fmt: skip
    if site in GLOBAL_SITES:
        raise SiteError(
            f"The site {site} has no layers, so it is no cell of a map.",
            remedy="The embedding is resid_pre of layer 0; logits are what the metric reads.",
        )
    adapter.site(site, 0, facts)  # an unknown name is refused in the adapter's words
    return [_spot(model, site, layer) for layer in range(adapter.layers_of(site, facts))]


def _spot(model: LanguageModel, site: str, layer: int) -> Spot:
    path = model.adapter.site(site, layer, model.facts)
    if path.kind in ("scores", "pattern"):  # [batch, head, query, key]: a query is a position, its keys are features
        return Spot(site, layer, path.path, path.kind, (("view", "transpose", (1, 2), {}),))
    # A head's write is z times a fixed matrix, so its difference times its gradient is that of z.
    return Spot(site, layer, path.path, "inputs" if path.kind == "head_out" else path.kind, path.steps)


def meeting(model: LanguageModel, kinds: Sequence[str]) -> list[Spot]:
    """Queries, keys or values (`q_rot`, `k_rot`, `v`) of every layer as attention gets them."""
    adapter, layers = model.adapter, range(model.facts.n_layers)
    return [
        Spot(kind, layer, f"{adapter.blocks}.{layer}.{adapter.attn}", kind, ()) for layer in layers for kind in kinds
    ]


def down_projection(model: LanguageModel) -> str:
    """The module whose input are the MLP's neurons, from the block. Raises `SiteError` where there is none."""
    path = model.adapter.neurons
    if not path:
        raise SiteError(
            f"The family {model.adapter.family} has no single MLP whose neurons could be patched.",
            remedy="Use mlp_out, or another site.",
        )
    return path


def require_scores(model: LanguageModel) -> list[nn.Module]:
    """The attention modules, first to last. Raises `SiteError` where scores of other queries cannot be computed."""
    modules = [block.get_submodule(model.adapter.attn) for block in model.block_modules] if model.adapter.attn else []
    if not modules or not all(can_score(module) for module in modules):
        raise SiteError(
            f"The query and key fix needs attention scores of other queries and keys, and attention of "
            f"{model.adapter.family} does not go through the attention interface of transformers.",
            remedy="Run it without qk_fix, or check the query and key cells with a sweep.",
        )
    return modules


@contextmanager
def watched(
    model: LanguageModel, wanted: Sequence[Spot], see: See, scorer: Callable[[int, Scorer], None] | None = None
) -> Iterator[Hooks]:
    """Within the block, forwards of this thread show every spot's tensor to `see`, in the forward's order.

    `scorer` gets each layer's number and the function for its scores (`Taps.scorer`).
    """
    inside: dict[nn.Module, dict[str, Spot]] = {}
    layers = {module: layer for layer, module in enumerate(require_scores(model))} if scorer else {}
    with hooks() as registered, ExitStack() as stack:
        for spot in wanted:
            module = model.submodule(spot.path)
            if spot.kind == "output":
                registered.after(module, _after(spot, see))
            elif spot.kind == "inputs":
                registered.before(module, _before(spot, see))
            else:
                inside.setdefault(module, {})[spot.kind] = spot
        taps = {
            module: _taps(inside.get(module, {}), see, scorer and _of_layer(scorer, layers.get(module)))
            for module in {**inside, **layers}
        }
        if taps:
            stack.enter_context(tapped(model.module, taps))
        yield registered


def _after(spot: Spot, see: See) -> Callable[[Any], None]:
    return lambda output: see(spot, main_output(output))


def _before(spot: Spot, see: See) -> Callable[[Any, Any], None]:
    return lambda args, kwargs: see(spot, first_argument(args, kwargs))


def _of_layer(scorer: Callable[[int, Scorer], None], layer: int | None) -> Callable[[Scorer], None] | None:
    return None if layer is None else lambda function: scorer(layer, function)


def _taps(kinds: dict[str, Spot], see: See, scorer: Callable[[Scorer], None] | None) -> Taps:
    def visit(kind: str, tensor: Tensor) -> Tensor:
        if kind in kinds:
            see(kinds[kind], tensor)
        return tensor

    # A gradient of scores or patterns needs them on the way to the output, so attention runs its eager path there.
    soft = frozenset(kinds) & {"scores", "pattern"}
    return Taps(visit, frozenset(kinds), soft, scorer)
