"""Of which prompt and of which step a cache holds values is always said; it is never the first one silently."""

import pytest
import torch

from tests.unit.tracing.seed.support import close
from tracing import LanguageModel
from tracing.errors import RecordError

PROMPT, OTHER = "The keys to the cabinet", "The cat sat"
PATH = "transformer.h.1"


def test_a_cache_outside_of_every_prompt_is_refused(gpt2: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"tracer\.invoke"), gpt2.trace() as tracer:
        tracer.cache(modules=[PATH])
        with tracer.invoke(PROMPT):
            gpt2.output.save()


def test_a_cache_after_the_prompts_is_refused(gpt2: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"tracer\.invoke"), gpt2.trace() as tracer:
        with tracer.invoke(PROMPT):
            gpt2.output.save()
        tracer.cache(modules=[PATH])


def test_a_cache_of_the_whole_batch(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        for prompt in (PROMPT, OTHER):
            with tracer.invoke(prompt):
                gpt2.output.save()
        with tracer.invoke():
            cache = tracer.cache(modules=[PATH])
            whole = gpt2.get(PATH).output.save()
    close(cache[PATH].output, whole.value)
    assert len(whole) == 2


def test_a_cache_of_a_generation_names_its_step(gpt2: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"tracer\.iter"), gpt2.generate(PROMPT, max_new_tokens=3) as tracer:
        tracer.cache(modules=[PATH])


def test_a_cache_of_each_step(gpt2: LanguageModel) -> None:
    with gpt2.generate(PROMPT, max_new_tokens=3, min_new_tokens=3) as tracer:
        caches, saved = [], []
        for _ in tracer.iter[:]:
            caches.append(tracer.cache(modules=[PATH], include_inputs=True))
            saved.append(gpt2.get(PATH).output.save())
            gpt2.get(PATH).output[:] *= 2
        tracer.next()
        caches.append(tracer.cache(modules=[PATH]))
    for cache, value in zip(caches, [*saved, saved[1]], strict=True):
        close(cache[PATH].output, value.value * 2)
    assert caches[1][PATH].input.shape == (1, 1, 32)


def test_a_cache_of_a_repeated_block_holds_lists(gpt2: LanguageModel) -> None:
    with gpt2.generate(PROMPT, max_new_tokens=3, min_new_tokens=3) as tracer:
        with tracer.iter[:]:
            some = tracer.cache(modules=[PATH], include_inputs=True, dtype=torch.float32)
            every = tracer.cache()
            output = gpt2.get(PATH).output
            output[:] *= 2
            saved = output.save()
        first = gpt2.transformer.h[0].output.save()
    assert [len(values) for values in (some[PATH].output, some[PATH].input, saved.value)] == [3, 3, 3]
    for left, right, value in zip(some[PATH].output, every[PATH].output, saved.value, strict=True):
        close(left, value.float())
        close(right, value)
    assert "transformer.h" not in every
    assert first.shape[0] == 1
