"""An adapter that describes the model passes; one that is wrong in any part fails loudly."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.decoders import FAMILIES, gpt2, language_model
from tracing import families
from tracing.errors import AdapterError
from tracing.families import HeadSlice
from tracing.models import LanguageModel


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_adapter_of_a_family_is_exact(family: str, dtype: torch.dtype) -> None:
    report = families.check(language_model(family, dtype))
    assert report.exact
    assert max(identity.error for identity in report.identities) < (1e-14 if dtype == torch.float64 else 1e-5)
    assert "describes this model" in str(report)
    assert "pattern·v = z" in str(report)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"v": HeadSlice("attn.c_attn", 1, 3)}, "pattern"),
        ({"embeddings": ("transformer.wte",)}, "residual"),
        ({"mlp": "mlp.c_fc"}, None),
        ({"attn": "ln_1"}, None),
        ({"out_proj": "attn.c_projection"}, None),
    ],
    ids=["k for v", "positions forgotten", "wrong width", "wrong module", "no such path"],
)
def test_a_wrong_adapter_is_refused(change: dict, broken: str | None) -> None:
    model = LanguageModel(gpt2(), verify=False)
    model.adapter = replace(model.adapter, **change)
    with pytest.raises(AdapterError):
        families.check(model)
    if broken is not None:
        report = families.check(model, strict=False)
        assert [identity.name for identity in report.identities if not identity.holds] == [broken]


def test_checking_leaves_no_hooks_and_the_attention_as_it_was() -> None:
    model = language_model("llama")
    families.check(model)
    assert model.attention == "sdpa"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())


def state(module: nn.Module) -> list[object]:
    """What a check might leave behind: hooks, modes, and every config's values."""
    parts = list(module.modules())
    return [
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts],
        [part.training for part in parts],
        [(part, dict(vars(part.config))) for part in parts if hasattr(part, "config")],
    ]


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash_attention_2"])
def test_verifying_on_load_leaves_the_module_as_it_was(attention: str) -> None:
    module = gpt2()
    module.config._attn_implementation = attention
    before = state(module)
    LanguageModel(module)
    assert state(module) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_a_check_that_breaks_leaves_the_module_as_it_was(
    attention: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = gpt2()
    module.config._attn_implementation = attention
    before = state(module)

    def fail(*_: object, **__: object) -> None:
        raise error("in the middle of the forward")

    monkeypatch.setattr(module.transformer.h[1].mlp, "forward", fail)
    with pytest.raises(AdapterError if error is RuntimeError else error):
        LanguageModel(module)
    assert state(module) == before


def test_a_family_can_be_registered_once() -> None:
    with pytest.raises(ValueError, match="'gpt2' is already registered"):
        families.register(families.adapter_of("gpt2"))
