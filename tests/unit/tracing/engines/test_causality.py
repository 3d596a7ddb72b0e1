"""Which forwards a program needs, and which programs no forward can run."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from tests import zoo
from tests.unit.tracing.engines.small_net import Calls, inputs, net
from tracing.engines import order
from tracing.engines.causality import forwards_of
from tracing.engines.program import compile_graph
from tracing.errors import CausalityError, SiteNotReachedError
from tracing.graph.nodes import Stage
from tracing.models.base import Model
from tracing.models.batching import Inputs


@pytest.fixture
def model() -> Model:
    return net()


@pytest.fixture
def x() -> Tensor:
    return inputs(1)[0]


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


def test_a_value_of_the_same_place_is_missed_where_prompts_run_one_after_the_other(model: Model) -> None:
    a, b = inputs(2)
    with pytest.raises(CausalityError, match="no order"), model.trace() as tracer:
        with tracer.invoke(a):
            entering, late = model.input, model.first.linear.input
        with tracer.invoke(b):
            model.first.input[...] = late  # so that the first prompt runs before
            entering[...] = model.input


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


def test_a_refusal_is_looked_at_again_where_the_order_is_of_an_earlier_input(
    model: Model, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, probes = order.probe, []

    def counted(*args: Any) -> Any:
        probes.append(args)
        return probe(*args)

    monkeypatch.setattr(order, "probe", counted)
    for expected in (1, 2, 3):  # the first order is this input's own; later ones are found anew, once
        with pytest.raises(CausalityError), model.trace(x):
            model.first.output = model.second.output
        assert len(probes) == expected
    with model.trace(x):
        model.second.output = model.first.output
        model.output.save()
    assert len(probes) == 3


def _fail(*_: object) -> None:
    raise AssertionError("a probe ran")


@pytest.mark.parametrize("name", zoo.ZOO)
def test_probes_leave_the_model_as_it_is_and_find_the_order_of_a_real_forward(name: str) -> None:
    module = zoo.model(name)
    model = Model(module)
    before = {key: value.data_ptr() for key, value in module.state_dict().items()}
    given = zoo.example_inputs(name)
    found = order.probe(model, Stage(0), Inputs((), given))
    passage = order.Passage()
    with torch.inference_mode(), order.watched(module, passage):
        module(**given)
    assert list(found.moments) == list(passage.values)
    assert found.certain == (name != "mixtral")
    assert {key: value.data_ptr() for key, value in module.state_dict().items()} == before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    values = [value for part in module.modules() for value in (*part.__dict__.values(), *part._buffers.values())]
    assert not any(isinstance(value, FakeTensor) for value in values)


def test_compiling_is_linear_in_the_nodes(model: Model, x: Tensor) -> None:
    """Ten thousand nodes are scheduled without recursion."""
    with model.trace(x) as tracer:
        value = model.first.output
        for _ in range(10_000):
            value = value + 1
        model.second.output = value
        model.output.save()
        assert len(compile_graph(tracer.graph, model).forwards) == 1
