"""Looks refuse what cannot be meant, where a number would be that of something else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.decoders import language_model, pair
from tracing.errors import ModelError, PromptError, SpecError, TracingError
from tracing.lenses.attention import attention_patterns
from tracing.lenses.detectors import detect_heads
from tracing.lenses.direct import direct_logit_attribution
from tracing.lenses.logit_lens import logit_lens
from tracing.lenses.saliency import token_attribution
from tracing.lenses.steered import steer
from tracing.lenses.steering import SteeringVector, steering_vector
from tracing.lenses.tuned import TunedLens

GOOD = pair([3, 5, 7], [3, 6, 7], (5,), (6,))


def _vector(model: Any, prompts: Any, **options: Any) -> Any:
    return steering_vector(model, prompts, [[7]], **{"layers": 1, **options})


def _steered(model: Any, prompts: Any, **options: Any) -> Any:
    return steer(model, prompts, _vector(model, [[5, 6]]), max_new_tokens=options.pop("max_new_tokens", 1), **options)


LOOKS: dict[str, Callable[..., Any]] = {
    "logit lens": logit_lens, "attention": attention_patterns, "steering vector": _vector, "steering": _steered,
}  # fmt: skip
PROMPTS = {
    "ids beyond the vocabulary": [[5, 97]],
    "negative ids": [[5, -1]],
    "ids that are no whole numbers": [[5, 1.5]],
    "a tensor of such": torch.tensor([[5.0, 1.5]]),
    "texts among rows": [[5, 6], "a"],
    "nothing": None,
    "an empty row": [[]],
}


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("look", LOOKS)
def test_prompts_that_the_model_cannot_read_are_refused(look: str, prompts: str) -> None:
    with pytest.raises(PromptError):
        LOOKS[look](language_model("gpt2"), PROMPTS[prompts])


@pytest.mark.parametrize(
    ("look", "options"),
    [
        (logit_lens, {"run": "corupted"}), (attention_patterns, {"run": "corupted"}), (_steered, {"run": "corupted"}),
        (logit_lens, {"positions": "middle"}), (logit_lens, {"at": "anwser"}), (logit_lens, {"at": True}),
        (logit_lens, {"top": True}), (logit_lens, {"top": 1.5}), (logit_lens, {"layers": [True]}),
        (logit_lens, {"layers": [1.0]}), (attention_patterns, {"heads": [True]}),
        (attention_patterns, {"heads": [0.5]}),
        (direct_logit_attribution, {"top": 1.5}), (direct_logit_attribution, {"position": True}),
        (direct_logit_attribution, {"position": "x"}), (_steered, {"max_new_tokens": 1.5}),
        (token_attribution, {"steps": True}), (token_attribution, {"batch": True}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else value.__name__,
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(look: Callable[..., Any], options: dict[str, Any]) -> None:
    with pytest.raises(TracingError):
        look(language_model("gpt2"), [GOOD], **options)


@pytest.mark.parametrize(
    "options", [{"position": "lats"}, {"position": 1.5}, {"position": True}, {"layers": True}], ids=str
)
def test_a_steering_vector_says_where_it_is_from(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        _vector(language_model("gpt2"), [[5, 6]], **options)


@pytest.mark.parametrize(
    ("look", "words"),
    [
        (lambda model: detect_heads(model, kinds=[]), "no list of detectors"),
        (lambda model: detect_heads(model, kinds="induction"), "no list of detectors"),
        (lambda model: direct_logit_attribution(model, [GOOD], by="neuron", top=-1), "top=-1 is no number of neurons"),
        (lambda model: logit_lens(model, [GOOD], lens="x"), "no tuned lens"),
        (lambda model: steer(model, [[5, 6]], None), "no steering vector"),
    ],
)
def test_a_refusal_names_the_option_that_is_wrong(look: Callable[..., Any], words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        look(language_model("gpt2"))
    assert caught.value.remedy


@pytest.mark.parametrize("kind", [TunedLens, SteeringVector])
def test_missing_and_damaged_files_are_named(kind: Any, tmp_path: Path) -> None:
    model = language_model("gpt2")
    made = TunedLens.identity(model) if kind is TunedLens else _vector(model, [[5, 6]])
    made.to_files(tmp_path / "one")
    (tmp_path / "one.safetensors").write_bytes(b"abc")
    with pytest.raises(ModelError, match=r"one\.safetensors is damaged"):
        kind.from_files(tmp_path / "one")
    (tmp_path / "one.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no file one\.safetensors"):
        kind.from_files(tmp_path / "one")
    for text, words in (("{bro", "damaged"), ("[]", "no JSON object")):
        (tmp_path / "one.json").write_text(text)
        with pytest.raises(ModelError, match=words):
            kind.from_files(tmp_path / "one")
    with pytest.raises(ModelError, match=r"no file two\.json") as caught:
        kind.from_files(tmp_path / "two")
    assert "to_files" in caught.value.remedy
