"""In which order a forward passes the inputs and outputs of its modules, found by running it once on fake tensors.

1. The model is called under `FakeTensorMode`: shapes without numbers, without memory, in this thread only. Hooks on
   all its modules note every pass of a place, and what passes it: the order, and the shapes that `scan` shows.
2. Where the forward looks at numbers (the routing of a mixture of experts), there are none on fake tensors. Then the
   first prompt runs for real, and what was found is known to hold for inputs like it only (`Order.certain`).
3. The order is kept with the model, by the kind of input: names, types and axes, not sizes or numbers. Those may still
   decide in some models, so nothing is refused by a kept order: the model is asked again with the input at hand.
"""

import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tracing.engines.attention import KINDS, Taps, tapped
from tracing.engines.fakes import as_fake, counts_kept, fake_mode, numberless, unchanged
from tracing.graph.nodes import Stage

Moment = tuple[str, str, int]
"""Module path, kind of site, and which call of the module."""

_KEPT_ORDERS = 64


@dataclass(frozen=True, slots=True)
class Order:
    """When one forward passes each place."""

    moments: Mapping[Moment, int]
    certain: bool
    """Whether it holds for every input of its kind; not where the forward chooses its way by numbers."""


@dataclass(frozen=True, slots=True)
class Insides:
    """What to watch besides the inputs and outputs of all modules."""

    taps: frozenset[tuple[str, str]] = frozenset()
    """Places inside attention, as (path, kind)."""
    eager: bool = False
    """Whether attention runs its eager path, because a place is named that only that passes."""


NOTHING_INSIDE = Insides()


@dataclass(slots=True)
class Passage:
    """One forward that was watched: every place it passed in order, with the value there if values are kept."""

    keep: bool = False
    values: dict[Moment, Any] = field(default_factory=dict)
    calls: dict[tuple[str, str], int] = field(default_factory=dict)

    open: list[str] = field(default_factory=list)
    """Modules that have been entered and not been left."""

    def note(self, path: str, kind: str, value: Any) -> None:
        """The forward passes a place."""
        if kind == "inputs":
            self.open.append(path)
        elif kind == "output":
            self.open.pop()
        call = self.calls.get((path, kind), 0)
        self.calls[path, kind] = call + 1
        self.values[path, kind, call] = value if self.keep else None

    def entered(self) -> str:
        """The innermost module that the forward is in, or was when it failed."""
        return self.open[-1] if self.open else ""


class _Kept:
    """What is known of one model. The lock makes threads wait for one probe instead of each starting its own."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.orders: dict[Any, Order] = {}


_orders: "weakref.WeakKeyDictionary[Any, _Kept]" = weakref.WeakKeyDictionary()
_orders_lock = threading.Lock()


def order_of(
    model: Any, stage: Stage, inputs: Any, places: Collection[Moment], *, eager: bool = False, anew: bool = False
) -> tuple[Order, bool]:
    """The order of a stage's forward, and whether it was found with these inputs, not with others of their kind.

    `places` are those that matter; those inside attention are tapped in the probe. With `anew` nothing that is kept is
    used: inputs of one kind may take other ways by their sizes or numbers. Raises what the model raises.
    """
    with _orders_lock:
        kept = _orders.setdefault(model.origin, _Kept())
    insides = Insides(frozenset((path, kind) for path, kind, _ in places if kind in KINDS), eager)
    key = (stage.mode, model.module.training, insides, _kind(inputs), _kind(stage.options))
    with kept.lock:
        order = None if anew else kept.orders.get(key)
        if order is not None and (order.certain or order.moments.keys() >= set(places)):
            return order, False
        order = probe(model, stage, inputs, insides)
        if key not in kept.orders and len(kept.orders) >= _KEPT_ORDERS:
            kept.orders.pop(next(iter(kept.orders)))
        kept.orders[key] = order
        return order, True


def _kind(value: Any) -> Any:
    """What of an input may change the way of a forward: structure, types and axes; numbers that are no data."""
    if isinstance(value, Tensor):
        return Tensor, value.dtype, value.dim()
    if isinstance(value, (tuple, list)):
        return tuple, *dict.fromkeys(map(_kind, value))
    if isinstance(value, Mapping):
        return tuple((name, _kind(value[name])) for name in sorted(value, key=str))
    if hasattr(value, "args") and hasattr(value, "kwargs"):
        return tuple(map(_kind, value.args)), _kind(value.kwargs)
    return value if isinstance(value, (bool, type(None))) else type(value)


# -- probes -----------------------------------------------------------------------------------------------------------
def probe(model: Any, stage: Stage, inputs: Any, insides: Insides = NOTHING_INSIDE) -> Order:
    """Run the model once to see in which order it passes its places: on fake tensors, or else for real."""
    generating = stage.mode == "generate"
    batch = model.batch([inputs], generating=generating)
    if generating and getattr(getattr(model.module, "config", None), "is_encoder_decoder", False):
        # The encoder of a generation runs before the model is called at all.
        return _real(model, insides, lambda: model.generate_ids(*batch.args, **{**batch.kwargs, "max_new_tokens": 1}))
    options = {} if generating else stage.options
    if any(getattr(getattr(part, "_hf_hook", None), "offload", False) for part in model.module.modules()):
        # accelerate brings weights for the time of a forward, and on fake tensors would bring fake ones.
        return _real(model, insides, lambda: model.call(*batch.args, **{**batch.kwargs, **options}))
    passage = Passage()
    try:
        fake_forward(model, batch.args, {**batch.kwargs, **options}, passage, insides)
    except Exception:  # noqa: BLE001 (whatever a forward raises without numbers, it may not raise with them)
        return _real(model, insides, lambda: model.call(*batch.args, **{**batch.kwargs, **options}))
    return _order(passage, certain=True)


def _real(model: Any, insides: Insides, forward: Callable[[], Any]) -> Order:
    passage = Passage()
    with (
        torch.inference_mode(),
        _same_randomness(model),
        counts_kept(model.module),
        watched(model.module, passage, insides),
    ):
        forward()
    return _order(passage, certain=False)


def _order(passage: Passage, *, certain: bool) -> Order:
    return Order({moment: number for number, moment in enumerate(passage.values)}, certain)


def fake_forward(
    model: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    passage: Passage,
    insides: Insides = NOTHING_INSIDE,
    mode: FakeTensorMode | None = None,
) -> Any:
    """The model's output on fake tensors; `passage` gets what passes. Raises what the forward raises."""
    mode = mode or fake_mode()
    with (
        torch.no_grad(),
        counts_kept(model.module),
        numberless(mode),
        unchanged(model.module),
        watched(model.module, passage, insides),
    ):
        fake = as_fake(mode, (args, dict(kwargs)), model.device)
        return model.call(*fake[0], **fake[1])


