"""Control flow that becomes part of a program: generation steps, conditions, growing lists."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Never

from tracing.errors import RecordError
from tracing.graph.lines import user_line
from tracing.graph.nodes import Guard, Loop, Node
from tracing.graph.proxy import Proxy
from tracing.graph.recorder import Recorder


class Steps:
    """`tracer.iter`: index it, then loop over it or open it.

    `for step in tracer.iter[0:3]:` runs the body three times while recording, and `step` is a number.
    `with tracer.iter[0:3]:` records the body once and runs it at each step; a value saved in it becomes a list.
    """

    def __init__(
        self, recorder: Recorder, known: int | None, chosen: tuple[int, ...] | None, *, lasting: bool = True
    ) -> None:
        self._recorder = recorder
        self._known = known
        self._chosen = chosen
        self._lasting = lasting
        """Whether the steps go on for as long as the text does, so that some may not come."""

    def __getitem__(self, steps: int | slice | Sequence[int]) -> "Steps":
        lasting = isinstance(steps, slice) and steps.stop is None
        return Steps(self._recorder, self._known, self._numbers(steps), lasting=lasting)

    def __repr__(self) -> str:
        if self._chosen is None:
            return "<generation steps: choose some, tracer.iter[a:b]>"
        return f"<generation steps {', '.join(map(str, self._chosen)) or 'none'}>"

    def _numbers(self, steps: int | slice | Sequence[int]) -> tuple[int, ...]:
        if isinstance(steps, slice):
            self._require_within(steps)
            if self._known is None and (steps.stop is None or steps.stop < 0):
                raise RecordError(
                    f"How many steps the generation takes is not known here (at {user_line()}).",
                    remedy="Give max_new_tokens to model.generate, or an end to tracer.iter[0:n].",
                )
            return tuple(range(*steps.indices(self._known if self._known is not None else steps.stop)))
        numbers = (steps,) if isinstance(steps, int) else tuple(steps)
        for number in numbers:
            if number < 0 or (self._known is not None and number >= self._known):
                raise RecordError(
                    f"There is no generation step {number} (at {user_line()}).",
                    remedy=f"With max_new_tokens={self._known} there are steps 0 to {(self._known or 1) - 1}.",
                )
        return numbers

    def _require_within(self, steps: slice) -> None:
        """Raises `RecordError` for a slice that begins or ends beyond the last step; `[3:3]` is no steps on purpose."""
        known, start, stop = self._known, steps.start, steps.stop
        if known is None or (stop is not None and start == stop):
            return
        start_beyond = start is not None and not -known <= start < known
        if start_beyond or (stop is not None and not -known <= stop <= known):
            text = ":".join("" if bound is None else str(bound) for bound in (start, stop))
            raise RecordError(
                f"tracer.iter[{text}] goes beyond the steps of this generation (at {user_line()}).",
                remedy=f"With max_new_tokens={known} there are steps 0 to {known - 1}: give more max_new_tokens, or an "
                "open end, tracer.iter[:].",
                where={"steps": known},
            )

    def _all(self) -> tuple[int, ...]:
        return self._numbers(slice(None)) if self._chosen is None else self._chosen

    def _firm(self) -> tuple[int, ...]:
        """Steps that are meant to come: of those up to an open end, the first."""
        return self._all()[:1] if self._lasting else self._all()

    def __iter__(self) -> Iterator[int]:
        recorder, firm = self._recorder, self._firm()
        before = recorder.step, recorder.stepping, recorder.firm
        try:
            for step in self._all():
                recorder.step, recorder.stepping, recorder.firm = step, True, (0,) if step in firm else ()
                yield step
        finally:
            recorder.step, recorder.stepping, recorder.firm = before

    def __enter__(self) -> "Steps":
        self._before = self._recorder.step, self._recorder.firm
        self._block = self._recorder.looping(Loop(self._all()))
        self._block.__enter__()
        self._recorder.step, self._recorder.firm = 0, self._firm()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.__exit__(kind, error, trace)
        self._recorder.step, self._recorder.firm = self._before

    # -- what `as` gives is no number ---------------------------------------------------------------------------------
    def _no_number(self, *_: object) -> Never:
        raise RecordError(
            f"What `with tracer.iter[...] as` gives is no number (at {user_line()}): the block is recorded once, for "
            "all of its steps.",
            remedy="Where the number of the step is needed, write `for step in tracer.iter[...]:`.",
        )

    __bool__ = __int__ = __float__ = __index__ = __hash__ = __neg__ = __abs__ = _no_number
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _no_number
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _no_number
    __floordiv__ = __rfloordiv__ = __truediv__ = __rtruediv__ = __pow__ = __rpow__ = _no_number


class Branch:
    """`with tracer.cond(condition):`, and `with branch.otherwise():` after it."""

    def __init__(self, recorder: Recorder, condition: Any, expected: bool) -> None:
        self._recorder = recorder
        self._condition = condition
        self._expected = expected

    def __enter__(self) -> "Branch":
        recorder = self._recorder
        if not isinstance(self._condition, Node):
            raise RecordError(
                f"The condition is known now ({self._condition!r}), so it needs no tracer.cond (at {user_line()}).",
                remedy="Write a plain `if`.",
            )
        self._outer = recorder.guard
        recorder.guard = Guard(self._condition, self._expected, self._outer)
        return self

    def __exit__(self, *_: object) -> None:
        self._recorder.guard = self._outer

    def otherwise(self) -> "Branch":
        """The block that runs if the condition turns out false."""
        return Branch(self._recorder, self._condition, not self._expected)


class ListProxy(Proxy):
    """A list that grows while the trace runs."""

    __slots__ = ()

    def append(self, value: Any) -> None:
        """Add a value; one that never comes (a step after the end of a text) is left out."""
        base = self._live()
        recorder = base.recorder
        before, node = base.node, recorder.add("append", (base.node, recorder.encode(value)))
        recorder.advance(base, node)
        recorder.save_instead(before, node)  # saved before it was filled: it is the filled list that is wanted
