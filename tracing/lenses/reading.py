"""Sites read in one forward of the model's own code: plain hooks at the places the adapter names, taps in attention.

A visitor gets each value while the forward runs and keeps what it wants of it, so that nothing else stays in memory.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tracing.engines.attention import Taps, tapped
from tracing.engines.hooks import hooks
from tracing.errors import SiteError
from tracing.families.sites import SitePath
from tracing.graph.lens import get
from tracing.models.pretrained import Pretrained

Visit = Callable[[str, int, Tensor], None]
"""Called with a site, its layer and its value; the model may change the value afterwards, so copy what you keep."""

INSIDE = ("scores", "pattern", "q_rot", "k_rot")


def observe(
    model: Pretrained,
    inputs: Mapping[str, Tensor],
    wanted: Iterable[tuple[str, int]],
    visit: Visit,
    *,
    whole: bool = False,
) -> Any:
    """Run the model once and show the sites `wanted`, (name, layer), to `visit`; no gradients.

    Runs up to the final hidden states; with `whole` the unembedding too, and returns the model's output.
    Raises `SiteError` for a site that the family lacks, or attention whose inside cannot be seen.
    """
    rows = len(next(iter(inputs.values())))
    with hooks() as registered, torch.inference_mode(), ExitStack() as stack:
        inside: dict[nn.Module, dict[str, Callable[[Tensor], None]]] = {}
        for name, layer in wanted:
            site = model.adapter.site(name, layer, model.facts)
            part, show = model.module.get_submodule(site.path), _shower(visit, name, layer, site, rows)
            if site.kind in INSIDE:
                inside.setdefault(part, {})[site.kind] = show
            elif site.kind == "output":
                registered.after(part, show)
            elif site.kind == "inputs":
                registered.before(part, lambda args, kwargs, show=show: show((args, kwargs)))  # type: ignore[misc]
            else:
                raise SiteError(f"The site {name} is computed, not read.", remedy="Read z.")
        stack.enter_context(tapped(model.module, {part: _taps(shown) for part, shown in inside.items()}))
        return run(model, inputs, whole=whole)


def run(model: Pretrained, inputs: Mapping[str, Tensor], *, whole: bool = False) -> Any:
    """One forward: of the backbone, or of the `whole` model. Nothing is cached where the model has such a switch."""
    model.require_weights()
    adapter = model.adapter
    target = model.module if whole else model.part(adapter.backbone)
    caching = {"use_cache": False} if getattr(model.config, "use_cache", None) else {}
    if not adapter.input_name:
        return target(*inputs.values())
    return target(**inputs, **caching)


def _shower(visit: Visit, name: str, layer: int, site: SitePath, rows: int) -> Callable[[Any], None]:
    def show(value: Any) -> None:
        for step in site.steps:
            value = value.unflatten(0, (rows, -1)) if step[0] == "rows" else get(value, (step,))
        visit(name, layer, value)

    return show


def _taps(shown: Mapping[str, Callable[[Tensor], None]]) -> Taps:
    def look(kind: str, value: Tensor) -> Tensor:
        if kind in shown:
            shown[kind](value)
        return value

    return Taps(look, reads=frozenset(shown), writes=frozenset())
