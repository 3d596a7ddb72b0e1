"""`model.sites`: the standard sites, under the same names on every architecture.

model.sites.resid_post[5]          [batch, position, d_model]
model.sites.z[9][:, :, 6]          [batch, position, d_head]
model.sites.pattern[3]             [batch, head, query, key]
model.sites.embed, model.sites.logits
"""

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Never

import torch
from torch import nn

from tracing.errors import PathError, RecordError, SiteError
from tracing.graph.arguments import is_proxy
from tracing.graph.lines import user_line
from tracing.graph.proxy import Proxy
from tracing.graph.proxy_kinds import ReadOnly
from tracing.graph.recorder import Base

if TYPE_CHECKING:
    from tracing.families import SitePath
    from tracing.models.language import LanguageModel


class Sites:
    """The standard sites of one model; `dir(model.sites)` lists them."""

    __slots__ = ("_model",)

    def __init__(self, model: "LanguageModel") -> None:
        object.__setattr__(self, "_model", model)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        layers = self._layers_of(name)
        if layers:
            return LayerSites(self._model, name, layers)
        return site_proxy(self._model, name, None)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, _name(name))

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, _name(name), value)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._layers_of(name):
            raise SiteError(
                f"sites.{name} has one value a layer (at {user_line()}).", remedy=f"Write sites.{name}[layer] = value."
            )
        write_site(self._model, name, None, value)

    def _layers_of(self, name: str) -> int:
        """How many layers a site has, 0 for one without. An unknown name is for `site_proxy` to refuse."""
        adapter = self._model.adapter
        return adapter.layers_of(name, self._model.facts) if name in adapter.all_sites else 0

    def __dir__(self) -> list[str]:
        return list(self._model.adapter.all_sites)

    def __repr__(self) -> str:
        return f"Sites({', '.join(self._model.adapter.all_sites)})"


class LayerSites:
    """One standard site in every layer: `[layer]`, `[first:last]` as a list, and a loop over all of them."""

    __slots__ = ("_layers", "_model", "_name")

    def __init__(self, model: "LanguageModel", name: str, layers: int) -> None:
        self._model = model
        self._name = name
        self._layers = layers

    def __getitem__(self, layer: int | slice) -> Any:
        if isinstance(layer, slice):
            return [self[one] for one in range(self._layers)[layer]]
        return site_proxy(self._model, self._name, _whole(layer, self._name))

    def __setitem__(self, layer: int | slice, value: Any) -> None:
        write_site(self._model, self._name, _whole(layer, self._name), value)

    def __len__(self) -> int:
        return self._layers

    def __iter__(self) -> Iterator[Any]:
        return (self[layer] for layer in range(self._layers))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise PathError(
            f"sites.{self._name} has one value a layer, and no layer was given (at {user_line()}).",
            remedy=f"Give one: sites.{self._name}[layer].{name}.",
        )

    def _no_layer(self, *_: object) -> Never:
        raise RecordError(
            f"sites.{self._name} has one value a layer, so it is no value to compute with (at {user_line()}).",
            remedy=f"Give a layer: sites.{self._name}[layer].",
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _no_layer
    __matmul__ = __rmatmul__ = __pow__ = __neg__ = __abs__ = __lt__ = __le__ = __gt__ = __ge__ = _no_layer

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Never:
        found = next((one for one in (*args, *(kwargs or {}).values()) if isinstance(one, LayerSites)), None)
        if found is None:  # in a list of an argument
            raise RecordError(
                f"A standard site without its layer was given to torch (at {user_line()}).",
                remedy="Give a layer: sites.name[layer].",
            )
        found._no_layer()

    def __repr__(self) -> str:
        return f"<site {self._name}, one value a layer>"


def _name(key: Any) -> str:
    """The name of a standard site. Raises `SiteError` for a key that is none."""
    if isinstance(key, str):
        return key
    raise SiteError(f"sites[{key!r}] is no site (at {user_line()}).", remedy="Give its name first: sites.name[layer].")


def _whole(layer: Any, name: str) -> int:
    """The number of a layer. Raises `SiteError` for anything else."""
    try:
        return operator.index(layer)
    except TypeError:
        raise SiteError(
            f"sites.{name}[{layer!r}] is not one layer (at {user_line()}).",
            remedy=f"Give a whole number; `for h in model.sites.{name}` goes through all layers.",
        ) from None


def site_proxy(model: "LanguageModel", name: str, layer: int | None) -> Proxy:
    """The proxy of a standard site."""
    try:
        site = model.adapter.site(name, layer, model.facts)
    except SiteError as error:
        # An AttributeError too where there is no such site, so that hasattr(model.sites, name) works.
        kind = SiteError if name in model.adapter.all_sites else PathError
        first, _, rest = error.message.partition(". ")
        first, rest = first.removesuffix("."), rest and f" {rest}"
        raise kind(f"{first} (at {user_line()}).{rest}", remedy=error.remedy, where=error.where) from None
    if site.kind == "head_out":
        return _guarded(_head_out(model, site), site, name)
    base = model._recorder(name).site(site.path, site.kind, in_place=site.in_place)
    return _guarded(Proxy(base, site.steps), site, name)


def _head_out(model: "LanguageModel", site: "SitePath") -> Proxy:
    """What each head writes: z · W_O, head by head, without the bias. `[batch, position, head, d_model]`"""
    recorder = model._recorder("head_out")
    z = Proxy(recorder.site(site.path, "inputs"), (("first",), *site.steps))
    weight = Proxy(Base(recorder, recorder.add("parameter", (f"{site.path}.weight",))))
    if isinstance(model.submodule(site.path), nn.Linear):
        weight = weight.T  # a Conv1D keeps [in, out]
    found: Proxy = torch.einsum("bphd,hdm->bphm", z, weight.unflatten(0, (-1, model.facts.d_head)))  # type: ignore[assignment]
    return found


def _guarded(proxy: Proxy, site: "SitePath", name: str) -> Proxy:
    """The proxy, which refuses writes where the site does."""
    return ReadOnly.of(proxy, f"sites.{name} cannot be written: {site.read_only}") if site.read_only else proxy


def write_site(model: "LanguageModel", name: str, layer: int | None, value: Any) -> None:
    """Give a standard site another value."""
    proxy = site_proxy(model, name, layer)
    if is_proxy(value) and value._base is proxy._base and value._steps == proxy._steps:
        return  # `sites.z[5] += x` assigns what it has just written
    proxy._write(proxy._steps, value)
