"""Semantics 8: the keys and values that a model caches hang off its output, as the user's own copy."""

from typing import Any

import pytest
import torch

from tests import zoo
from tests.unit.tracing.seed.support import close, ids
from tracing import LanguageModel

PROMPT = "The keys to the cabinet"


def test_naming_the_cache_asks_for_it(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        cache = gpt2.output.past_key_values.save()
        keys = gpt2.transformer.h[1].attn.c_attn.output.chunk(3, -1)[1].save()
    with gpt2.trace(PROMPT):
        logits = gpt2.output.save()
    with gpt2.trace(PROMPT) as tracer:
        _ = gpt2.output.past_key_values.save()
        same = gpt2.output.save()
    found: Any = cache.value.layers[1].keys
    close(found.transpose(1, 2).flatten(2), keys.value)
    assert not found.is_inference()
    close(logits, same.value)
    assert tracer.graph.stages[0].options == {"use_cache": True}


def test_a_user_who_wants_no_cache_is_told(gpt2: LanguageModel) -> None:
    with pytest.raises(AttributeError, match="use_cache=True"), gpt2.trace(PROMPT, use_cache=False):
        gpt2.output.past_key_values.save()
    with pytest.raises(AttributeError, match="output_hidden_states=True"), gpt2.trace(PROMPT):
        gpt2.output.hidden_states.save()


def test_a_cache_of_a_step_is_a_copy_of_that_step(gpt2: LanguageModel) -> None:
    with gpt2.generate(PROMPT, max_new_tokens=3, min_new_tokens=3) as tracer:
        caches = [gpt2.output.past_key_values.save() for _ in tracer.iter[:]]
        twice = gpt2.output.past_key_values.save()
    length = ids(PROMPT).shape[1]
    assert [cache.value.get_seq_length() for cache in caches] == [length, length + 1, length + 2]
    first, last = caches[0].value.layers[0].keys, caches[2].value.layers[0].keys
    close(last[:, :, :length], first)
    first.zero_()
    assert last.any()
    assert twice.value.layers[0].keys.any()


def test_the_cache_of_a_padded_prompt_has_no_padding(gpt2: LanguageModel) -> None:
    with gpt2.generate(max_new_tokens=2, min_new_tokens=2) as tracer, tracer.invoke([[3, 4, 5]]):
        gpt2.next()
        padded = gpt2.output.past_key_values.save()
    with gpt2.trace([[3, 4, 5]]):
        alone = gpt2.output.past_key_values.save()
    assert padded.value.get_seq_length() == 4
    close(padded.value.layers[3].values[:, :, :3], alone.value.layers[3].values)


def test_the_state_of_a_mamba_is_a_copy() -> None:
    model = LanguageModel(zoo.model("mamba"))
    with model.trace(zoo.ids()):
        state = model.output.cache_params.save()
    tensors = [value for value in vars(state.value).values() if isinstance(value, torch.Tensor)]
    assert not any(tensor.is_inference() for tensor in tensors)
