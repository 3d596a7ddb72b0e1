"""A line means the values of that line: what is saved, written or given keeps them, whatever happens afterwards."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.seed.support import close, ids, rows, run
from tracing import LanguageModel, Model

PROMPT = "The Eiffel Tower is in"
PATH = "transformer.h.1"


def hidden(gpt2: LanguageModel) -> Tensor:
    return run(gpt2._model, ids(PROMPT), reads=[PATH])[1][PATH]


def written(gpt2: LanguageModel, edit: Callable[[Tensor], Any]) -> Tensor:
    """Logits of a forward in which a hook changes a copy of the block's output in place."""

    def hook(value: Tensor) -> Tensor:
        edit(value)
        return value

    return run(gpt2._model, ids(PROMPT), writes={PATH: hook})[0]


# -- saved values -----------------------------------------------------------------------------------------------------
def test_one_proxy_saved_several_times_keeps_each_version(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        value = gpt2.transformer.h[1].output
        kept = [value.save()]
        for _ in range(2):
            value *= 2
            kept.append(value.save())
        value[:, 0] = 0
        part = value[:, 0]
        zero = part.save()
        part += 1
        one = part.save()
    plain = hidden(gpt2)
    for times, saved in enumerate(kept):
        close(saved, plain * 2**times)
        assert torch.equal(torch.as_tensor(saved), saved.value)
    close(zero, torch.zeros_like(plain[:, 0]))
    close(one, torch.ones_like(plain[:, 0]))
    close(value.value, plain * 4)  # the proxy itself stands for what was saved of it last


def test_a_computed_value_saved_twice_keeps_each_version(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        doubled = gpt2.transformer.h[1].output * 2
        before = doubled.save()
        doubled[:, 1:] = 0
        after = doubled.save()
    close(before, hidden(gpt2) * 2)
    assert not after[:, 1:].any()
    assert after[:, 0].any()


def test_each_version_saved_in_a_block_of_steps(gpt2: LanguageModel) -> None:
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with gpt2.generate(PROMPT, **options) as tracer, tracer.iter[:]:
        last = gpt2.transformer.h[1].output[:, -1]
        before = last.save()
        last *= -1
        after = last.save()
    assert len(before.value) == 3
    for one, other in zip(before.value, after.value, strict=True):
        close(one, -other)


# -- constants --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [lambda: torch.zeros(32, dtype=torch.float64), lambda: np.zeros(32)])
def test_a_constant_changed_after_its_line_is_that_of_its_line(gpt2: LanguageModel, make: Callable[[], Any]) -> None:
    vector = make()
    with gpt2.trace(PROMPT):
        for layer in range(3):
            vector[layer] = 1.0
            gpt2.transformer.h[layer].output += vector
        logits = gpt2.output.save()
    vector[:] = -5.0

    def adding(layer: int) -> Callable[[Tensor], Tensor]:
        return lambda value: value + (torch.arange(32) <= layer)

    close(logits, run(gpt2._model, ids(PROMPT), writes={f"transformer.h.{n}": adding(n) for n in range(3)})[0])


def test_a_constant_of_an_edit_is_its_own(gpt2: LanguageModel) -> None:
    vector = torch.ones(32, dtype=torch.float64)
    with gpt2.edit() as edited:
        edited.transformer.h[1].output += vector
    vector.zero_()
    with edited.trace(PROMPT):
        logits = edited.output.save()
    close(logits, written(gpt2, lambda value: value.add_(1)))


def test_a_constant_that_stays_is_kept_once(gpt2: LanguageModel) -> None:
    vector = torch.ones(32, dtype=torch.float64)
    with gpt2.trace(PROMPT) as tracer:
        for layer in range(4):
            gpt2.transformer.h[layer].output[:, -1] = vector
        gpt2.output.save()
        kept = {id(node.args[2]) for node in tracer.graph.nodes if node.op == "write"}
    assert len(kept) == 1


# -- what a function or a module of one's own does in place -----------------------------------------------------------
def test_a_function_that_works_in_place_changes_neither_the_model_nor_what_was_saved(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT) as tracer:
        value = gpt2.transformer.h[1].output
        zeros = tracer.apply(lambda tensor: tensor.zero_(), value).save()
        kept, logits = value.save(), gpt2.output.save()
    assert not zeros.any()
    close(kept, hidden(gpt2))
    close(logits, run(gpt2._model, ids(PROMPT))[0])


def test_a_module_that_works_in_place_changes_its_own_copy() -> None:
    net = Model(nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4)).double())
    with net.trace(rows()):
        raw = net[0].input * 1
        positive = net[1](net[0].output).save()
        mixed = (net[0].output * net[2].output).save()
        raw.sum().save()
    given = net._model[0](rows()).detach()  # type: ignore[index]
    close(positive, given.relu())
    close(mixed, given * net._model(rows()).detach())


