"""A run of a program on fake tensors, to know what it will do: where it stops, and how many bytes it keeps.

1. The executor itself runs the program, so values live exactly as long as they will: rows, padding, copies and early
   stops are the run's own. The model computes nothing and needs no weights.
2. After each node the storages of all live values are added up; those that belong to the model's forward are not ours.
3. What depends on numbers is absent, with all that needs it, and counted. Blocks of `tracer.cond` are taken to run, and
   of a generation those steps are gone through that can be without knowing the tokens.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from tracing.engines.fakes import NO_NUMBERS, as_fake, counts_kept, fake_mode, numberless, unchanged
from tracing.engines.hooking import hooked
from tracing.engines.local import assign_rows, copies_of
from tracing.engines.order import first_call
from tracing.engines.program import Forward, Place, Program
from tracing.engines.rows import mapped
from tracing.engines.run import Enough, Run
from tracing.engines.unreached import settle
from tracing.engines.values import SKIPPED
from tracing.engines.visit import Part
from tracing.graph.cells import Cell
from tracing.graph.nodes import Guard, Node, substitute
from tracing.graph.ops import TABLE

RESULT: Final[Place] = ("", "result")


class _CannotRehearseError(Exception):
    """The model does not run without numbers."""


class Rehearsal(Run):
    """One run of a program on fake tensors; its attributes tell what was found."""

    def __init__(self, model: Any, program: Program, cells: Mapping[int, Cell]) -> None:
        super().__init__(model, program, dict(cells))
        self.saved_bytes = 0
        self.peak_bytes = 0
        self.unknown = 0
        """Saved values whose size depends on numbers."""
        self.ends: list[Place | None] = []
        """The place at which each forward stops; None where it runs to its end."""
        self.reason = ""
        """Why the program could not be gone through to its end."""
        self._mode = fake_mode()
        self._place: Place | None = None
        self._foreign: dict[int, Any] = {}
        """Storages of the model, by address; held, so that no other one gets the address."""
        self.handlers["apply"] = lambda node: SKIPPED  # a function of the user's may do anything

    def rehearse(self) -> None:
        """Go through the program. Raises what the user's own operations raise, and `SiteNotReachedError`."""
        try:
            with self._modes():
                self.start()
            for forward in self.program.forwards:
                if forward.pending or forward.skips:
                    self._rehearse_forward(forward)
        except (_CannotRehearseError, *NO_NUMBERS) as error:
            self.reason = str(error) if isinstance(error, _CannotRehearseError) else "it depends on numbers"
        finally:
            self.release()
            self._foreign.clear()

    @contextmanager
    def _modes(self) -> Iterator[None]:
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(self.program.differentiates),
            numberless(self._mode),
        ):
            yield

    # -- forwards -----------------------------------------------------------------------------------------------------
    def _rehearse_forward(self, forward: Forward) -> None:
        model, generating = self.model, forward.stage.mode == "generate"
        inputs = [invoke.inputs for invoke in forward.invokes if invoke.inputs is not None]
        copies = copies_of(model, forward, len(inputs)) if generating else 1
        batch = model.batch(inputs, generating=False)
        assign_rows(self, forward, batch, copies)
        given = as_fake(self._mode, first_call(model, forward.stage, batch), model.device)
        if copies > 1:
            given = mapped(given, lambda tensor: tensor.repeat_interleave(copies, 0))
        self.begin(forward)
        self._place = None
        try:
            with (
                counts_kept(model.module),
                self._modes(),
                unchanged(model.module),
                hooked(self, forward, steps=generating),
            ):
                self._call(forward, *given)
        except Enough:
            pass
        except Exception as error:
            if self.failed is not None:
                raise self.failed from None
            name = type(error).__name__
            raise _CannotRehearseError(f"the model does not run without numbers ({name}: {error})") from error
        self.ends.append(self._place)
        with self._modes():
            settle(self, forward)

    def _call(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        output = self.model.call(*args, **kwargs)
        if self.failed is not None:
            raise self.failed
        if forward.stage.mode != "generate":
            return
        ids, cache = kwargs.get("input_ids"), getattr(output, "past_key_values", None)
        if not isinstance(ids, Tensor):
            return
        new = self.model.steps_of(forward.stage.options)
        if cache is not None and "decoder_input_ids" not in kwargs:
            self._further_steps(forward, ids, kwargs, cache)
        if new is not None:
            self.visit_result(ids.new_zeros(ids.shape[0], ids.shape[1] + new))

    def _further_steps(self, forward: Forward, ids: Tensor, kwargs: dict[str, Any], cache: Any) -> None:
        """Steps of one token each, as a decoder with a cache takes them."""
        one, mask = ids.new_zeros(ids.shape[0], 1), kwargs.get("attention_mask")
        rest = {name: value for name, value in kwargs.items() if name == "logits_to_keep"}
        for _ in range(1, forward.steps):
            if isinstance(mask, Tensor):
                rest["attention_mask"] = mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            self.model.call(input_ids=one, past_key_values=cache, **rest)

    def visit(self, place: Place, raw: Any) -> Any:
        """The forward passes a place: its tensors are the model's, not ours."""
        self._is_foreign(raw)
        try:
            return super().visit(place, raw)
        except Enough:
            if place != RESULT:  # there the generation is over
                self._place = place
            raise

    def _is_foreign(self, value: Any) -> None:
        for storage in _storages(value):
            self._foreign[storage._cdata] = storage

    # -- nodes --------------------------------------------------------------------------------------------------------
    def execute(self, node: Node) -> None:
        """Compute one node and count what is alive then."""
        super().execute(node)
        self._count()

    def arrive(self, node: Node, gradient: Tensor | None) -> None:
        """A gradient is known."""
        super().arrive(node, gradient)
        self._count()

    def _compute(self, node: Node) -> Any:
        op = TABLE.get(node.op)
        try:
            if op is None:
                return super()._compute(node)
            if any(self.env[dependency] is SKIPPED for dependency in node.deps):
                return SKIPPED
            given = as_fake(self._mode, substitute((node.args, dict(node.kwargs)), self), self.model.device)
            return op.function(*given[0], **given[1])
        except NO_NUMBERS:
            return self.env[node.args[0]] if node.op == "write" else SKIPPED

    def _parameter(self, node: Node) -> Any:
        value = super()._parameter(node)
        self._is_foreign(value)
        return value

    def _backward(self, node: Node) -> Any:
        # Only for gradients that the program names: the others go to leaves of the user's, which stay as they are.
        if self.carriers is not None and any(
            one.args[0].step == node.args[2] for ones in self.carriers.asked.values() for one in ones
        ):
            self.carriers.learning = False
            self.carriers.backward(node)

    def _holds(self, guard: Guard | None) -> bool:
        return True

    def _save(self, node: Node, value: Any) -> None:
        number = self.program.saved.get(node)
        if number is None:
            return
        if value is SKIPPED:
            self.unknown += 1
            return
        tensors = _tensors(value.whole() if isinstance(value, Part) else value)
        cell: Cell | None = self.cells.get(number) or Cell(node.line)
        while cell is not None:
            for tensor in tensors:
                kind = tensor.dtype if cell.dtype is None or not tensor.is_floating_point() else cell.dtype
                self.saved_bytes += tensor.numel() * kind.itemsize
            cell = cell.next

    def _count(self) -> None:
        alive = {
            storage._cdata: storage.nbytes()
            for value in self.env.values()
            for storage in _storages(value)
            if storage._cdata not in self._foreign
        }
        self.peak_bytes = max(self.peak_bytes, self.saved_bytes + sum(alive.values()))


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor in a nest."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(value, keep)
    return found


def _storages(value: Any) -> list[Any]:
    return [tensor.untyped_storage() for tensor in _tensors(value.raw if isinstance(value, Part) else value)]
