"""Semantics 11: modules called in a trace, attached modules, parameters."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.seed import support
from tests.unit.tracing.seed.support import close, ids, run
from tracing import LanguageModel
from tracing.errors import TracingError

PROMPT, OTHER = "The capital of France is", "The cat sat on the"


def logits_of(model: LanguageModel, prompt: Any = PROMPT, **writes: Any) -> Tensor:
    """Reference logits with blocks (`h1=function`) written by hooks."""
    return run(
        model._model, ids(prompt), writes={f"transformer.{name[0]}.{name[1:]}": f for name, f in writes.items()}
    )[0]


# -- modules called in a trace ----------------------------------------------------------------------------------------
def test_a_logit_lens_calls_modules_on_values_without_disturbing_the_run(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        lens = [gpt2.lm_head(gpt2.transformer.ln_f(block.output[0])).save() for block in gpt2.transformer.h]
        logits = gpt2.output.save()
        head = gpt2.lm_head.output.save()

    module: Any = gpt2._model
    expected, found = run(module, ids(PROMPT), reads=[f"transformer.h.{n}" for n in range(4)])
    for n, value in enumerate(lens):
        with torch.no_grad():
            close(value, module.lm_head(module.transformer.ln_f(found[f"transformer.h.{n}"])))
    close(logits, expected)
    close(head, expected)


def test_a_module_called_outside_a_trace_runs_now(gpt2: LanguageModel) -> None:
    hidden = torch.ones(1, 2, 32, dtype=torch.float64)
    module: Any = gpt2._model
    assert torch.equal(gpt2.transformer.ln_f(hidden), module.transformer.ln_f(hidden))


class Autoencoder(nn.Module):
    """A small sparse autoencoder."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.encoder = nn.Linear(32, 64).double()
            self.act = nn.ReLU()
            self.decoder = nn.Linear(64, 32).double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.act(self.encoder(x)))
        return out


def test_an_attached_module_has_sites_of_its_own() -> None:
    model = LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER, dtype=torch.float64)
    sae = Autoencoder()
    model.transformer.h[1].sae = sae
    with model.trace(PROMPT):
        block = model.transformer.h[1]
        block.output = block.sae(block.output)
        features = block.sae.act.output.save()
        block.sae.act.output[..., 3] = 0
        logits = model.output.save()

    def replace(value: Tensor) -> Tensor:
        inner = sae.act(sae.encoder(value))
        inner[..., 3] = 0
        return sae.decoder(inner)  # type: ignore[no-any-return]

    hidden = run(model._model, ids(PROMPT), reads=["transformer.h.1"])[1]["transformer.h.1"]
    with torch.no_grad():
        close(features, sae.act(sae.encoder(hidden)))
    close(logits, logits_of(model, h1=replace))
    assert "sae" not in dict(model._model.transformer.h[1].named_children())


def test_a_module_is_not_attached_over_one_of_the_model() -> None:
    model = LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER)
    with pytest.raises((TracingError, AttributeError), match="mlp"):
        model.transformer.h[1].mlp = Autoencoder()


# -- parameters -------------------------------------------------------------------------------------------------------
def test_parameters_are_read_outside_of_traces_as_they_are(gpt2: LanguageModel) -> None:
    module: Any = gpt2._model
    assert torch.equal(gpt2.lm_head.weight, module.lm_head.weight)
    assert torch.equal(gpt2.transformer.h[1].attn.c_attn.bias, module.transformer.h[1].attn.c_attn.bias)


def test_parameters_take_part_in_a_trace_and_cannot_be_changed_by_it(gpt2: LanguageModel) -> None:
    module: Any = gpt2._model
    before = module.lm_head.weight.clone()
    with gpt2.trace(PROMPT):
        scores = (gpt2.transformer.h[1].output @ gpt2.lm_head.weight.T).save()
        row = gpt2.lm_head.weight[3].save()

    value = run(module, ids(PROMPT), reads=["transformer.h.1"])[1]["transformer.h.1"]
    close(scores, (value @ before.T).detach())
    row.value.zero_()
    assert torch.equal(module.lm_head.weight, before)
