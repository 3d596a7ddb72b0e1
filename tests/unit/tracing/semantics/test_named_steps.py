"""Steps that the user names: what `as` gives is no number, a slice stays within the steps, a lost change is told."""

import operator
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tracing import LanguageModel
from tracing.errors import RecordError, StepNotReachedWarning

PROMPT = [5, 6, 7]
STEPS = 4


def early(model: LanguageModel, **options: Any) -> Any:
    """A generation whose text ends with its first token."""
    with model.generate(PROMPT, max_new_tokens=1, do_sample=False) as tracer:
        ids = tracer.result.save()
    options = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0, **options}
    return model.generate(PROMPT, eos_token_id=int(ids[0, -1]), **options)


# -- what `as` gives --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "use",
    [
        lambda step: step == 1,
        lambda step: step != 1,
        lambda step: step < 1,
        lambda step: step >= 1,
        bool,
        int,
        operator.index,
        hash,
        lambda step: step + 1,
        lambda step: 2 * step,
        lambda step: step % 2,
        lambda step: [1, 2][step],
    ],
)
def test_what_as_gives_is_no_number(gpt2: LanguageModel, use: Callable[[Any], Any]) -> None:
    with gpt2.generate(PROMPT, max_new_tokens=2) as tracer:
        with (
            tracer.iter[:] as step,
            pytest.raises(RecordError, match=r"is no number \(at test_named_steps.*write `for step in tracer.iter\["),
        ):
            use(step)
        gpt2.output.save()


# -- slices -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize(
    "steps", [slice(4, 6), slice(0, 6), slice(None, 3), slice(2, None), slice(-5, None)], ids=lambda one: str(one)[6:-1]
)
def test_a_slice_beyond_the_steps_is_refused(gpt2: LanguageModel, steps: slice, opened: bool) -> None:
    said = (
        r"goes beyond the steps of this generation \(at test_named_steps.*With max_new_tokens=2 there are steps 0 to 1"
    )
    with pytest.raises(RecordError, match=said), gpt2.generate(PROMPT, max_new_tokens=2) as tracer:
        if opened:
            with tracer.iter[steps]:
                gpt2.output.save()
        else:
            for _ in tracer.iter[steps]:
                gpt2.output.save()


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (slice(None), [0, 1, 2]),
        (slice(1, None), [1, 2]),
        (slice(-1, None), [2]),
        (slice(0, 3), [0, 1, 2]),
        (slice(3, 3), []),
        (slice(9, 9), []),
        (slice(0), []),
    ],
)
def test_a_slice_within_the_steps_gives_them(gpt2: LanguageModel, steps: slice, expected: list[int]) -> None:
    with gpt2.generate(PROMPT, max_new_tokens=3) as tracer:
        found = list(tracer.iter[steps])
        gpt2.output.save()
    assert found == expected


# -- texts that end early ---------------------------------------------------------------------------------------------
def _write(model: LanguageModel) -> None:
    model.transformer.h[1].output[:, -1] *= 1


def _skip(model: LanguageModel) -> None:
    model.transformer.h[1].skip(torch.zeros(1, 1, 32, dtype=torch.float64))


def _change(model: LanguageModel, change: Callable[[LanguageModel], None], how: str) -> None:
    """A change in a named step of a text that ends before it."""
    with early(model) as tracer:
        if how == "next":
            tracer.next(2)
            change(model)
        elif how == "with":
            with tracer.iter[1:3]:
                change(model)
        else:
            for _ in tracer.iter[{"for": slice(1, 3), "from": slice(2, None), "number": 2}[how]]:
                change(model)
        tracer.result.save()


@pytest.mark.parametrize("change", [_write, _skip])
@pytest.mark.parametrize("how", ["for", "with", "from", "number", "next"])
def test_a_change_in_a_named_step_that_never_came_warns(
    gpt2: LanguageModel, change: Callable[[LanguageModel], None], how: str
) -> None:
    with pytest.warns(StepNotReachedWarning, match=r"after 1 step, so the .* in step \d of transformer.h.1") as found:
        _change(gpt2, change, how)
    (warning,) = (one for one in found if one.category is StepNotReachedWarning)
    assert warning.filename == __file__


@pytest.mark.parametrize("how", ["all", "with all", "from", "condition", "edit"])
def test_a_change_for_as_long_as_the_text_lasts_does_not_warn(gpt2: LanguageModel, how: str) -> None:
    model: Any = gpt2
    if how == "edit":
        with gpt2.edit() as model:
            _write(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with early(model) as tracer:
            if how == "all":
                for _ in tracer.all():
                    _write(model)
            elif how == "with all":
                with tracer.iter[:]:
                    _write(model)
            elif how == "from":
                for _ in tracer.iter[0:]:
                    _write(model)
            elif how == "condition":
                for _ in tracer.iter[0:2]:
                    with tracer.cond(model.transformer.h[0].output.sum() > 1e9):
                        _write(model)
            tracer.result.save()


def test_steps_that_came_do_not_warn(gpt2: LanguageModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gpt2.generate(PROMPT, max_new_tokens=3, eos_token_id=None) as tracer:
            for _ in tracer.iter[0:3]:
                _write(gpt2)
            tracer.result.save()
