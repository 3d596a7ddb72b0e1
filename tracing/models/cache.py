"""`tracer.cache(...)`: the outputs (and inputs) of many modules, saved at once.

with model.trace(prompt) as tracer:
    cache = tracer.cache(modules=[model.transformer.h[0], "transformer.h.1.mlp"])
cache["transformer.h.0"].output, cache.transformer.h[0].output
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from tracing.errors import NotCachedError, RecordError, SiteError
from tracing.graph.hidden import HiddenState
from tracing.graph.lens import get
from tracing.graph.lines import user_line
from tracing.graph.proxy import Proxy
from tracing.graph.recorder import Base, Recorder
from tracing.models.envoy import Envoy

if TYPE_CHECKING:
    from tracing.models.base import Model


@dataclass(frozen=True, slots=True)
class Entry:
    """What one module was given and gave back."""

    _proxies: tuple[Proxy, Proxy | None]

    @property
    def output(self) -> Any:
        """The hidden state of a residual block, the logits of the model, else what the module returned.

        As in the trace, `output[0]` of a residual block is the whole hidden state.
        """
        value = self._proxies[0].value
        return HiddenState.of(value) if self._proxies[0]._steps == _MAIN else value

    @property
    def inputs(self) -> Any:
        """`(positional, keyword)`. Raises `SiteError` where inputs were not asked for."""
        if self._proxies[1] is None:
            raise SiteError("The cache has no inputs.", remedy="Ask for them: tracer.cache(include_inputs=True).")
        return self._proxies[1].value

    @property
    def input(self) -> Any:
        """The first argument; in a cache of several steps, that of each."""
        given = self.inputs
        return [get(one, _FIRST) for one in given] if isinstance(given, list) else get(given, _FIRST)

    def __repr__(self) -> str:
        return f"Entry(output: {_shapes(self._proxies[0].value)}, {'with' if self._proxies[1] else 'without'} inputs)"


_FIRST: Final = (("first",),)
_MAIN: Final = (("main",),)
"""The way from what a residual block returns to its hidden state."""

Proxies = dict[str, tuple[Proxy, Proxy | None]]


class Cache(Mapping[str, Entry]):
    """Saved values by module path; attributes and indices lead down the tree as they do on the model.

    After the trace it holds the modules that the forward called.
    """

    def __init__(self, proxies: Proxies, prefix: str = "") -> None:
        self._all = proxies
        self._prefix = prefix

    @property
    def _proxies(self) -> Proxies:
        return {path: pair for path, pair in self._all.items() if pair[0]._resolved() and _came(pair[0].value)}

    def __getitem__(self, key: str) -> Entry:
        path = key if key in self._all else key.removeprefix("model.")
        if path not in self._proxies:
            raise self._missing(key)
        return Entry(self._all[path])

    def at(self, index: int) -> "Cache":
        """The part below an index."""
        return self._below(self._join(str(index)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ("output", "input", "inputs") and self._prefix in self._proxies:
            return getattr(Entry(self._all[self._prefix]), name)
        return self._below(self._join(name))

    def _join(self, name: str) -> str:
        return f"{self._prefix}.{name}" if self._prefix else name

    def _below(self, path: str) -> "CacheNode":
        if not any(known == path or known.startswith(path + ".") for known in self._proxies):
            raise self._missing(path)
        return CacheNode(self._all, path)

    def _missing(self, path: str) -> NotCachedError:
        held = ", ".join([one or "the model" for one in self][:6])
        return NotCachedError(
            f"The cache holds nothing of {path!r}.",
            remedy=f"It holds {held}…; choose modules with tracer.cache(modules=[...]).",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._proxies)

    def __len__(self) -> int:
        return len(self._proxies)

    def __repr__(self) -> str:
        below = f"{self._prefix}." if self._prefix else ""
        found = [path or "the model" for path in self if path == self._prefix or path.startswith(below)]
        if not found:
            return "Cache(nothing yet: it is filled when its trace ends)"
        return f"{type(self).__name__}({len(found)} modules: {', '.join(found[:8])}{', …' if found[8:] else ''})"


class CacheNode(Cache):
    """One place in the tree, `cache.transformer.h`; `[0]` leads further."""

    def __getitem__(self, key: str | int) -> Any:
        return self._below(self._join(str(key)))


def cached(
    model: "Model",
    recorder: Recorder,
    modules: Iterable[Envoy | str] | None,
    *,
    device: Any,
    dtype: torch.dtype | None,
    include_inputs: bool,
) -> Cache:
    """Record saves of the modules' values; by default of all modules, as far as the forward calls them.

    They are recorded at the end of the prompt's block, so that the cache holds what the block's writes made of them.
    Raises `RecordError` where it is not said of which prompt, or of which step of a generation.
    """
    _refuse_unplaced(recorder)
    chosen = [_envoy(model, module) for module in modules] if modules is not None else _callable(model)
    proxies: Proxies = {}
    step, shifts = recorder.step, dict(recorder.shifts)

    def record() -> None:
        before = recorder.step, recorder.shifts
        recorder.step, recorder.shifts = step, shifts
        for envoy in chosen:
            output = envoy.output if modules is not None else _if_called(model, recorder, envoy, "output")
            inputs = None
            if include_inputs:
                inputs = envoy.inputs if modules is not None else _if_called(model, recorder, envoy, "inputs")
            for proxy in (output, inputs):
                if proxy is not None:
                    recorder.keep_as(proxy.save()._proxy, device, dtype)
            proxies[envoy.path] = output, inputs
        recorder.step, recorder.shifts = before

    recorder.at_end.append(record)
    return Cache(proxies)


def _shapes(value: Any) -> str:
    """What a value is, in a few characters."""
    if isinstance(value, torch.Tensor):
        return str(list(value.shape))
    if isinstance(value, list):
        return f"{len(value)} steps"
    return type(value).__name__


def _came(value: Any) -> bool:
    """Whether there is a value: what no step of a loop called is a list of none."""
    return not isinstance(value, list) or bool(value)


def _refuse_unplaced(recorder: Recorder) -> None:
    if recorder.stage is None or recorder.invoke is None:
        raise RecordError(
            f"tracer.cache was called outside of a prompt's block (at {user_line()}), so it is not clear whose values "
            "it is to hold.",
            remedy="Call it in `with tracer.invoke(prompt):` for that prompt's, in `with tracer.invoke():` for those "
            "of the whole batch.",
        )
    if recorder.stage.mode == "generate" and not (recorder.stepping or recorder.step):
        raise RecordError(
            f"In a generation each step has values of its own, and tracer.cache was called outside of any step (at "
            f"{user_line()}).",
            remedy="In `for step in tracer.iter[:]:` there is one cache a step; in `with tracer.iter[:]:` one cache "
            "holds a list of every value.",
        )


def _if_called(model: "Model", recorder: Recorder, envoy: Envoy, kind: str) -> Proxy:
    base: Base = recorder.site(envoy.path, kind, optional=True)
    if kind == "inputs":
        return Proxy(base)
    return Proxy(base, _MAIN if model.is_block(envoy.path) else () if envoy.path else (("logits",),))


def _envoy(model: "Model", module: Envoy | str) -> Envoy:
    if isinstance(module, Envoy):
        return module
    first = module.split(".", 1)[0]
    known: Envoy = model.get(module if first in model.module._modules else module.removeprefix("model."))
    return known


def _callable(model: "Model") -> list[Envoy]:
    """Every module but containers, which are never called."""
    return [envoy for envoy in model.modules() if not isinstance(envoy._module, (nn.ModuleList, nn.ModuleDict))]
