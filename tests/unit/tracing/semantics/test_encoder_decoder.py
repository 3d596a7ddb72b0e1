"""Prompts of one batch of an encoder-decoder: padding of one side is never cut from the other."""

import pytest
import torch

from tests import zoo
from tracing import LanguageModel
from tracing.errors import PromptError


@pytest.fixture(scope="module")
def t5() -> LanguageModel:
    """Two layers on both sides, so that it can generate."""
    return LanguageModel(zoo.model("t5", num_decoder_layers=2))


@pytest.mark.parametrize("width", [2, 4, 7])
@pytest.mark.parametrize("decoder", [4, 5, 7, 8])
def test_a_decoder_as_long_as_the_padded_encoder_keeps_its_positions(
    t5: LanguageModel, width: int, decoder: int
) -> None:
    prompts, start = [zoo.ids(1, width), zoo.ids(1, width + 1)], zoo.ids(1, decoder)
    with t5.trace() as tracer:
        for prompt in prompts:
            with tracer.invoke(input_ids=prompt, decoder_input_ids=start):
                hidden = t5.decoder.block[0].output[0].save()
                logits = t5.output.save()
            if prompt is prompts[0]:
                short = hidden, logits

    assert short[0].shape == hidden.shape == (1, decoder, 32)
    for prompt, found in zip(prompts, (short[1], logits), strict=True):
        with torch.no_grad():
            expected = t5._model(input_ids=prompt, decoder_input_ids=start).logits
        torch.testing.assert_close(found.value, expected)


def test_a_growing_decoder_never_has_the_encoders_length(t5: LanguageModel) -> None:
    with t5.generate(max_new_tokens=9, min_new_tokens=9, use_cache=False) as tracer:
        with tracer.invoke([5, 6, 7]), tracer.iter[:9]:
            hidden = t5.decoder.block[0].output[0].save()
        with tracer.invoke([5, 6, 7, 8]):
            pass
    assert [one.shape[1] for one in hidden] == list(range(1, 10))


def test_decoder_prompts_of_unequal_lengths_are_not_one_generation(t5: LanguageModel) -> None:
    with (
        pytest.raises(PromptError, match=r"Decoder prompts of unequal lengths \(1, 3\)"),
        t5.generate(max_new_tokens=2) as tracer,
    ):
        for start in ([[2]], [[2, 7, 8]]):
            with tracer.invoke(input_ids=[[5, 6, 7]], decoder_input_ids=torch.tensor(start)):
                tracer.result.save()
