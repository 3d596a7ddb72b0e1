"""Semantics 2: a saved value has memory of its own, and keeps nothing else of its trace alive."""

import gc
import io
import pickle  # noqa: TID251 (what users do with their own values)
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import zoo
from tests.unit.tracing.seed.support import close, rows
from tracing import LanguageModel, Model
from tracing.errors import NotSavedError

PROMPT = "The keys to the cabinet"


# -- one value saved more than once -----------------------------------------------------------------------------------
def test_two_saves_of_one_value_share_no_memory(net: Model) -> None:
    with net.trace(rows()):
        hidden = net.first.output
        one, two, again = hidden.save(), hidden.save(), net.first.output.save()
    kept = two.value.clone()
    one.zero_()
    close(two, kept)
    again += 1
    close(two, kept)
    close(again, kept + 1)
    close(hidden, kept)


def test_a_part_saved_twice_shares_no_memory(net: Model) -> None:
    with net.trace(rows()):
        part = net.first.output[0]
        one, two = part.save(), part.save()
    one.zero_()
    assert two.any()


def test_a_list_saved_twice_is_filled_twice(net: Model) -> None:
    with net.trace(rows()) as tracer:
        found = tracer.list()
        one = found.save()
        found.append(net.first.output)
        two = found.save()
        found.append(net.second.output)
    assert len(one.value) == len(two.value) == len(found.value) == 2
    assert one.value[0] is not two.value[0]


def test_gradients_of_a_value_saved_twice(net: Model) -> None:
    with net.trace(rows()):
        hidden = net.first.output
        hidden.retain_grad()
        one, two = hidden.save(), hidden.save()
        net.output.sum().backward()
    close(one.grad, two.grad)
    close(hidden.grad, two.grad)


def test_a_value_of_a_loop_saved_twice(gpt2: LanguageModel) -> None:
    with gpt2.generate(PROMPT, max_new_tokens=2) as tracer, tracer.iter[:]:
        last = gpt2.output[:, -1]
        one, two = last.save(), last.save()
    assert len(one.value) == len(two.value) == 2
    one.value[0].zero_()
    assert two.value[0].any()


def test_a_scan_knows_both_saves(net: Model) -> None:
    with net.scan(rows()):
        one, two = net.first.output.save(), net.first.output.save()
    assert one.shape == two.shape


# -- caches beside saves ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("first", [True, False])
def test_the_dtype_of_a_cache_is_not_that_of_a_save(gpt2: LanguageModel, first: bool) -> None:
    with gpt2.trace(PROMPT) as tracer:
        block = gpt2.transformer.h[0]
        saved = [block.output.save(), block.mlp.output.save()] if first else []
        half = tracer.cache(modules=[block, block.mlp], dtype=torch.bfloat16)
        single = tracer.cache(modules=[block, block.mlp], dtype=torch.float32)
        if not first:
            saved += [block.output.save(), block.mlp.output.save()]
    assert [one.dtype for one in saved] == [torch.float64] * 2
    for path in ("transformer.h.0", "transformer.h.0.mlp"):
        assert (half[path].output.dtype, single[path].output.dtype) == (torch.bfloat16, torch.float32)
    assert tracer.plan().saved_bytes == 2 * saved[0].numel() * (8 + 2 + 4)


# -- what a saved value keeps alive -----------------------------------------------------------------------------------
def alive(kept: Any, *gone: weakref.ref[Any]) -> list[bool]:
    gc.collect()
    assert kept is not None
    return [one() is not None for one in gone]


def test_a_saved_number_keeps_no_other_value_and_no_constant(net: Model) -> None:
    patch = torch.ones(1, 6, dtype=torch.float64)
    with net.trace(rows()) as tracer:
        net.first.output[:1] = patch
        big = net.first.output.save()
        score = net.output.sum()
        score.save()
        total = score.save()
        constants = [
            weakref.ref(value) for node in tracer.graph.nodes for value in node.args if isinstance(value, Tensor)
        ]
    other = weakref.ref(big.value)
    assert constants
    del tracer, big
    assert not any(alive((score, total), other, *constants))
    assert float(total) == float(score)


def test_a_value_that_is_held_unsaved_keeps_no_saved_one(net: Model) -> None:
    with net.trace(rows()):
        hidden = net.first.output
        row = hidden[0]
        big = net.output.save()
    other = weakref.ref(big.value)
    del big
    assert not any(alive((hidden, row), other))


def test_the_saved_of_a_failed_trace_keeps_nothing(net: Model) -> None:
    patch = torch.ones(2, 6, dtype=torch.float64)
    with pytest.raises(ZeroDivisionError), net.trace(rows()) as tracer:
        net.first.output = patch
        total = net.output.sum().save()
        constants = [weakref.ref(node.args[2]) for node in tracer.graph.nodes if node.op == "write"]
        raise ZeroDivisionError
    del tracer
    assert not any(alive(total, *constants))


def test_the_graph_and_the_plan_outlive_the_block(net: Model) -> None:
    with net.trace(rows()) as tracer:
        net.first.output[:] = torch.ones(2, 6, dtype=torch.float64)
        net.output.save()
    assert "write" in {node.op for node in tracer.graph.nodes}
    assert tracer.plan().saved_bytes


# -- saved values as parameters ---------------------------------------------------------------------------------------
def test_the_value_of_a_saved_one_can_be_a_parameter(net: Model) -> None:
    with net.trace(rows()):
        hidden = net.first.output.save()
    assert isinstance(nn.Parameter(hidden.value), nn.Parameter)


@pytest.mark.parametrize("differentiated", [False, True])
def test_a_finished_trace_is_freed_without_the_collector(net: Model, differentiated: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        gone: list[weakref.ref[Any]] = []
        with net.trace(rows()) as tracer:
            net.first.output[:1] = torch.ones(1, 6, dtype=torch.float64)
            hidden = net.second.output
            saved = [net.first.output.save()]
            if differentiated:
                saved.append(hidden.grad.save())
                net.output.sum().backward()
            gone += [
                weakref.ref(value) for node in tracer.graph.nodes for value in node.args if isinstance(value, Tensor)
            ]
            gone.append(weakref.ref(tracer.recorder))
        gone += [weakref.ref(one.value) for one in saved]
        del tracer, saved, hidden
        assert [one() for one in gone] == [None] * len(gone)
    finally:
        gc.enable()


def test_the_saved_output_of_a_module_with_a_submodule_of_that_name_keeps_no_model() -> None:
    model = LanguageModel(zoo.model("bert"))
    with model.trace(zoo.ids()):
        saved = model.bert.encoder.layer[0].output.save()
        plain = model.bert.encoder.layer[1].output
        plain.save()
    module = weakref.ref(model._model)
    del model
    assert not any(alive((saved, plain), module))
    assert saved.shape == plain.shape


def test_a_saved_value_is_stored_and_pickled_as_the_tensor_it_is(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden = gpt2.transformer.h[0].output.save()
        with pytest.raises(NotSavedError, match="not known before its trace ends"):
            pickle.dumps(hidden)
    stored = io.BytesIO()
    torch.save({"hidden": hidden}, stored)  # noqa: TID251 (as above)
    stored.seek(0)
    loaded = torch.load(stored, weights_only=True)["hidden"]  # noqa: TID251 (as above)
    for read in (loaded, pickle.loads(pickle.dumps(hidden))):
        assert type(read) is torch.Tensor
        assert torch.equal(read, hidden.value)
