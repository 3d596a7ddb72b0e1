"""Generation in a trace is transformers' own with plain hooks: the same ids, and values at each step to 1e-12."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity import hooks
from tests.parity.subjects import GENERATING, UNPADDED, Subject, error, generating
from tracing.errors import StepNotReachedError

TOLERANCE = 1e-12
FLOAT32 = 1e-6
STEPS = 4
GREEDY: dict[str, Any] = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": 1000}
PADDED = [name for name in GENERATING if name not in UNPADDED]


def prompt_of(one: Subject, number: int, short: bool = False) -> dict[str, Tensor]:
    """A prompt to go on with: ids, for T5 those of its encoder."""
    return {"input_ids": one.prompt(number, short)["input_ids"]}


def plain(one: Subject, prompt: dict[str, Tensor], places: Any = (), edits: Any = (), **options: Any) -> Any:
    mask = torch.ones_like(prompt["input_ids"])
    return hooks.generates(one.module, {**prompt, "attention_mask": mask}, places, edits, **{**GREEDY, **options})


def places_of(one: Subject) -> list[tuple[str, int, hooks.Place]]:
    return [(site, layer, place) for site, layer, place in one.places() if layer == 1 and "encoder" not in site]


def close(found: Any, value: Tensor, what: Any, name: str = "") -> None:
    """In a padded batch GPT-J, whose attention is in float32 always, sums otherwise than alone."""
    assert error(found, value) < (FLOAT32 if name == "gptj" else TOLERANCE), what


@pytest.mark.parametrize("name", GENERATING)
def test_ids_and_values_at_each_step(name: str) -> None:
    one = generating(name)
    prompt, places = prompt_of(one, 0), places_of(one)
    ids, seen = plain(one, prompt, [place for *_, place in places])
    with one.model.generate(prompt, **GREEDY) as tracer:
        found: list[list[Any]] = [[] for _ in places]
        logits = []
        for _ in tracer.iter[:]:
            for number, (site, layer, _) in enumerate(places):
                found[number].append(one.site(site, layer).save())
            logits.append(one.model.output[:, -1].argmax(-1).save())
        result = tracer.result.save()
    assert torch.equal(result.value, ids)
    assert [int(token) for token in logits] == ids[0, -STEPS:].tolist()
    for number, (site, layer, _) in enumerate(places):
        for step in range(STEPS):
            assert torch.equal(found[number][step].value, seen[number][step]), (site, layer, step)


@pytest.mark.parametrize("name", GENERATING)
def test_a_block_of_steps_a_list_and_next_read_the_same(name: str) -> None:
    one = generating(name)
    prompt, place = prompt_of(one, 1), one.where.place("resid_post", 1)
    _, seen = plain(one, prompt, [place])
    with one.model.generate(prompt, **GREEDY) as tracer:
        with tracer.iter[1:3]:
            block = one.model.sites.resid_post[1].save()
        grown = tracer.list().save()
        with tracer.all():
            grown.append(one.model.sites.resid_post[1][:, -1])
        single = one.model.sites.resid_post[1].save()
    for value, expected in zip(block.value, seen[0][1:3], strict=True):
        assert torch.equal(value, expected)
    for value, expected in zip(grown.value, seen[0], strict=True):
        assert torch.equal(value, expected[:, -1])
    assert torch.equal(single.value, seen[0][0])
    module = one.model.get(place.path)
    with one.model.generate(prompt, **GREEDY):
        stepwise = [module.output.save(), *(module.next().output.save() for _ in range(STEPS - 1))]
    for value, expected in zip(stepwise, seen[0], strict=True):
        assert torch.equal(value.value, expected)


@pytest.mark.parametrize("steps", [slice(None), slice(2, 3), slice(1, 3)], ids=["all", "one", "range"])
@pytest.mark.parametrize("name", GENERATING)
def test_writes_at_steps(name: str, steps: slice) -> None:
    """In both forms of a loop: what is written changes the ids, and what the later steps remember."""
    one = generating(name)
    prompt = prompt_of(one, 0)
    chosen = range(STEPS)[steps]
    sites = ["resid_post", *[site for site in ("z", "v", "mlp_out", "resid_mid") if site in one.where.sites]]
    vector = torch.cos(torch.arange(32, dtype=torch.float64))
    last = one.where.place("resid_post", one.layers - 1)
    for site in sites:
        place = one.where.place("attn_out" if site == "resid_mid" and one.name != "bloom" else site, 1)

        def edit(step: int, part: Tensor, site: str = site) -> None:
            if step in chosen:
                part[:, -1] += 2.0 * vector[: part.shape[-1]]

        ids, seen = plain(one, prompt, [last], [(place, edit)])
        width = one.where.d if site in ("z", "v") else 32
        for block in (False, True):
            with one.model.generate(prompt, **GREEDY) as tracer:
                kept = tracer.list().save()
                if block:
                    with tracer.iter[steps]:
                        getattr(one.model.sites, site)[1][:, -1] += 2.0 * vector[:width]
                else:
                    for _ in tracer.iter[steps]:
                        getattr(one.model.sites, site)[1][:, -1] += 2.0 * vector[:width]
                for _ in tracer.iter[:]:
                    kept.append(one.model.sites.resid_post[one.layers - 1])
                result = tracer.result.save()
            assert torch.equal(result.value, ids), (site, block)
            for step, (value, expected) in enumerate(zip(kept.value, seen[0], strict=True)):
                close(value, expected, (site, block, step))


@pytest.mark.parametrize("name", PADDED)
def test_prompts_of_unequal_lengths_equal_one_by_one(name: str) -> None:
    one = generating(name)
    prompts = [prompt_of(one, 0, short=True), prompt_of(one, 1), prompt_of(one, 2, short=True)]
    places = places_of(one)
    results, values = [], []
    with one.model.generate(**GREEDY) as tracer:
        for prompt in prompts:
            with tracer.invoke(prompt):
                found: list[list[Any]] = [[] for _ in places]
                for _ in tracer.iter[:]:
                    for number, (site, layer, _) in enumerate(places):
                        found[number].append(one.site(site, layer).save())
                values.append(found)
                results.append(tracer.result.save())
    for prompt, result, found in zip(prompts, results, values, strict=True):
        ids, seen = plain(one, prompt, [place for *_, place in places])
        assert torch.equal(result.value, ids)
        for number, (site, layer, _) in enumerate(places):
            for step in range(STEPS):
                close(found[number][step], seen[number][step], (site, layer, step), name)


@pytest.mark.parametrize("name", PADDED)
def test_a_write_to_one_of_several_prompts(name: str) -> None:
    one = generating(name)
    prompts, place = [prompt_of(one, 0, short=True), prompt_of(one, 1)], one.where.place("resid_post", 0)
    with one.model.generate(**GREEDY) as tracer:
        with tracer.invoke(prompts[0]):
            untouched = tracer.result.save()
        with tracer.invoke(prompts[1]):
            for _ in tracer.iter[1:]:
                one.model.sites.resid_post[0] *= -2.0
            edited = tracer.result.save()
            hidden = tracer.list().save()
            for _ in tracer.iter[:]:
                hidden.append(one.model.sites.resid_post[1])

    def edit(step: int, part: Tensor) -> None:
        if step >= 1:
            part *= -2.0

    assert torch.equal(untouched.value, plain(one, prompts[0])[0])
    ids, seen = plain(one, prompts[1], [one.where.place("resid_post", 1)], [(place, edit)])
    assert torch.equal(edited.value, ids)
    for value, expected in zip(hidden.value, seen[0], strict=True):
        close(value, expected, name, name)


@pytest.mark.parametrize("name", PADDED)
def test_one_prompt_is_given_the_value_of_another_at_each_step(name: str) -> None:
    one = generating(name)
    prompts, place = [prompt_of(one, 0, short=True), prompt_of(one, 1)], one.where.place("resid_post", 1)
    with one.model.generate(**GREEDY) as tracer:
        with tracer.invoke(prompts[0]):
            given = [one.model.sites.resid_post[1][:, -1] for _ in tracer.iter[:]]
        with tracer.invoke(prompts[1]):
            for step in tracer.iter[:]:
                one.model.sites.resid_post[1][:, -1] = given[step]
            result = tracer.result.save()
    _, seen = plain(one, prompts[0], [place])

    def edit(step: int, part: Tensor) -> None:
        part[:, -1] = seen[0][step][:, -1]

    assert torch.equal(result.value, plain(one, prompts[1], (), [(place, edit)])[0])


@pytest.mark.parametrize("name", GENERATING)
def test_an_early_end(name: str) -> None:
    """A token of the text is made the end: the loop goes without the steps that never came, the rest runs."""
    one = generating(name)
    prompt, place = prompt_of(one, 0), one.where.place("resid_post", 1)
    whole, _ = plain(one, prompt)
    end = int(whole[0, -3])
    ids, seen = plain(one, prompt, [place], eos_token_id=end)
    with one.model.generate(prompt, **{**GREEDY, "eos_token_id": end}) as tracer:
        grown = tracer.list().save()
        for _ in tracer.iter[:]:
            grown.append(one.model.sites.resid_post[1])
        with tracer.iter[:]:
            block = one.model.sites.resid_post[1].save()
        for _ in tracer.iter[STEPS - 1]:
            absent = one.model.sites.resid_post[1].save()
        result = tracer.result.save()
    assert torch.equal(result.value, ids)
    assert len(seen[0]) < STEPS
    for values in (grown.value, block.value):
        for value, expected in zip(values, seen[0], strict=True):
            assert torch.equal(value, expected)
    with pytest.raises(StepNotReachedError):
        absent.value  # noqa: B018


@pytest.mark.parametrize("name", PADDED)
def test_an_early_end_of_one_prompt_of_several(name: str) -> None:
    one = generating(name)
    prompts, place = [prompt_of(one, 0, short=True), prompt_of(one, 1)], one.where.place("resid_post", 1)
    alone = [plain(one, prompt)[0] for prompt in prompts]
    end = int(alone[0][0, -3])
    if end in alone[1][0, -STEPS:].tolist():
        prompts[1] = prompt_of(one, 3)
    options = {**GREEDY, "eos_token_id": end, "pad_token_id": 2}
    results = []
    with one.model.generate(**options) as tracer:
        for prompt in prompts:
            with tracer.invoke(prompt):
                results.append(tracer.result.save())
                other = [one.model.sites.resid_post[1].save() for _ in tracer.iter[:]]
    short, long = [plain(one, prompt, [place], eos_token_id=end, pad_token_id=2) for prompt in prompts]
    assert torch.equal(results[0].value[:, : short[0].shape[1]], short[0])
    assert (results[0].value[:, short[0].shape[1] :] == 2).all()
    assert torch.equal(results[1].value, long[0])
    for value, expected in zip(other, long[1][0], strict=False):
        close(value, expected, name, name)


@pytest.mark.parametrize("name", GENERATING)
def test_sampling_with_a_seed(name: str) -> None:
    one = generating(name)
    options = {"do_sample": True, "temperature": 1.5, "top_k": 20}
    prompt = prompt_of(one, 0)
    torch.manual_seed(5)
    ids, _ = plain(one, prompt, **options)
    torch.manual_seed(5)
    with one.model.generate(prompt, **{**GREEDY, **options}) as tracer:
        for _ in tracer.iter[:]:
            one.model.sites.resid_post[1].save()
        result = tracer.result.save()
    assert torch.equal(result.value, ids)
    both = {"input_ids": torch.cat([prompt_of(one, number)["input_ids"] for number in range(2)])}
    torch.manual_seed(6)
    ids, _ = plain(one, both, **options)
    torch.manual_seed(6)
    with one.model.generate(**{**GREEDY, **options}) as tracer:
        results = []
        for number in range(2):
            with tracer.invoke(prompt_of(one, number)):
                results.append(tracer.result.save())
    for row, result in enumerate(results):
        assert torch.equal(result.value, ids[row : row + 1])


@pytest.mark.parametrize("name", ["t5", "t5_gated"])
def test_the_encoder_of_a_generation(name: str) -> None:
    """It runs once, before the first step; what is written there every step sees."""
    one = generating(name)
    prompt, place = prompt_of(one, 0), hooks.T5_ENCODER.place("resid_post", 1)
    ids, seen = plain(one, prompt, [place, one.where.place("resid_post", 1)], [(place, lambda _, part: part.mul_(-1))])
    with one.model.generate(prompt, **GREEDY) as tracer:
        one.model.sites.encoder_resid_post[1] *= -1.0
        encoded = one.model.sites.encoder_resid_post[1].save()
        decoded = [one.model.sites.resid_post[1].save() for _ in tracer.iter[:]]
        result = tracer.result.save()
    assert torch.equal(result.value, ids)
    close(encoded, -seen[0][0] if error(encoded, seen[0][0]) > 1 else seen[0][0], name)
    for value, expected in zip(decoded, seen[1], strict=True):
        close(value, expected, name)
