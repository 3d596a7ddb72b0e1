"""Where programs end: steps that cannot come, forwards that are stopped, loops over no steps, rows of beams."""

from typing import Any

import pytest
import torch

from tracing import LanguageModel
from tracing.errors import RecordError, SiteNotReachedError, StepNotReachedError
from tracing.graph.loops import unrolled
from tracing.graph.nodes import Graph, Loop, Site, Stage

PROMPT = [5, 6, 7]


# -- steps ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["write", "skip"])
@pytest.mark.parametrize("shift", ["tracer", "module"])
def test_a_change_in_a_step_that_cannot_come_is_refused(gpt2: LanguageModel, how: str, shift: str) -> None:
    with (
        pytest.raises(StepNotReachedError, match=rf"The {how} at .* is of step 3 of .*at most 3 steps, 0 to 2"),
        gpt2.generate(PROMPT, max_new_tokens=3) as tracer,
    ):
        block = gpt2.transformer.h[1]
        if shift == "tracer":
            tracer.next(3)
        else:
            block = block.next(3)
        if how == "skip":
            block.skip(torch.zeros(1, 1, 32, dtype=torch.float64))
        else:
            block.output[:] = 0
        tracer.result.save()


def test_a_change_in_the_last_step_holds(gpt2: LanguageModel) -> None:
    found: list[Any] = []
    for step in (None, 2):
        with gpt2.generate(PROMPT, max_new_tokens=3, do_sample=False) as tracer:
            if step is not None:
                tracer.next(step)
                gpt2.lm_head.output[...] = 0
                gpt2.lm_head.output[..., 11] = 1
            found.append(tracer.result.save())
    assert found[1][0, -1] == 11
    assert torch.equal(found[0][:, :-1], found[1][:, :-1])


# -- beams ------------------------------------------------------------------------------------------------------------
def test_rows_of_unequal_length_have_no_inner_padding_with_beams(gpt2: LanguageModel) -> None:
    options = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False, "pad_token_id": 0}
    with gpt2.generate([[5, 6, 7], [8, 9]], **options) as tracer:
        both = tracer.result.save()
    with gpt2.generate(PROMPT, **options) as tracer:
        alone = tracer.result.save()
    assert both.shape == (2, 6)
    assert torch.equal(both[:1], alone.value)


# -- stops ------------------------------------------------------------------------------------------------------------
def test_a_stop_before_anything_keeps_the_forward_from_running(gpt2: LanguageModel) -> None:
    called = []
    handle = gpt2._model.register_forward_pre_hook(lambda *_: called.append(1))
    try:
        with gpt2.trace(PROMPT) as tracer:
            tracer.stop()
            logits = gpt2.output.save()
    finally:
        handle.remove()
    assert not called
    with pytest.raises(SiteNotReachedError, match=r"tracer.stop\(\) ended the forward before it reached model.output"):
        logits.value  # noqa: B018


def test_a_stop_outside_of_prompts_waits_for_something(gpt2: LanguageModel) -> None:
    with pytest.raises(RecordError, match="Nothing is recorded yet"), gpt2.trace() as tracer:
        tracer.stop()


def test_a_stop_ends_its_own_trace_of_a_session(gpt2: LanguageModel) -> None:
    with gpt2.session():
        with gpt2.trace(PROMPT) as tracer:
            first = gpt2.transformer.h[0].output.save()
            tracer.stop()
            gpt2.transformer.h[1].output.save()
        with gpt2.trace(PROMPT) as tracer:
            tracer.stop()
            never = gpt2.transformer.h[0].output.save()
        with gpt2.trace(PROMPT):
            last, logits = gpt2.transformer.h[2].output.save(), gpt2.output.save()
    assert first.shape == last.shape == (1, 3, 32)
    assert torch.equal(logits.value, gpt2._model(torch.tensor([PROMPT])).logits)
    with pytest.raises(SiteNotReachedError):
        never.value  # noqa: B018


# -- loops ------------------------------------------------------------------------------------------------------------
def test_a_loop_over_no_steps_changes_nothing(gpt2: LanguageModel) -> None:
    with gpt2.generate(PROMPT, max_new_tokens=2) as tracer:
        before, values = gpt2.transformer.h[0].output * 1, tracer.list().save()
        with tracer.iter[2:2]:
            inside = gpt2.output.save()
            values.append(inside)
            before[:] = 0
        after = (before * 1).save()
    assert values == []
    assert inside == []
    assert bool((after != 0).any())


@pytest.mark.parametrize(("steps", "expected"), [(0, 1), (2, 3)])
def test_a_value_from_before_a_loop_is_saved_after_it_as_the_last_step_left_it(
    gpt2: LanguageModel, steps: int, expected: int
) -> None:
    with gpt2.generate(PROMPT, max_new_tokens=2) as tracer:
        count = gpt2.transformer.h[0].output[0, 0] * 0 + 1
        with tracer.iter[:steps]:
            count += 1
        saved = count.save()
    assert torch.equal(saved.value, torch.full((32,), expected, dtype=torch.float64))


@pytest.mark.parametrize("use", ["value", "condition"])
def test_a_value_of_a_loop_over_no_steps_cannot_be_used_after_it(gpt2: LanguageModel, use: str) -> None:
    with (
        pytest.raises(RecordError, match=r"test_ends.py:\d+.* is of a loop over no generation steps"),
        gpt2.generate(PROMPT, max_new_tokens=2) as tracer,
    ):
        with tracer.iter[2:2]:
            inside = gpt2.output[0, -1, 0]
        if use == "value":
            (inside * 2).save()
        else:
            with tracer.cond(inside > 0):
                (gpt2.lm_head.output * 2).save()


def test_a_stored_loop_over_no_steps_has_a_named_error() -> None:
    graph, loop = Graph(stages=[Stage(0)]), Loop(())
    site = graph.record("site", (Site(0, None, "", "output"),), {}, loop=loop)
    graph.record("mul", (site, 2), {})
    with pytest.raises(RecordError, match="loop over no generation steps"):
        unrolled(graph)