def first_call(model: Any, stage: Stage, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a stage's forward, or of the first call of the model in a generation; `batch` is one forward's."""
    if stage.mode == "forward":
        return batch.args, {**batch.kwargs, **stage.options}
    kwargs = {name: value for name, value in batch.kwargs.items() if name != "use_cache"}
    accepted = model.option_names("forward")
    if accepted is not None and "logits_to_keep" in accepted:  # transformers' generate asks for the last ones only
        kwargs["logits_to_keep"] = 1
    return batch.args, kwargs


@contextmanager
def watched(
    module: nn.Module, passage: Passage, insides: Insides = NOTHING_INSIDE, *, prefix: str = ""
) -> Iterator[None]:
    """Note what this thread's forward passes: all modules' inputs and outputs, and what is asked for inside."""
    me = threading.get_ident()
    kinds: dict[str, set[str]] = {}
    for path, kind in insides.taps:
        kinds.setdefault(path, set()).add(kind)
    handles: list[Any] = []
    with ExitStack() as stack:
        stack.callback(lambda: [handle.remove() for handle in handles])
        for path, submodule in module.named_modules(prefix=prefix):
            handles.append(submodule.register_forward_pre_hook(_entering(passage, path, me), with_kwargs=True))
            handles.append(submodule.register_forward_hook(_leaving(passage, path, me)))
        if kinds or insides.eager:
            by_module = {
                module.get_submodule(path): Taps(_tap(passage, path, wanted), frozenset(wanted), frozenset())
                for path, wanted in kinds.items()
            }
            stack.enter_context(tapped(module, by_module, eager=insides.eager))
        yield


def _entering(passage: Passage, path: str, me: int) -> Callable[..., None]:
    def hook(module: Any, args: Any, kwargs: Any = None) -> None:
        if threading.get_ident() == me:
            passage.note(path, "inputs", (args, kwargs or {}))

    return hook


def _leaving(passage: Passage, path: str, me: int) -> Callable[..., None]:
    def hook(module: Any, *arguments: Any) -> None:
        if threading.get_ident() == me:
            passage.note(path, "output", arguments[-1])

    return hook


def _tap(passage: Passage, path: str, wanted: Collection[str]) -> Callable[[str, Tensor], Tensor]:
    def visit(kind: str, tensor: Tensor) -> Tensor:
        if kind in wanted:
            passage.note(path, kind, tensor)
        return tensor

    return visit


@contextmanager
def _same_randomness(model: Any) -> Iterator[None]:
    """A probe in training mode draws no random numbers from the run."""
    if not model.module.training:
        yield
        return
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        yield
