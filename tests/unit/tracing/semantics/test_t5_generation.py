"""Generation of an encoder-decoder: its encoder runs once, its decoder once a step. Values are those of plain hooks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests import zoo
from tests.unit.tracing.seed.support import close
from tracing import LanguageModel

STEPS = 4
IDS = zoo.ids(2, 6)
OPTIONS = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}


@pytest.fixture(scope="module")
def t5() -> LanguageModel:
    """Three layers in each stack: transformers generates only where they are equally many."""
    return LanguageModel(zoo.model("t5", torch.float64, num_layers=3))


def _module(model: LanguageModel) -> Any:
    return model._model


class Hook:
    """Keeps the main output of every call of a module; changes that of the call `at`."""

    def __init__(self, module: Any, at: int | None = None, factor: float = 1.0) -> None:
        self.seen: list[Tensor] = []
        self._at, self._factor = at, factor
        self._handle = module.register_forward_hook(self)

    def __call__(self, module: Any, args: Any, output: Any) -> Any:
        main = output if isinstance(output, Tensor) else output[0]
        if self._at == len(self.seen):
            main = main * self._factor
            output = main if isinstance(output, Tensor) else (main, *output[1:])
        self.seen.append(main.clone())
        return output

    def __enter__(self) -> "Hook":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def _plain(model: LanguageModel, ids: Tensor = IDS) -> Tensor:
    with torch.inference_mode():
        found: Tensor = _module(model).generate(ids, **OPTIONS)
    return found


def test_reads_of_both_stacks_are_those_of_hooks_at_every_step(t5: LanguageModel) -> None:
    module = _module(t5)
    with Hook(module.encoder.block[1]) as encoded, Hook(module.decoder.block[1]) as decoded, Hook(module) as last:
        expected = _plain(t5)
    hidden, logits = [], []
    with t5.generate(IDS, **OPTIONS) as tracer:
        memory = t5.encoder.block[1].output[0].save()
        for _ in tracer.iter[:STEPS]:
            hidden.append(t5.decoder.block[1].output[0].save())
            logits.append(t5.output.save())
        result = tracer.result.save()
    assert torch.equal(result, expected)
    assert len(encoded.seen) == 1
    close(memory, encoded.seen[0])
    assert len(decoded.seen) == STEPS
    for found, wanted in zip(hidden, decoded.seen, strict=True):
        close(found, wanted)
    assert [tuple(one.shape) for one in logits] == [(2, 1, zoo.VOCABULARY)] * STEPS
    assert len(last.seen) == STEPS


@pytest.mark.parametrize("step", range(STEPS))
def test_a_write_to_the_decoder_at_one_step_is_that_of_a_hook(t5: LanguageModel, step: int) -> None:
    module = _module(t5)
    with Hook(module.decoder.block[0], at=step, factor=-4.0), Hook(module.decoder.block[2]) as after:
        expected = _plain(t5)
    last = []
    with t5.generate(IDS, **OPTIONS) as tracer:
        for number in tracer.iter[:STEPS]:
            if number == step:
                t5.decoder.block[0].output[0][:] *= -4.0
            last.append(t5.decoder.block[2].output[0].save())
        result = tracer.result.save()
    assert torch.equal(result, expected)
    for found, wanted in zip(last, after.seen, strict=True):
        close(found, wanted)


def test_a_write_to_the_encoder_holds_for_the_whole_generation(t5: LanguageModel) -> None:
    module = _module(t5)
    with Hook(module.encoder.block[1], at=0, factor=-4.0), Hook(module.decoder.block[2]) as after:
        expected = _plain(t5)
    last = []
    with t5.generate(IDS, **OPTIONS) as tracer:
        t5.encoder.block[1].output[0][:] *= -4.0
        for _ in tracer.iter[:STEPS]:
            last.append(t5.decoder.block[2].output[0].save())
        result = tracer.result.save()
    assert torch.equal(result, expected)
    for found, wanted in zip(last, after.seen, strict=True):
        close(found, wanted)


def test_prompts_of_unequal_lengths_generate_what_each_does_alone(t5: LanguageModel) -> None:
    short, long = zoo.ids(1, 3), zoo.ids(1, 7)
    found = []
    with t5.generate(**OPTIONS) as tracer:
        for ids in (short, long):
            with tracer.invoke(ids):
                steps = [t5.decoder.block[1].output[0].save() for _ in tracer.iter[:STEPS]]
                found.append((t5.encoder.block[1].output[0].save(), steps, tracer.result.save()))
    for ids, (memory, steps, result) in zip((short, long), found, strict=True):
        with Hook(_module(t5).encoder.block[1]) as encoded, Hook(_module(t5).decoder.block[1]) as decoded:
            expected = _plain(t5, ids)
        assert torch.equal(result, expected)
        close(memory, encoded.seen[0])
        for one, wanted in zip(steps, decoded.seen, strict=True):
            close(one, wanted)