# -- indices and views ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("positions", [np.arange(3), torch.arange(3), np.arange(3, dtype=np.uint8)])
def test_whole_numbers_of_numpy_and_torch_select_views(gpt2: LanguageModel, positions: Any) -> None:
    with gpt2.trace(PROMPT):
        for position in positions:
            gpt2.transformer.h[1].output[:, position, :][..., :5] = 0
            gpt2.transformer.h[1].output[:, position : position + 1][..., 5] += 1
        logits = gpt2.output.save()

    def edit(value: Tensor) -> None:
        value[:, :3, :5] = 0
        value[:, :3, 5] += 1

    close(logits, written(gpt2, edit))


def test_a_saved_number_of_an_earlier_trace_selects_a_view(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        largest = gpt2.transformer.h[1].output[0].norm(dim=-1).argmax().save()
    with gpt2.trace(PROMPT):
        gpt2.transformer.h[1].output[:, largest][:, :4] = 0
        logits = gpt2.output.save()
    where = int(hidden(gpt2)[0].norm(dim=-1).argmax())
    close(logits, written(gpt2, lambda value: value[:, where, :4].zero_()))


def test_an_index_of_tensors_is_assigned_a_part_of_the_same_value(gpt2: LanguageModel) -> None:
    rows_of = torch.tensor([0, 2])
    with gpt2.trace(PROMPT):
        value = gpt2.transformer.h[1].output[0][0]
        value[rows_of] = value[1]
        after = gpt2.transformer.h[1].output.save()
    expected = hidden(gpt2).clone()
    expected[0, rows_of] = expected[0, 1].clone()
    close(after, expected)


@pytest.mark.parametrize(
    "write",
    [
        lambda value: value.split(8, -1)[3].zero_(),
        lambda value: value.chunk(4, -1)[1].mul_(2),
        lambda value: value.unflatten(-1, (4, 8)).unbind(2)[-1][..., 0].fill_(2.0),
        lambda value: torch.split(value, [3, 4], 1)[1].zero_(),
        lambda value: value.view(1, 7, 4, 8)[:, :, 1].zero_(),
        lambda value: value.diagonal(0, 1, 2)[:].fill_(4.0),
    ],
)
def test_writes_through_views_reach_the_model(gpt2: LanguageModel, write: Callable[[Any], Any]) -> None:
    with gpt2.trace(PROMPT):
        write(gpt2.transformer.h[1].output)
        logits = gpt2.output.save()
    close(logits, written(gpt2, write))


def test_parts_of_a_split_are_saved_and_written_as_views(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        parts = gpt2.transformer.h[1].output.split(16, -1)
        parts[0][:, -1] = 0
        first, second = parts[0].save(), parts[1].save()
        parts[1][:] = parts[0]
        logits = gpt2.output.save()

    def edit(value: Tensor) -> None:
        value[:, -1, :16] = 0
        value[..., 16:] = value[..., :16].clone()

    close(logits, written(gpt2, edit))
    expected = hidden(gpt2).clone()
    expected[:, -1, :16] = 0
    close(torch.cat([first, second], -1), expected)


def test_views_of_one_value_swap_as_in_torch(gpt2: LanguageModel) -> None:
    def swap(value: Any) -> None:
        first = value[:, 0]
        value[:, 0] = value[:, 1]
        value[:, 1] = first  # a view of what was overwritten
        first = value[:, 3].clone()
        value[:, 3] = value[:, 4]
        value[:, 4] = first

    with gpt2.trace(PROMPT):
        swap(gpt2.transformer.h[1].output)
        logits = gpt2.output.save()
    close(logits, written(gpt2, swap))


# -- tuples -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", [PATH, "transformer.h.1.attn"])
def test_a_tuple_built_from_the_rest_of_an_output_replaces_it(gpt2: LanguageModel, path: str) -> None:
    with gpt2.trace(PROMPT):
        place = gpt2.get(path)
        place.output = (place.output[0] * 0.5,) + place.output[1:]  # noqa: RUF005 (as older code says it)
        logits = gpt2.output.save()
    close(logits, run(gpt2._model, ids(PROMPT), writes={path: lambda value: value * 0.5})[0])


def test_a_tensor_in_place_of_a_tuple_is_refused_at_its_line(gpt2: LanguageModel) -> None:
    with pytest.raises(TypeError, match=r"returns a tuple of 2.*output\[0\]") as raised, gpt2.trace(PROMPT):
        gpt2.transformer.h[1].attn.output = gpt2.transformer.h[1].attn.output[0] * 0.5
        gpt2.output.save()
    assert "transformer.h.1.attn.output" in raised.value.__notes__[0]


def test_a_view_of_what_is_no_tensor_is_refused_at_its_line(gpt2: LanguageModel) -> None:
    with pytest.raises(TypeError, match="tuple lies there") as raised, gpt2.trace(PROMPT):
        gpt2.transformer.h[1].input[0].T[:] = 0
        gpt2.output.save()
    assert "test_versions.py" in raised.value.__notes__[0]
