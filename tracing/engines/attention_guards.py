"""What stands on a module while it is tapped, and what the calling thread taps.

Two kinds of instance attributes are put in place, counted, and taken away with the last context that needs them:
- `ConfigView` in place of `module.config`: the same configuration, but the tapping thread reads another name of the
  attention implementation there;
- `MethodGuard` in place of a method: the tapping thread's calls go to a function of ours, all others to the original.
Other threads may be inside the module's forward while this happens: whichever they read, they get the original.
"""

import copy
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class Active:
    """What one thread taps now: modules with their taps (of `attention.Taps`), and the modules that it runs eager."""

    taps: dict[nn.Module, Any]
    eager: frozenset[nn.Module]


class State(threading.local):
    """`active`: what this thread taps. `inner`: the module whose own implementation it is running, untapped."""

    active: Active | None = None
    inner: nn.Module | None = None


state = State()


def is_tapped(module: nn.Module) -> bool:
    """Whether this thread taps `module`, and is not inside its own implementation."""
    active = state.active
    return active is not None and state.inner is not module and (module in active.taps or module in active.eager)


class ConfigView:
    """A module's configuration, in which the thread that taps the module reads `name` for the attention implementation.

    A copy or a pickle of a view is one of the configuration itself.
    """

    __slots__ = ("__weakref__", "_view_config", "_view_module", "_view_name")

    _view_config: Any
    _view_module: nn.Module
    _view_name: str

    def __init__(self, config: Any, module: nn.Module, name: str) -> None:
        object.__setattr__(self, "_view_config", config)
        object.__setattr__(self, "_view_module", module)
        object.__setattr__(self, "_view_name", name)

    @property
    def _attn_implementation(self) -> Any:
        return self._view_name if is_tapped(self._view_module) else self._view_config._attn_implementation

    def __getattribute__(self, name: str) -> Any:
        # `__class__` too, so that isinstance() sees the class of the configuration.
        if name in ("_attn_implementation", "__deepcopy__", "__reduce_ex__") or name.startswith("_view_"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "_view_config"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._view_config, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._view_config, name)

    def __eq__(self, other: object) -> bool:
        return bool(self._view_config == real_config(other))

    __hash__ = None  # type: ignore[assignment]  # like the configuration

    def __repr__(self) -> str:
        return repr(self._view_config)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._view_config, memo)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return real_config, (self._view_config,)


def real_config(config: Any) -> Any:
    """The configuration behind a view; anything else as it is."""
    return config._view_config if type(config) is ConfigView else config


class MethodGuard:
    """A method of one module: calls `run(module, original, args, kwargs)` in the thread that taps the module.

    A deep copy is the method of the copied module, so that the copy does not call the module it was copied from.
    """

    def __init__(self, module: nn.Module, name: str, run: Callable[..., Any]) -> None:
        # `own` is what somebody else had put on the instance (accelerate does), None if the class's method ran.
        self.module, self.name, self.run, self.own = module, name, run, module.__dict__.get(name)

    @property
    def original(self) -> Callable[..., Any]:
        method: Callable[..., Any] = self.own or getattr(type(self.module), self.name).__get__(self.module)
        return method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_tapped(self.module):
            return self.run(self.module, self.original, args, kwargs)
        return self.original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self.own is not None:
            return copy.deepcopy(self.own, memo)
        twin = copy.deepcopy(self.module, memo)
        return getattr(type(twin), self.name).__get__(twin)


class _Standing:
    """One attribute in place: what stands there, what stood there, and how many contexts need it."""

    __slots__ = ("before", "count", "guard", "module")

    def __init__(self, module: nn.Module, guard: Any, before: Any) -> None:
        self.module, self.guard, self.before, self.count = module, guard, before, 0


_MISSING = object()
_standing: dict[tuple[int, str], _Standing] = {}
_lock = threading.Lock()


def put(wanted: Iterable[tuple[nn.Module, str, Callable[[nn.Module], Any]]]) -> list[tuple[int, str]]:
    """Puts `make(module)` in place of each attribute, or counts one more user. Returns keys for `take_away`."""
    keys = []
    with _lock:
        for module, attribute, make in wanted:
            key = (id(module), attribute)
            if key not in _standing:
                guard, before = make(module), module.__dict__.get(attribute, _MISSING)
                _standing[key] = _Standing(module, guard, before)
                module.__dict__[attribute] = guard
            _standing[key].count += 1
            keys.append(key)
    return keys


def take_away(keys: Iterable[tuple[int, str]]) -> None:
    """Counts one user less of each key, and restores what stood there with the last one."""
    with _lock:
        for key in keys:
            standing = _standing[key]
            standing.count -= 1
            if standing.count:
                continue
            del _standing[key]
            attributes = standing.module.__dict__
            if attributes.get(key[1]) is not standing.guard:
                continue  # somebody has put something else there meanwhile: it stays
            if standing.before is _MISSING:
                del attributes[key[1]]
            else:
                attributes[key[1]] = standing.before
