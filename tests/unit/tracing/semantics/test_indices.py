"""Semantics 7: whole numbers of NumPy's and torch's mean at a block what Python's do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.tracing.seed.support import close, ids
from tracing import LanguageModel
from tracing.errors import RecordError

TOKENS = torch.cat([ids("The keys to the cabinet"), ids("The keys to the cabinet").flip(1)])
NUMBERS = [np.int64, np.uint8, torch.tensor]


@pytest.mark.parametrize("number", NUMBERS)
def test_any_zero_is_the_whole_hidden_state(gpt2: LanguageModel, number: Any) -> None:
    with gpt2.trace(TOKENS):
        block = gpt2.transformer.h[1]
        whole, read = block.output.save(), block.output[number(0)].save()
        args = block.input[number(0)][0].save()
        block.output[number(0)] = block.output * 0
        written = block.output.save()
    close(read, whole.value)
    assert args.shape == whole.shape
    assert not written.any()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_view_of_any_zero_is_written_whole(gpt2: LanguageModel, number: Any) -> None:
    with gpt2.trace(TOKENS):
        gpt2.transformer.h[1].output[number(0)][:] = 0
        written = gpt2.transformer.h[1].output.save()
    assert not written.any()


@pytest.mark.parametrize("number", NUMBERS)
def test_any_one_is_refused(gpt2: LanguageModel, number: Any) -> None:
    uses: tuple[Callable[[Any], Any], ...] = (
        lambda block: block.output[number(1)],
        lambda block: block.output.__setitem__(number(1), 0),
        lambda block: block.input[number(1)],
        lambda block: block.input.__setitem__(number(1), 0),
    )
    for use in uses:
        with pytest.raises(RecordError, match=r"\[1\]"), gpt2.trace(TOKENS):
            use(gpt2.transformer.h[1])


def test_the_positional_arguments_are_written_as_a_tuple(gpt2: LanguageModel) -> None:
    with gpt2.trace(TOKENS):
        given = gpt2.transformer.h[1].input.save()
        gpt2.transformer.h[1].input[0] = (gpt2.transformer.h[1].input * 2,)
        changed = gpt2.transformer.h[1].input.save()
    close(changed, given.value * 2)
    with pytest.raises(RecordError, match="tuple"), gpt2.trace(TOKENS):
        gpt2.transformer.h[1].input[0] = gpt2.transformer.h[1].input * 2
