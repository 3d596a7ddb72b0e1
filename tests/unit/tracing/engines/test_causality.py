"""Which forwards a program needs, and which programs no forward can run."""

import copy
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tests import zoo
from tracing.engines import order
from tracing.engines.causality import forwards_of
from tracing.engines.program import compile_graph
from tracing.errors import CausalityError, SiteNotReachedError
from tracing.models.base import Model

WIDTH = 3


class Block(nn.Module):
    """x + tanh(linear(x))"""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.linear(x))  # type: ignore[no-any-return]


class Net(nn.Module):
    """Two blocks and a norm that is called after each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()
        self.norm = nn.LayerNorm(WIDTH)
        self.spare = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.norm(self.first(x))))  # type: ignore[no-any-return]


def net() -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model(Net().double().eval().requires_grad_(False))


def inputs(count: int, rows: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.fixture
def model() -> Model:
    return net()


@pytest.fixture
def x() -> Tensor:
    return inputs(1)[0]


class Calls:
    """Counts forwards of a model with numbers, in contrast to probes without."""

    def __init__(self, model: Model) -> None:
        self.count = 0
        model.module.register_forward_pre_hook(self._hook)

    def _hook(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.count += not isinstance(args[0], FakeTensor)


# -- one prompt -------------------------------------------------------------------------------------------------------
def test_a_write_that_needs_a_later_site_names_both_lines_before_the_model_runs(model: Model, x: Tensor) -> None:
    calls = Calls(model)
    with pytest.raises(CausalityError) as caught, model.trace(x):
        late = model.second.output
        model.first.output = late * 2
    text = str(caught.value)
    assert "second.output" in text
    assert "first.output" in text
    lines = [caught.value.where["write"], caught.value.where["read"]]
    assert all(str(line) in text and "test_causality.py" in str(line) for line in lines)
    assert len(set(lines)) == 2
    assert "invoke" in text
    assert not calls.count


@pytest.mark.parametrize(
    ("early", "late"),
    [
        ("first.inputs", "first.output"),
        ("first.linear.output", "first.output"),
        ("first.output", "norm.output"),
        ("second.inputs", "second.linear.inputs"),
        (".inputs", ".output"),
    ],
)
def test_values_flow_from_earlier_to_later_places_only(model: Model, x: Tensor, early: str, late: str) -> None:
    def read(site: str) -> Any:
        path, _, kind = site.rpartition(".")
        envoy = model.get(path)
        return envoy.input if kind == "inputs" else envoy.output

    with model.trace(x):
        target = read(late)
        target[...] = read(early) * 2
        out = model.output.save()
    assert out.shape == x.shape
    with pytest.raises(CausalityError), model.trace(x):
        target = read(early)
        target[...] = read(late) * 2


def test_reads_may_be_recorded_in_any_order(model: Model, x: Tensor) -> None:
    with model.trace(x):
        last, first = model.second.output.save(), model.first.output.save()
    assert torch.equal(first.value, model.module.first(x))
    assert torch.equal(last.value, model.module.second(model.module.norm(first.value)))


def test_the_second_call_of_a_module_is_later_than_the_first(model: Model, x: Tensor) -> None:
    with pytest.raises(CausalityError) as caught, model.trace(x):
        first = model.norm.output
        first[...] = model.norm.next().output
    assert "call 1" in str(caught.value)


def test_a_condition_counts_as_a_need(model: Model, x: Tensor) -> None:
    with pytest.raises(CausalityError), model.trace(x) as tracer, tracer.cond(model.second.output.sum() > 0):
        model.first.output[...] = 0


def test_a_skip_needs_its_value_when_the_module_is_entered(model: Model, x: Tensor) -> None:
    with model.trace(x):
        model.second.skip(model.first.output * 2)
        out = model.second.output.save()
    assert torch.equal(out.value, model.module.first(x) * 2)
    with pytest.raises(CausalityError), model.trace(x):
        model.second.skip(model.second.linear.output)


def test_a_gradient_cannot_change_what_its_own_loss_is_computed_from(model: Model, x: Tensor) -> None:
    with pytest.raises(CausalityError), model.trace(x):
        hidden = model.first.output
        gradient = hidden.grad
        model.second.output[...] += gradient
        model.output.sum().backward()


def test_a_gradient_may_be_written_into_a_place_that_comes_after_its_loss(model: Model, x: Tensor) -> None:
    with model.trace(x):
        hidden = model.first.output
        gradient = hidden.grad
        hidden.pow(2).sum().backward()
        model.second.output[...] += gradient
        out = model.second.output.save()
    first = model.module.first(x)
    assert torch.allclose(out.value, model.module.second(model.module.norm(first)) + 2 * first)


def test_a_site_that_never_comes_is_reported_before_the_run(model: Model, x: Tensor) -> None:
    calls = Calls(model)
    with pytest.raises(SiteNotReachedError, match=r"spare.output"), model.trace(x):
        model.second.output = model.spare.output * 2
    assert not calls.count


# -- several prompts --------------------------------------------------------------------------------------------------
def test_a_later_value_of_another_prompt_is_computed_in_a_forward_before(model: Model) -> None:
    a, b = inputs(2)
    calls = Calls(model)
    with model.trace() as tracer:
        with tracer.invoke(a):
            late = model.second.output
        with tracer.invoke(b):
            model.first.output = late
            out = model.output.save()
    block = model.module.first(a)
    expected = model.module.second(model.module.norm(block))
    assert calls.count == 2
    assert torch.allclose(out.value, model.module.norm(model.module.second(model.module.norm(expected))))


def test_the_order_of_invokes_does_not_matter_for_the_order_of_forwards(model: Model) -> None:
    a, b = inputs(2)
    with model.trace() as tracer:
        with tracer.invoke(a):
            target = model.first.output
            out = model.first.output
        with tracer.invoke(b):
            late = model.second.output
            target[...] = late
            out = out.save()
            late = late.save()
        assert forwards_of(tracer.graph, tracer.graph.nodes, model) == [(0, [1]), (0, [0])]
    assert torch.equal(out.value, late.value)


def test_prompts_that_do_not_wait_share_one_forward(model: Model) -> None:
    a, b, c = inputs(3)
    with model.trace() as tracer:
        with tracer.invoke(a):
            late = model.second.output
        with tracer.invoke(b):
            model.first.output = late
            model.output.save()
        with tracer.invoke(c):
            model.output.save()
        assert forwards_of(tracer.graph, tracer.graph.nodes, model) == [(0, [0, 2]), (0, [1])]


def test_the_same_place_of_another_prompt_needs_no_second_forward(model: Model) -> None:
    a, b = inputs(2)
    calls = Calls(model)
    with model.trace() as tracer:
        with tracer.invoke(a):
            here = model.first.output.save()
        with tracer.invoke(b):
            model.first.output = here
            out = model.first.output.save()
    assert calls.count == 1
    assert torch.equal(out.value, here.value)


def test_prompts_that_wait_for_each_other_are_refused_with_all_lines(model: Model) -> None:
    a, b = inputs(2)
    calls = Calls(model)
    with pytest.raises(CausalityError) as caught, model.trace() as tracer:
        with tracer.invoke(a):
            early, late = model.first.output, model.second.output
        with tracer.invoke(b):
            model.first.output = late
            early[...] = model.second.output
    assert len(set(caught.value.where["lines"])) >= 3  # type: ignore[arg-type]
    assert not calls.count


def test_an_invoke_of_the_whole_batch_needs_all_prompts_together(model: Model) -> None:
    a, b = inputs(2)
    with pytest.raises(CausalityError, match="whole batch"), model.trace() as tracer:
        with tracer.invoke(a):
            late = model.second.output
        with tracer.invoke(b):
            model.first.output = late
        with tracer.invoke():
            model.output.save()


# -- probes -----------------------------------------------------------------------------------------------------------
def test_programs_that_need_no_order_start_no_probe(model: Model, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "probe", _fail)
    with model.trace(x):
        model.first.output = model.first.output * 2
        model.second.output[:, 0] = 1.0
        model.output.save()


def test_the_order_is_found_once_for_inputs_of_one_kind(
    model: Model, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(value: Tensor) -> None:
        with model.trace(value):
            model.second.output = model.first.output
            model.output.save()

    run(x)
    monkeypatch.setattr(order, "probe", _fail)
    run(torch.cat([x, x]))


def _fail(*_: object) -> None:
    raise AssertionError("a probe ran")


@pytest.mark.parametrize("name", zoo.ZOO)
def test_probes_leave_the_model_as_it_is_and_find_the_order_of_a_real_forward(name: str) -> None:
    module = zoo.model(name)
    model = Model(module)
    before = {key: value.data_ptr() for key, value in module.state_dict().items()}
    given = zoo.example_inputs(name)
    found = order.probe(model, compile_stage(), order_inputs(given))
    passage = order.Passage()
    with torch.inference_mode(), order.watched(module, passage):
        module(**given)
    assert list(found.moments) == list(passage.values)
    assert found.certain == (name != "mixtral")
    assert {key: value.data_ptr() for key, value in module.state_dict().items()} == before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    values = [value for part in module.modules() for value in (*part.__dict__.values(), *part._buffers.values())]
    assert not any(isinstance(value, FakeTensor) for value in values)


def compile_stage() -> Any:
    from tracing.graph.nodes import Stage

    return Stage(0)


def order_inputs(given: dict[str, Tensor]) -> Any:
    from tracing.models.batching import Inputs

    return Inputs((), given)


# -- every program is either refused beforehand, or gives what plain hooks give --------------------------------------
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


def test_compiling_is_linear_in_the_nodes(model: Model, x: Tensor) -> None:
    """Ten thousand nodes are scheduled without recursion."""
    with model.trace(x) as tracer:
        value = model.first.output
        for _ in range(10_000):
            value = value + 1
        model.second.output = value
        model.output.save()
        assert len(compile_graph(tracer.graph, model).forwards) == 1
