"""Semantics 10: steps of a generation are read and written one by one; code after a loop always runs."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.tracing.seed.support import close, ids
from tracing import LanguageModel
from tracing.errors import GradientError, RecordError, StepNotReachedError

PROMPT = "The capital of France is"
STEPS = 4


def plain(
    model: LanguageModel,
    prompt: Any,
    *,
    read: str = "transformer.h.3",
    write: tuple[str, Any] | None = None,
    steps: int = STEPS,
    **options: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Ids, a module's output at each step, and logits at each step, by transformers and hooks.

    `write` is a path and a function of (step, tensor).
    """
    tokens = ids(prompt)
    found: list[Tensor] = []
    logits: list[Tensor] = []
    count = -1

    def changing(_: Any, __: Any, output: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return write[1](count, output.clone()) if write else output  # type: ignore[no-any-return]

    module: Any = model._model
    with (
        module.get_submodule(write[0] if write else read).register_forward_hook(changing),
        module.get_submodule(read).register_forward_hook(lambda _, __, out: found.append(out.clone())),
        module.register_forward_hook(lambda _, __, out: logits.append(out.logits.clone())),
    ):
        options = {"max_new_tokens": steps, "do_sample": False, "pad_token_id": 0, **options}
        out = module.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    return out, found, logits


def generate(model: LanguageModel, prompt: Any = PROMPT, **options: Any) -> Any:
    """Greedy generation."""
    return model.generate(prompt, **{"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": 0, **options})


def test_result_is_what_transformers_generates(gpt2: LanguageModel, llama: LanguageModel) -> None:
    for model, block in ((gpt2, "transformer.h.1"), (llama, "model.layers.1")):
        with generate(model) as tracer:
            result = tracer.result.save()
        assert torch.equal(result.value, plain(model, PROMPT, read=block)[0])


@pytest.mark.parametrize(
    ("select", "steps"),
    [
        (lambda tracer: tracer.iter[:], [0, 1, 2, 3]),
        (lambda tracer: tracer.all(), [0, 1, 2, 3]),
        (lambda tracer: tracer.iter[:2], [0, 1]),
        (lambda tracer: tracer.iter[1:3], [1, 2]),
        (lambda tracer: tracer.iter[::2], [0, 2]),
        (lambda tracer: tracer.iter[2], [2]),
        (lambda tracer: tracer.iter[[0, 3]], [0, 3]),
    ],
)
def test_a_loop_reads_its_steps(gpt2: LanguageModel, select: Any, steps: list[int]) -> None:
    hidden, logits, numbers = [], [], []
    with generate(gpt2) as tracer:
        for step in select(tracer):
            numbers.append(step)
            hidden.append(gpt2.transformer.h[3].output.save())
            logits.append(gpt2.output.save())
        result = tracer.result.save()

    tokens, found, scores = plain(gpt2, PROMPT)
    assert numbers == steps
    assert torch.equal(result.value, tokens)
    for step, one, out in zip(steps, hidden, logits, strict=True):
        assert tuple(one.shape) == (1, 5 if step == 0 else 1, 32)
        close(one, found[step])
        close(out[:, -1], scores[step][:, -1])


def test_a_block_over_steps_is_recorded_once_and_saves_a_list(gpt2: LanguageModel) -> None:
    bodies = 0
    with generate(gpt2) as tracer:
        with tracer.iter[1:4]:
            bodies += 1
            hidden = gpt2.transformer.h[3].output.save()
        result = tracer.result.save()

    tokens, found, _ = plain(gpt2, PROMPT)
    assert bodies == 1
    assert torch.equal(result.value, tokens)
    assert len(hidden) == 3
    for one, expected in zip(hidden, found[1:4], strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-12, atol=1e-12)


def test_outside_of_loops_a_site_is_that_of_the_first_step(gpt2: LanguageModel) -> None:
    with generate(gpt2):
        hidden = gpt2.transformer.h[3].output.save()
    close(hidden, plain(gpt2, PROMPT)[1][0])


def test_next_goes_from_step_to_step(gpt2: LanguageModel) -> None:
    with generate(gpt2) as tracer:
        zero = gpt2.transformer.h[3].output.save()
        tracer.next()
        one = gpt2.transformer.h[3].output.save()
        tracer.next()
        two = gpt2.transformer.h[3].output.save()

    _, found, _ = plain(gpt2, PROMPT)
    for value, expected in zip((zero, one, two), found, strict=False):
        close(value, expected)


def test_next_of_a_module_is_its_next_step(gpt2: LanguageModel) -> None:
    with generate(gpt2):
        zero = gpt2.transformer.h[3].output.save()
        one = gpt2.transformer.h[3].next().output.save()

    _, found, _ = plain(gpt2, PROMPT)
    close(zero, found[0])
    close(one, found[1])


@pytest.mark.parametrize("block", [True, False])
def test_a_write_at_each_step_changes_what_is_generated(gpt2: LanguageModel, block: bool) -> None:
    vector = torch.linspace(-3, 3, 32, dtype=torch.float64)
    with generate(gpt2) as tracer:
        if block:
            with tracer.all():
                gpt2.transformer.h[1].output[:, -1] += vector
        else:
            for _ in tracer.all():
                gpt2.transformer.h[1].output[:, -1] += vector
        result = tracer.result.save()

    def write(step: int, value: Tensor) -> Tensor:
        value[:, -1] += vector
        return value

    tokens, _, _ = plain(gpt2, PROMPT, write=("transformer.h.1", write))
    assert not torch.equal(tokens, plain(gpt2, PROMPT)[0])
    assert torch.equal(result.value, tokens)


def test_a_write_at_one_step_leaves_those_before_it_alone(gpt2: LanguageModel) -> None:
    found = []
    with generate(gpt2) as tracer:
        for step in tracer.all():
            if step == 2:
                gpt2.transformer.h[1].output[:] = 0
            found.append(gpt2.output[:, -1].save())

    def write(step: int, value: Tensor) -> Tensor:
        return torch.zeros_like(value) if step == 2 else value

    _, _, changed = plain(gpt2, PROMPT, write=("transformer.h.1", write))
    for value, expected in zip(found, changed, strict=True):
        close(value, expected[:, -1])


def test_a_value_of_an_earlier_step_is_used_in_a_later_one(gpt2: LanguageModel) -> None:
    with generate(gpt2) as tracer:
        first = gpt2.transformer.h[1].output[:, -1]
        for _ in tracer.iter[1:]:
            gpt2.transformer.h[1].output[:, -1] = first
        result = tracer.result.save()

    kept: list[Tensor] = []

    def write(step: int, value: Tensor) -> Tensor:
        if step == 0:
            kept.append(value[:, -1].clone())
        else:
            value[:, -1] = kept[0]
        return value

    assert torch.equal(result.value, plain(gpt2, PROMPT, write=("transformer.h.1", write))[0])


def test_code_after_a_loop_runs_when_the_model_stops_early(gpt2: LanguageModel) -> None:
    free = plain(gpt2, PROMPT)[0][0, 5:].tolist()
    made = free.index(free[1]) + 1
    steps = []
    with generate(gpt2, eos_token_id=free[1]) as tracer:
        for _ in tracer.all():
            steps.append(gpt2.output[0, -1].argmax().save())
        first = gpt2.transformer.h[0].output.save()
        result = tracer.result.save()

    assert result[0, 5:].tolist() == free[:made]
    assert tuple(first.shape) == (1, 5, 32)
    assert [int(step) for step in steps[:made]] == free[:made]
    for step in steps[made:]:
        with pytest.raises(StepNotReachedError, match="step"):
            int(step)


def test_a_whole_output_of_a_step_that_never_came_says_so(gpt2: LanguageModel) -> None:
    with generate(gpt2, eos_token_id=plain(gpt2, PROMPT)[0][0, 5].item()):
        late = gpt2.lm_head.next(2).output.save()
    with pytest.raises(StepNotReachedError, match="The generation ended after 1 step"):
        late.norm()


def test_a_block_over_steps_saves_the_steps_that_came(gpt2: LanguageModel) -> None:
    free = plain(gpt2, PROMPT)[0][0, 5:].tolist()
    made = free.index(free[1]) + 1
    with generate(gpt2, eos_token_id=free[1]) as tracer:
        with tracer.all():
            best = gpt2.output[0, -1].argmax().save()
        result = tracer.result.save()

    assert len(result[0]) == 5 + made
    assert [int(one) for one in best] == free[:made]


def test_a_growing_list_holds_the_steps_that_came(gpt2: LanguageModel) -> None:
    free = plain(gpt2, PROMPT)[0][0, 5:].tolist()
    made = free.index(free[1]) + 1
    with generate(gpt2, eos_token_id=free[1]) as tracer:
        found = tracer.list().save()
        for _ in tracer.all():
            found.append(gpt2.output[0, -1].argmax())

    assert [int(one) for one in found] == free[:made]


def test_prompts_of_unequal_length_generate_what_they_generate_alone(gpt2: LanguageModel) -> None:
    prompts = (PROMPT, "Hello world")
    with gpt2.generate(max_new_tokens=STEPS, do_sample=False, pad_token_id=0) as tracer:
        results, hidden = [], []
        for prompt in prompts:
            with tracer.invoke(prompt):
                results.append(tracer.result.save())
                hidden.append([gpt2.transformer.h[3].output[:, -1].save() for _ in tracer.all()])

    for prompt, result, values in zip(prompts, results, hidden, strict=True):
        tokens, found, _ = plain(gpt2, prompt)
        assert result.tolist() == tokens.tolist()
        for value, expected in zip(values, found, strict=True):
            close(value, expected[:, -1])


def test_a_write_in_one_prompt_of_a_batch_leaves_the_other_alone(gpt2: LanguageModel) -> None:
    with gpt2.generate(max_new_tokens=STEPS, do_sample=False, pad_token_id=0) as tracer:
        with tracer.invoke(PROMPT):
            for _ in tracer.all():
                gpt2.transformer.h[1].output[:] = 0
            changed = tracer.result.save()
        with tracer.invoke("Hello world"):
            clean = tracer.result.save()

    zero = ("transformer.h.1", lambda _, value: torch.zeros_like(value))
    assert changed.tolist() == plain(gpt2, PROMPT, write=zero)[0].tolist()
    assert clean.tolist() == plain(gpt2, "Hello world")[0].tolist()


def test_sampling_with_a_seed_is_that_of_transformers(gpt2: LanguageModel) -> None:
    torch.manual_seed(3)
    expected = plain(gpt2, PROMPT, do_sample=True)[0]
    torch.manual_seed(3)
    with generate(gpt2, do_sample=True) as tracer:
        gpt2.transformer.h[0].output.save()
        result = tracer.result.save()
    assert torch.equal(result.value, expected)


def test_an_unknown_step_is_an_error(gpt2: LanguageModel) -> None:
    with pytest.raises(RecordError, match="step 7"), generate(gpt2) as tracer:
        for _ in tracer.iter[7]:
            gpt2.output.save()


def test_steps_in_trace_and_gradients_in_generate_are_errors(gpt2: LanguageModel) -> None:
    with pytest.raises(RecordError, match="generate"), gpt2.trace(PROMPT) as tracer:
        for _ in tracer.iter[:2]:
            gpt2.output.save()
    with pytest.raises(GradientError, match="generate"), generate(gpt2):
        gpt2.output[0, -1, 0].backward()
    with pytest.raises(RecordError), gpt2.trace(PROMPT) as tracer:
        tracer.result.save()


def test_generate_without_an_intervention_gives_the_ids(gpt2: LanguageModel) -> None:
    with generate(gpt2) as tracer:
        result = tracer.result.save()
    assert torch.equal(result.value, plain(gpt2, PROMPT)[0])
    assert not result.value.is_inference()
