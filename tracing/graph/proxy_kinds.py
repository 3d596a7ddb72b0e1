"""Proxies of places that have rules of their own: residual blocks, first arguments, the model's output."""

from typing import Any

from tracing.errors import RecordError, SiteError
from tracing.graph.arguments import plain_index
from tracing.graph.lines import user_line
from tracing.graph.proxy import FIELDS, Proxy


class BlockOutput(Proxy):
    """The output of a residual block: the whole hidden state, `[batch, position, d_model]`, on every version.

    Blocks used to return tuples, so `output[0]` is the hidden state too; any other single number is an error.
    """

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if self._base.recorder.open:
            key = _number(key)
            if type(key) is int:
                _only_zero(key)
                return Proxy(self._base, self._steps)
            if type(key) is slice and _is_rest(key):
                return Rest(self._base, (*self._steps, ("index", key)))
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._base.recorder.open:
            key = _number(key)
            if type(key) is int:
                _only_zero(key)
                self._write(self._steps, value)
                return
        super().__setitem__(key, value)


class Rest(Proxy):
    """`block.output[1:]`: all rows but the first, or, in `(hidden,) + block.output[1:]`, what a tuple had besides."""

    __slots__ = ()

    def __radd__(self, other: Any) -> Any:
        # Assigned to a block, a tuple is its first item; what else the block returns stays as it is.
        return other if type(other) is tuple else super().__radd__(other)  # type: ignore[misc]


def _number(key: Any) -> Any:
    """An index with NumPy's and torch's whole numbers as Python's, which the rules of this file are about."""
    return key if type(key) in _USUAL else plain_index(key)


_USUAL = frozenset({int, slice, tuple})


def block_index(key: Any) -> Any:
    """The index of a block's hidden state that `block.output[key]` means. Raises `RecordError` as that does."""
    key = _number(key)
    if type(key) is not int:
        return key
    _only_zero(key)
    return slice(None)


def _is_rest(key: slice) -> bool:
    """Whether a slice is `1:`; its bounds may be proxies, which have no truth value."""
    return type(key.start) is int and key.start == 1 and key.stop is None and key.step is None


def _only_zero(key: int) -> None:
    if key != 0:
        raise RecordError(
            f"block.output[{key}] does not exist (at {user_line()}): a residual block gives its hidden state only, "
            "which is both block.output and block.output[0].",
            remedy=f"For row {key} of the batch write block.output[{key}:{key + 1}] or block.output[0][{key}]."
            if key > 0
            else f"For a row of the batch write block.output[0][{key}].",
        )


class FirstInput(Proxy):
    """A module's first argument. `input[0]` is the tuple of its positional arguments, as in `input[0][0]`."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        if self._base.recorder.open:
            key = _number(key)
            if type(key) is int:
                self._only_zero(key)
                return Proxy(self._base, (("args",),))
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._base.recorder.open:
            key = _number(key)
            if type(key) is int:
                self._only_zero(key)
                if type(value) not in (tuple, list):
                    raise RecordError(
                        f"module.input[0] is the tuple of positional arguments (at {user_line()}), so it cannot be "
                        "set to one value.",
                        remedy="Write module.input = value, module.input[0:1] = value for a row, or give a tuple.",
                    )
                self._write((("args",),), value)
                return
        super().__setitem__(key, value)

    def _only_zero(self, key: int) -> None:
        if key != 0:
            raise RecordError(
                f"module.input[{key}] has no meaning (at {user_line()}): input is the first argument, input[0] the "
                "positional arguments.",
                remedy=f"Write module.inputs[{key}] of (args, kwargs), or module.input[{key}:{key + 1}] for a row.",
            )


class RootOutput(Proxy):
    """The output of the whole model: its logits, with the other fields of the output as attributes."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if self._base.recorder.open and name in FIELDS:
            if name in _CACHES:
                self._ask_for_cache()
            return Proxy(self._base, self._steps if name == "logits" else (("field", name),))
        return super().__getattr__(name)

    def _ask_for_cache(self) -> None:
        """A forward makes no cache of keys and values unless it is asked to."""
        recorder, site = self._base.recorder, self._base.site
        stage = None if site is None else recorder.graph.stages[site.stage]
        if stage is None or stage.mode != "forward":
            return
        if "use_cache" in (recorder.model.option_names("forward") or ()):
            stage.options.setdefault("use_cache", True)


_CACHES = frozenset({"past_key_values", "cache_params"})


class ReadOnly(Proxy):
    """A value that cannot be written, and says why."""

    __slots__ = ("_why",)

    @classmethod
    def of(cls, proxy: Proxy, why: str) -> Proxy:
        """The same value, without writing."""
        made = cls(proxy._base, proxy._steps)
        object.__setattr__(made, "_why", why)
        return made

    def _part(self, step: tuple[Any, ...]) -> Proxy:
        return ReadOnly.of(super()._part(step), self._why)

    def _write(self, steps: Any, value: Any) -> None:
        raise SiteError(f"{self._why} (at {user_line()}).")
