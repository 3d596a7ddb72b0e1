"""`tracer.plan()`: what it says will happen is what happens, and nothing is computed for it."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import zoo
from tests.unit.tracing.engines.small_net import Calls, inputs, net
from tracing import LanguageModel
from tracing.errors import CausalityError, SiteNotReachedError
from tracing.models.base import Model

DOUBLE = 8
ROW = 3 * DOUBLE
"""Bytes of one row of the net's activations."""


@pytest.fixture
def model() -> Model:
    return net()


@pytest.fixture
def x() -> Tensor:
    return inputs(1)[0]


@pytest.fixture(scope="module")
def gpt2() -> LanguageModel:
    return LanguageModel(zoo.model("gpt2"), verify=False)


class Meter(TorchDispatchMode):
    """Most bytes that storages made within the block take at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def forget(self) -> None:
        """Begin anew."""
        self.peak = 0
        self._made.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in given:
                self._made.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))
        self.peak = max(self.peak, sum(size for alive, size in self._made.values() if not alive.expired()))
        return out


# -- bytes ------------------------------------------------------------------------------------------------------------
def test_bytes_are_those_counted_by_hand(model: Model, x: Tensor) -> None:
    with model.trace(x) as tracer:
        first = model.first.output  # 2 rows, used after its visit: a copy is kept
        second = model.second.output
        mixed = first + second  # 2 rows, and the copy of the first is let go
        mixed[:1].save()  # 1 row
    plan = tracer.plan()
    assert plan.saved_bytes == ROW
    assert plan.peak_bytes == max(2 * ROW + 2 * ROW, 2 * ROW + ROW)
    assert plan.unknown == 0


def test_values_that_are_read_where_the_model_has_them_cost_nothing_but_what_is_saved(model: Model, x: Tensor) -> None:
    with model.trace(x) as tracer:
        model.first.output.save()
        model.second.output[0].save()
    plan = tracer.plan()
    assert (plan.saved_bytes, plan.peak_bytes) == (3 * ROW, 3 * ROW)


def test_a_write_copies_what_it_changes(model: Model, x: Tensor) -> None:
    with model.trace(x) as tracer:
        model.first.output[0] = 0.0
        model.output.save()
    plan = tracer.plan()
    assert plan.saved_bytes == 2 * ROW
    assert plan.peak_bytes == 2 * ROW


def test_weights_are_the_models(model: Model, x: Tensor) -> None:
    with model.trace(x) as tracer:
        (model.first.linear.weight * 2)[0].save()  # 3 rows of the weight's, and 1 of them saved
    plan = tracer.plan()
    assert (plan.saved_bytes, plan.peak_bytes) == (ROW, 3 * ROW + ROW)


@pytest.mark.parametrize("late", [False, True])
def test_the_estimate_is_the_measured_peak(model: Model, x: Tensor, *, late: bool) -> None:
    ones = torch.ones(200, 300, dtype=torch.float64)  # what the net itself makes is tiny beside it
    with Meter() as meter, model.trace(x) as tracer:
        large = ones * model.first.output.sum()
        larger = (large + 1).repeat(2, 1)
        if late:
            scale = model.second.output.mean()
            (larger * scale).sum(0).save()
        larger[:10].save()
        (large.T @ large).save()
        meter.forget()  # the program keeps its constant
    estimate = tracer.plan().peak_bytes
    assert estimate is not None
    assert estimate > 3 * ones.nbytes
    assert estimate == pytest.approx(meter.peak, rel=0.01)


@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon", "bert", "mamba", "t5"])
def test_saved_bytes_are_those_of_the_run(name: str) -> None:
    model = LanguageModel(zoo.model(name), verify=False)
    with model.trace(**zoo.example_inputs(name)) as tracer:
        saved = [model.sites.resid_post[1].save(), model.sites.resid_post[0][:, -1].save(), model.output.save()]
        plan = tracer.plan()
    assert plan.saved_bytes == sum(value.value.nbytes for value in saved)


def test_prompts_are_counted_without_their_padding(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        with tracer.invoke([3, 4, 5]):
            short = gpt2.transformer.h[1].output.save()
        with tracer.invoke([3, 4, 5, 6, 7]):
            long = gpt2.transformer.h[1].output.save()
    assert tracer.plan().saved_bytes == (3 + 5) * zoo.WIDTH * 4 == short.value.nbytes + long.value.nbytes


def test_a_generation_is_counted_over_its_steps(gpt2: LanguageModel) -> None:
    with gpt2.generate([3, 4, 5], max_new_tokens=4, min_new_tokens=4) as tracer:
        steps = []
        for _ in tracer.iter[:4]:
            steps += [gpt2.output.save(), gpt2.sites.pattern[0].save()]
        ids = tracer.result.save()
    plan = tracer.plan()
    assert plan.saved_bytes == sum(value.value.nbytes for value in (*steps, ids))
    assert plan.forwards[0].mode == "generate"


def test_a_precision_to_keep_counts(model: Model, x: Tensor) -> None:
    with model.trace(x) as tracer:
        tracer.cache([model.first], dtype=torch.float16)
    assert tracer.plan().saved_bytes == 2 * 3 * 2


def test_what_depends_on_numbers_is_counted_apart(model: Model, x: Tensor) -> None:
    called: list[Tensor] = []
    with model.trace(x) as tracer:
        tracer.apply(called.append, model.first.output)
        found = tracer.apply(lambda value: value[value > 0], model.first.output)
        (found * 2).save()
        model.second.output.save()
        plan = tracer.plan()
        assert not called
    assert (plan.unknown, plan.saved_bytes) == (1, 2 * ROW)
    assert "1 saved of unknown size" in str(plan)


# -- what runs --------------------------------------------------------------------------------------------------------
def test_nothing_is_computed_and_nothing_changes(model: Model, x: Tensor) -> None:
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.module.state_dict().items()}
    with model.trace(x) as tracer:
        target = model.first.output
        gradient = target.grad.save()
        model.output.sum().backward()
        calls = Calls(model)
        plan = tracer.plan()
        assert calls.count == 0
    assert str(tracer.plan()) == str(plan)
    expected = x.clone().requires_grad_()
    model.module(expected).sum().backward()
    assert gradient.shape == x.shape
    after = model.module.state_dict()
    assert all(after[name].data_ptr() == place for name, (place, _) in before.items())
    assert all(torch.equal(after[name], value) for name, (_, value) in before.items())
    parts = list(model.module.modules())
    assert not any(part._forward_hooks for part in parts)
    assert not any(isinstance(value, FakeTensor) for part in parts for value in vars(part).values())
    assert all(weight.grad is None for weight in model.module.parameters())


def test_leaves_of_the_users_get_no_gradient_from_a_plan(model: Model, x: Tensor) -> None:
    learned = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    with model.trace(x) as tracer:
        model.first.output = model.first.output + learned
        model.output.sum().backward()
        tracer.plan()
        assert learned.grad is None


def test_a_plan_warns_of_nothing_while_the_block_goes_on(model: Model, x: Tensor) -> None:
    with model.trace(x) as tracer:
        doubled = model.first.output * 2
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert tracer.plan().dropped > 0
        out = doubled.save()
    assert torch.equal(out.value, model.module.first(x) * 2)


def test_successive_forwards_are_told_with_their_prompts(model: Model) -> None:
    a, b, c = inputs(3)
    with model.trace() as tracer:
        with tracer.invoke(a):
            late = model.second.output
        with tracer.invoke(b):
            model.first.output = late
            model.output.save()
        with tracer.invoke(c):
            model.first.output.save()
    first, second = tracer.plan().forwards
    assert (first.prompts, second.prompts) == ((0, 2), (1,))
    assert first.sites == ("second.output", "first.output")
    assert first.stops_after == "second.output"
    assert second.written == ("first.output",)
    assert second.known
    assert second.stops_after is None


@pytest.mark.parametrize(
    ("asked", "stop"), [("first.linear", "first.linear.output"), ("first", "first.output"), ("", None)]
)
def test_a_forward_stops_where_the_plan_says(model: Model, x: Tensor, asked: str, stop: str | None) -> None:
    passed: list[str] = []
    for path, part in model.module.named_modules():
        part.register_forward_hook(lambda *_, path=path: passed.append(path))
    with model.trace(x) as tracer:
        model.get(asked).output.save()
    passed.clear()  # of probes
    assert tracer.plan().forwards[0].stops_after == stop
    passed.clear()
    with model.trace(x):
        model.get(asked).output.save()
    ended = "" in passed
    assert ended is (stop is None)


def test_a_stop_of_the_users_is_where_the_forward_stops(model: Model, x: Tensor) -> None:
    with model.trace(x) as tracer:
        model.first.output.save()
        tracer.stop()
        model.norm.next().output  # noqa: B018 (an access, for a later site)
    assert tracer.plan().forwards[0].stops_after == "first.output"


def test_skipped_modules_and_dropped_operations_are_told(model: Model, x: Tensor) -> None:
    with model.trace(x) as tracer:
        unused = model.first.output * 2
        _ = unused + 1
        model.second.skip(model.first.output)
        model.output.save()
        plan = tracer.plan()
    assert plan.forwards[0].skipped == ("second",)
    assert plan.dropped == 2
    assert plan.grad_mode == "inference"


def test_autograd_is_told(model: Model, x: Tensor) -> None:
    with model.trace(x) as tracer:
        model.first.output.grad.save()
        model.output.sum().backward()
        plan = tracer.plan()
    assert plan.grad_mode == "autograd"
    assert "with autograd" in str(plan)
    assert plan.saved_bytes == 2 * ROW


def test_the_eager_path_of_attention_is_told(gpt2: LanguageModel) -> None:
    for read, eager in ((lambda: gpt2.sites.pattern[0], True), (lambda: gpt2.sites.z[0], False)):
        with gpt2.trace([3, 4]) as tracer:
            read().save()
        assert tracer.plan().forwards[0].eager is eager


# -- what cannot be known, or not be run ------------------------------------------------------------------------------
def test_a_forward_that_looks_at_numbers_is_told_without_bytes() -> None:
    model = LanguageModel(zoo.model("mixtral"), verify=False)
    with model.trace(zoo.ids()) as tracer:
        model.sites.resid_post[1].save()
    plan = tracer.plan()
    assert plan.saved_bytes is None
    assert plan.peak_bytes is None
    assert not plan.forwards[0].known
    assert plan.forwards[0].sites == ("model.layers.1.output",)
    assert "not known before the run, because" in str(plan)


def test_a_model_without_weights_can_be_planned() -> None:
    with torch.device("meta"):
        module = zoo.model("llama")
    model = LanguageModel(module)
    with model.scan(zoo.ids()) as tracer:
        (model.sites.resid_post[1] + torch.ones(zoo.WIDTH)).save()
    plan = tracer.plan()
    assert plan.saved_bytes == zoo.ROWS * zoo.TOKENS * zoo.WIDTH * 4
    assert plan.forwards[0].stops_after == "model.layers.1.output"


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (lambda model: setattr(model.first, "output", model.second.output), CausalityError),
        (lambda model: model.spare.output.save(), SiteNotReachedError),
        (lambda model: (model.first.output + torch.ones(7)).save(), RuntimeError),
    ],
)
def test_what_the_run_would_refuse_the_plan_refuses(
    model: Model, x: Tensor, record: Any, error: type[Exception]
) -> None:
    class Enough(Exception):
        pass

    with pytest.raises(Enough), model.trace(x) as tracer:
        record(model)
        with pytest.raises(error) as caught:
            tracer.plan()
        said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert "test_plan.py" in said
        raise Enough


def test_the_text_says_all_of_it(model: Model, x: Tensor) -> None:
    with model.trace(x) as tracer:
        model.first.output[0] = 0.0
        model.second.output.save()
    lines = str(tracer.plan()).splitlines()
    assert lines[0] == "1 forward, 3 operations (0 dropped), in inference mode"
    assert lines[1].startswith("forward of prompt 0, from test_plan.py:")
    assert lines[2:] == [
        "  hooks: first.output (changed), second.output",
        "  stops: after second.output",
        "  attention: as the model has it",
        "bytes: 48 B saved, at most 48 B kept at a time",
    ]


def test_a_plan_of_a_whole_model_stays_short(gpt2: LanguageModel) -> None:
    with gpt2.trace(zoo.ids()) as tracer:
        tracer.cache()
    text = str(tracer.plan())
    assert len(text) < 900
    assert "more" in text
    assert "KiB saved" in text


class Sequential(nn.Module):
    """A module without attention, that calls one layer as often as its input has rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(x.shape[0]):
            x = self.layer(x)
        return x


def test_calls_of_one_module_are_one_hook() -> None:
    model: Any = Model(Sequential())
    with model.trace(torch.ones(3, 2)) as tracer:
        model.layer.output.save()
        model.layer.next().next().output.save()
    (forward,) = tracer.plan().forwards
    assert forward.sites == ("layer.output",)
    assert forward.stops_after == "layer.output"
