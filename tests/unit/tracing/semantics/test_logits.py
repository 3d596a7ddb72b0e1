"""Semantics 8: `model.output` is the logits tensor; other fields hang off it; without logits it is what came back."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.seed.support import close, ids, rows, run
from tracing import LanguageModel, Model
from tracing.errors import TracingError

PROMPT = "The capital of France is"


def test_output_is_the_logits_tensor(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        logits = gpt2.output.save()
        best = gpt2.output.argmax(-1).save()
        last = gpt2.output[0, -1].softmax(-1).save()
        named = gpt2.output.logits.save()
        head = gpt2.lm_head.output.save()

    expected, _ = run(gpt2._model, ids(PROMPT))
    assert tuple(logits.shape) == (1, 5, expected.shape[-1])
    close(logits, expected)
    close(named, expected)
    close(head, expected)
    assert torch.equal(best.value, expected.argmax(-1))
    close(last, expected[0, -1].softmax(-1))


def test_writing_the_output_changes_what_later_reads_see(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        before = gpt2.output.save()
        gpt2.output[:, -1, 3] = 100.0
        after = gpt2.output.save()
        best = gpt2.output[0, -1].argmax().save()

    expected = before.value.clone()
    expected[:, -1, 3] = 100
    assert torch.equal(after.value, expected)
    assert int(best) == 3


def test_the_loss_hangs_off_the_output(gpt2: LanguageModel) -> None:
    tokens = ids(PROMPT)
    with gpt2.trace(tokens, labels=tokens):
        loss = gpt2.output.loss.save()
        logits = gpt2.output.save()

    expected: Any = gpt2._model(input_ids=tokens, labels=tokens)
    close(loss, expected.loss.detach())
    close(logits, expected.logits.detach())


def test_past_key_values_hang_off_the_output(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT, use_cache=True):
        cache = gpt2.output.past_key_values.save()
    assert cache.value.get_seq_length() == 5


def test_a_field_that_is_not_there_names_those_that_are(gpt2: LanguageModel) -> None:
    with pytest.raises((TracingError, AttributeError), match="logits"), gpt2.trace(PROMPT):
        gpt2.output.loss.save()


def test_sites_logits_are_the_same(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        site = gpt2.sites.logits.save()
    close(site, run(gpt2._model, ids(PROMPT))[0])


class Returns(nn.Module):
    """Returns a structure."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Any:
        out = self.layer(x)
        return {"tuple": (out, out * 2), "dict": {"a": out, "b": [out * 2]}, "tensor": out}[self.kind]


def test_a_model_without_logits_gives_what_it_returned() -> None:
    expected = Returns("tensor").layer
    for kind in ("tuple", "dict", "tensor"):
        module = Returns(kind)
        module.layer = expected
        model = Model(module)
        with model.trace(rows()):
            whole = model.output.save()
            part = {"tuple": lambda o: o[1], "dict": lambda o: o["b"][0], "tensor": lambda o: o * 2}[kind](model.output)
            part = part.save()
        assert type(whole.value) is {"tuple": tuple, "dict": dict, "tensor": Tensor}[kind]
        close(part, expected(rows()).detach() * 2)


def test_a_part_of_a_returned_structure_can_be_written() -> None:
    model = Model(Returns("dict"))
    with model.trace(rows()):
        model.output["b"][0][:, 0] = 9
        whole = model.output.save()
    assert (whole["b"][0][:, 0] == 9).all()
    assert not (whole["a"] == 9).any()
