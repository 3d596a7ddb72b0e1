"""Every program of reads and writes is either refused beforehand, or gives what plain hooks give."""

import copy
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.unit.tracing.engines.small_net import Calls, inputs, net
from tracing.errors import CausalityError
from tracing.models.base import Model

SITES = (
    ("", "inputs"), ("first", "inputs"), ("first.linear", "inputs"), ("first.linear", "output"),
    ("first.act", "output"), ("first", "output"), ("norm", "output"), ("second", "inputs"),
    ("second.linear", "output"), ("second", "output"), ("", "output"),
)  # fmt: skip
"""In the order in which a forward passes them; "norm" by its first call."""


@dataclass
class Step:
    """read: a site of the invoke; mix: of two values; write: a value's mean into the site behind a value."""

    kind: str
    invoke: int
    site: int = 0
    left: int = 0
    right: int = 0


@dataclass
class Reference:
    """Computes every value by plain forwards with plain hooks, a fresh forward for each reading."""

    module: nn.Module
    prompts: list[Tensor]
    steps: list[Step]
    running: set[tuple[int, int, int]] = field(default_factory=set)
    memo: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)

    def value(self, number: int, at: int) -> Tensor:
        """Value `number` as step `at` sees it."""
        step = self.steps[number]
        if step.kind == "read":
            return self.site(step.invoke, step.site, at)
        return torch.tanh(self.value(step.left, number)) * 0.5 + self.value(step.right, number).mean()

    def target(self, step: Step) -> tuple[int, int]:
        read = self.steps[step.left]
        return read.invoke, read.site

    def site(self, invoke: int, site: int, at: int) -> Tensor:
        """A site of a prompt with the writes recorded before step `at`, and all writes to earlier sites."""
        key = (
            invoke,
            site,
            sum(step.kind == "write" and self.target(step) == (invoke, site) for step in self.steps[:at]),
        )
        if key not in self.memo:
            if key in self.running:
                raise RecursionError
            self.running.add(key)
            self.memo[key] = self._forward(invoke, site, at)
            self.running.discard(key)
        return self.memo[key]

    def _forward(self, invoke: int, site: int, at: int) -> Tensor:
        class Found(Exception):
            value: Tensor

        # A copy, for forwards run inside one another would see each other's hooks.
        module, called = copy.deepcopy(self.module), [0]

        def change(number: int, value: Tensor, until: int) -> Tensor:
            for n, step in enumerate(self.steps[:until]):
                if step.kind == "write" and self.target(step) == (invoke, number):
                    value = value + self.value(step.right, n).mean()
            return value

        def passing(number: int, value: Tensor) -> Tensor:
            if number == site:
                found = Found()
                found.value = change(number, value, at)
                raise found
            return change(number, value, len(self.steps))

        for number, (path, kind) in enumerate(SITES[: site + 1]):
            part = module.get_submodule(path)
            if kind == "inputs":
                part.register_forward_pre_hook(lambda _, args, n=number: (passing(n, args[0]),))
            elif path == "norm":

                def first(_: Any, args: Any, output: Tensor, n: int = number) -> Tensor:
                    called[0] += 1
                    return passing(n, output) if called[0] == 1 else output

                part.register_forward_hook(first)
            else:
                part.register_forward_hook(lambda _, args, output, n=number: passing(n, output))
        try:
            module(self.prompts[invoke])
        except Found as found:
            return found.value
        raise AssertionError


def possible(steps: list[Step], count: int) -> bool:
    """Whether some assignment of prompts to forwards satisfies every write, by trying all of them."""
    needs: list[set[tuple[int, int]]] = []
    written: dict[tuple[int, int], set[tuple[int, int]]] = {}
    demands = []
    for step in steps:
        if step.kind == "read":
            needs.append({(step.invoke, step.site)})
        elif step.kind == "mix":
            needs.append(now(steps, needs, written, step.left) | now(steps, needs, written, step.right))
        else:
            read = steps[step.left]
            target = read.invoke, read.site
            written[target] = written.get(target, set()) | now(steps, needs, written, step.right) | {target}
            demands.append((target, frozenset(written[target])))
            needs.append(set())

    def fits(levels: tuple[int, ...]) -> bool:
        return all(
            (levels[source[0]], source[1]) <= (levels[target[0]], target[1])
            for target, sources in demands
            for source in sources
        )

    return any(fits(levels) for levels in itertools.product(range(count), repeat=count))


def now(steps: list[Step], needs: Any, written: Any, number: int) -> set[tuple[int, int]]:
    """What value `number` needs at this point: a read also what was written to its site."""
    step = steps[number]
    base: set[tuple[int, int]] = set(needs[number])
    return base | written.get((step.invoke, step.site), set()) if step.kind == "read" else base


@st.composite
def programs(draw: Callable[..., Any]) -> tuple[int, list[Step]]:
    count = draw(st.integers(1, 3))
    steps: list[Step] = []
    for invoke in range(count):
        steps.append(Step("read", invoke, draw(st.integers(0, len(SITES) - 1))))
        for _ in range(draw(st.integers(0, 6))):
            kind = draw(st.sampled_from(["read", "mix", "write", "write"]))
            values = [n for n, step in enumerate(steps) if step.kind != "write"]
            reads = [n for n in values if steps[n].kind == "read"]
            if kind == "read":
                steps.append(Step("read", invoke, draw(st.integers(0, len(SITES) - 1))))
            elif kind == "mix":
                # Two prompts have other rows: the left one gives the shape.
                steps.append(Step("mix", invoke, 0, draw(st.sampled_from(values)), draw(st.sampled_from(values))))
            else:
                steps.append(Step("write", invoke, 0, draw(st.sampled_from(reads)), draw(st.sampled_from(values))))
    return count, steps


def record_program(model: Model, prompts: list[Tensor], steps: list[Step]) -> list[Any]:
    """Run the steps as a trace; the saved values in order, None for writes."""
    values: list[Any] = []
    with model.trace() as tracer:
        for invoke, prompt in enumerate(prompts):
            with tracer.invoke(prompt):
                for step in (step for step in steps if step.invoke == invoke):
                    if step.kind == "read":
                        path, kind = SITES[step.site]
                        envoy = model.get(path)
                        values.append(envoy.input if kind == "inputs" else envoy.output)
                    elif step.kind == "mix":
                        values.append(torch.tanh(values[step.left]) * 0.5 + values[step.right].mean())
                    else:
                        target = values[step.left]
                        target += values[step.right].mean()
                        values.append(None)
        saved = [None if value is None else (value + 0).save() for value in values]
    return [None if value is None else value.value for value in saved]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_programs_are_refused_before_the_run_or_give_what_plain_hooks_give(program: tuple[int, list[Step]]) -> None:
    count, steps = program
    model = shared_model()
    prompts = [prompt[: 1 + n % 2] for n, prompt in enumerate(inputs(count))]
    calls = Calls(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused = False
        try:
            found = record_program(model, prompts, steps)
        except CausalityError:
            refused = True
        finally:
            model.module._forward_pre_hooks.clear()
    assert refused is not possible(steps, count)
    if refused:
        assert not calls.count
        return
    reference = Reference(model.module, prompts, steps)
    for number, value in enumerate(found):
        if value is not None:
            torch.testing.assert_close(value, reference.value(number, len(steps)))


_shared: list[Model] = []


def shared_model() -> Model:
    """One model for all examples, so that its order is found once."""
    if not _shared:
        _shared.append(net())
    return _shared[0]
