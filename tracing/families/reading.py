"""Reading every site of a model in one forward, by plain hooks at the places the adapter names. For `certificate`."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tracing.engines.attention import Taps, tapped
from tracing.engines.hooks import Hooks, first_argument, hooks, main_output
from tracing.errors import SiteError
from tracing.families.adapter import Adapter
from tracing.families.facts import ModelFacts
from tracing.families.sites import GLOBAL_SITES, SitePath, Step
from tracing.graph.heads import get_heads

ATTENTION_KINDS = ("scores", "pattern", "q_rot", "k_rot")


@dataclass(slots=True)
class Seen:
    """What one forward showed: `sites[name, layer]`, outputs of further modules, and what could not be seen."""

    sites: dict[tuple[str, int | None], Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """Main outputs by path, of modules that are no sites."""
    inputs: dict[str, Tensor] = field(default_factory=dict)
    missing: str = ""
    """Why the inside of attention could not be seen; "" where it could."""

    def all(self, name: str) -> list[Tensor]:
        """A site's values, layer by layer."""
        return [
            value for (site, _), value in sorted(self.sites.items(), key=lambda item: item[0][1] or 0) if site == name
        ]


def read(
    module: nn.Module, adapter: Adapter, facts: ModelFacts, inputs: Mapping[str, Any] | tuple[Tensor, ...]
) -> Seen:
    """Run the model once and keep every site of `adapter`, and of its encoder. Attention runs its eager path."""
    seen, rows = Seen(), len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs[0])
    with hooks() as registered, torch.inference_mode(), ExitStack() as stack:
        visits: dict[nn.Module, dict[str, Callable[[Tensor], None]]] = {}
        for name, layer, path in _paths(adapter, facts):
            keep = partial(_keep, seen, (name, layer), path.steps, rows)
            part = module.get_submodule(path.path)
            if path.kind in ATTENTION_KINDS:
                visits.setdefault(part, {})[path.kind] = keep
            elif path.kind == "output":
                registered.after(part, keep)
            elif path.kind == "inputs":
                registered.before(part, lambda args, kwargs, keep=keep: keep((args, kwargs)))  # type: ignore[misc]
        for one in filter(None, (adapter, adapter.encoder)):
            _watch_more(registered, module, one, facts, seen)
        try:
            taps = {attention: _taps(kinds) for attention, kinds in visits.items()}
            stack.enter_context(tapped(module, taps, eager=True))
        except SiteError as error:
            seen.missing = str(error)
        _run(module, inputs, seen)
    _require_all(seen, adapter, facts)
    return seen


def _run(module: nn.Module, inputs: Mapping[str, Any] | tuple[Tensor, ...], seen: Seen) -> None:
    try:
        _ = module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)
    except Exception as error:
        kind = getattr(getattr(module, "config", None), "_attn_implementation", None)
        if seen.missing and kind not in (None, "eager", "sdpa"):
            raise SiteError(f"its {kind} attention cannot run here ({type(error).__name__}: {error})") from error
        raise


def _require_all(seen: Seen, adapter: Adapter, facts: ModelFacts) -> None:
    for name, layer, path in _paths(adapter, facts):
        computed = path.kind == "head_out" or (seen.missing and path.kind in ATTENTION_KINDS)
        if (name, layer) not in seen.sites and not computed:
            raise SiteError(f"the forward never reached {name} of layer {layer} at {path.path}.{path.kind}")


def _paths(adapter: Adapter, facts: ModelFacts) -> list[tuple[str, int | None, SitePath]]:
    found: list[tuple[str, int | None, SitePath]] = []
    for name in adapter.all_sites:
        if name.removeprefix("encoder_") in GLOBAL_SITES:
            found.append((name, None, adapter.site(name, None, facts)))
            continue
        layers = range(adapter.layers_of(name, facts))
        found += [(name, layer, adapter.site(name, layer, facts)) for layer in layers]
    return found


def _watch_more(registered: Hooks, module: nn.Module, adapter: Adapter, facts: ModelFacts, seen: Seen) -> None:
    def keep_output(path: str, output: Any) -> None:
        seen.outputs[path] = main_output(output).clone()

    def keep_input(path: str, args: Any, kwargs: Any) -> None:
        seen.inputs[path] = (args[0] if args else kwargs["hidden_states"]).clone()

    paths = [*adapter.embeddings, adapter.unembed]
    if "z" in adapter.sites:
        paths += [f"{adapter.blocks}.{layer}.{adapter.attn}" for layer in range(facts.n_layers)]
    for path in filter(None, paths):
        registered.after(module.get_submodule(path), partial(keep_output, path))
    if adapter.final_norm:
        registered.before(module.get_submodule(adapter.final_norm), partial(keep_input, adapter.final_norm))


def _taps(kinds: Mapping[str, Callable[[Tensor], None]]) -> Taps:
    def visit(kind: str, value: Tensor) -> Tensor:
        if kind in kinds:
            kinds[kind](value)
        return value

    return Taps(visit, reads=frozenset(kinds), writes=frozenset())


def _keep(seen: Seen, key: tuple[str, int | None], steps: tuple[Step, ...], rows: int, value: Any) -> None:
    value = follow(value, steps, rows)
    # Some blocks change what a module returned afterwards (Falcon adds attention's output to the MLP's).
    seen.sites[key] = value.clone()


def follow(value: Any, steps: tuple[Step, ...], rows: int) -> Any:
    """The part of a module's output (or of its `(args, kwargs)`) that the steps of a site lead to; `rows` a batch."""
    for step in steps:
        value = _step(value, step, rows)
    return value


def _step(value: Any, step: Step, rows: int) -> Any:
    kind = step[0]
    if kind == "first":
        args, kwargs = value
        return args[0] if args else first_argument(args, kwargs)
    if kind == "main":
        return main_output(value)
    if kind == "logits":
        return getattr(value, "logits", value)
    if kind == "rows":
        return value.unflatten(0, (rows, -1))
    if kind == "index":
        return value[step[1]]
    if kind == "view":
        return getattr(torch, step[1])(value, *step[2])
    return get_heads(value, step)
