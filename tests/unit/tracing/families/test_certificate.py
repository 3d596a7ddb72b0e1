"""An adapter that describes the model passes; one that is wrong in any part fails loudly."""

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests import zoo
from tests.decoders import gpt2, language_model
from tracing import families
from tracing.errors import AdapterError
from tracing.families import HeadSlice
from tracing.families.certificate import CheckReport
from tracing.models import LanguageModel

STREAM = ["residual", "block"]
ATTENTION = ["heads", "pattern", "queries", "keys"]
IDENTITIES = {
    name: [*STREAM, *ATTENTION, "readout"] for name in zoo.ZOO if name not in ("mamba", "t5", "t5_gated")
} | {
    "mamba": [*STREAM, "readout"],
    **{name: ["encoder_residual", "encoder_block", *STREAM, "readout"] for name in ("t5", "t5_gated")},
}  # fmt: skip


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_identity_of_every_architecture_holds_in_float64(name: str) -> None:
    report = families.check(zoo.model(name, torch.float64), inputs=zoo.example_inputs(name))
    assert [identity.name for identity in report.identities] == IDENTITIES[name]
    assert {identity.name: identity.error for identity in report.identities if identity.error > 1e-14} == {}
    assert not report.unchecked


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_check_chooses_an_input_by_itself_and_holds_in_float32(name: str) -> None:
    report = families.check(zoo.model(name))
    assert report.exact
    assert max(identity.error for identity in report.identities) < 1e-5
    assert "describes this model" in str(report)


SWAPS = {
    "gpt2": {"q": HeadSlice("attn.c_attn", 1, 3), "k": HeadSlice("attn.c_attn", 0, 3)},
    "gpt_neox": {"q": HeadSlice("attention.query_key_value", 0, 3)},
    "opt": {"q": HeadSlice("self_attn.k_proj")},
    "falcon_new": {"k": HeadSlice("self_attention.query_key_value", 2, 3, "grouped")},
    "qwen3": {"qk_norm": ("", "self_attn.k_norm")},
    "bert": {"k": HeadSlice("attention.self.query")},
}


@pytest.mark.parametrize("name", SWAPS)
def test_swapped_queries_and_keys_break_only_their_identities(name: str) -> None:
    found = broken(name, SWAPS[name])
    assert found
    assert found <= {"queries", "keys"}


BREAKS = [
    ("gpt2", {"v": HeadSlice("attn.c_attn", 1, 3)}, {"pattern"}),
    ("gpt2", {"embeddings": ("transformer.wte",)}, {"residual"}),
    ("bert", {"embeddings": ("bert.embeddings.word_embeddings",)}, {"residual"}),
    ("gpt2", {"unembed": "transformer.wte"}, None),
    ("gpt2", {"out_proj": "attn.resid_dropout"}, None),
    ("llama", {"out_proj": "mlp.down_proj"}, None),
    ("llama", {"mid": ("input_layernorm", "inputs")}, {"block"}),
    ("llama", {"final_norm": "model.layers.0.input_layernorm"}, {"readout"}),
    ("gemma2", {"mlp_out": ""}, {"residual", "block"}),
    ("gemma2", {"attn_out": ""}, {"residual", "block"}),
    ("bloom", {"attn_out": ""}, {"residual", "block", "heads"}),
    ("bloom", {"mlp_out": ""}, {"residual", "block"}),
    ("bert", {"norm_after": ("output.LayerNorm", "attention.output.LayerNorm")}, {"block"}),
    ("bert", {"out_proj": "output.dense"}, None),
    ("opt", {"flat": ()}, None),
    ("mamba", {"others": (("mixer_out", "norm"),)}, {"residual", "block"}),
    ("t5", {"others": (("cross_out", "layer.0.SelfAttention.o"),)}, {"residual", "block"}),
    ("vit", {"v": HeadSlice("attention.k_proj")}, {"pattern"}),
    ("gpt_neox", {"v": HeadSlice("attention.query_key_value", 2, 3)}, {"pattern"}),
    ("falcon", {"mlp": "mlp.dense_h_to_4h"}, None),
    ("gpt2", {"blocks": "transformer.layers"}, None),
    ("gpt2", {"mlp": "mlp.c_fc"}, None),
    ("gpt2", {"attn": "ln_1"}, None),
    ("gpt2", {"out_proj": "attn.c_projection"}, None),
]


def _case(value: Any) -> str:
    """The name of a case. A set's order differs from process to process, and the suite runs in several."""
    return str(sorted(value) if isinstance(value, set) else value)[:40]


@pytest.mark.parametrize(("name", "change", "which"), BREAKS, ids=_case)
def test_a_wrong_adapter_is_refused(name: str, change: dict, which: set[str] | None) -> None:
    with pytest.raises(AdapterError):
        certified(name, change, strict=True)
    if which is not None:
        assert broken(name, change) == which


def test_a_broken_encoder_is_found() -> None:
    encoder = replace(families.adapter_of("t5").encoder, mlp_out="layer.0.SelfAttention.o")
    assert broken("t5", {"encoder": encoder}) == {"encoder_residual", "encoder_block"}


class Wrapped:
    """What the check asks of one of our wrappers."""

    def __init__(self, name: str, change: dict) -> None:
        self._model = zoo.model(name, torch.float64)
        self.adapter = replace(families.adapter_for(self._model), **change)
        self.facts = families.model_facts(families.config_of(self._model))


def certified(name: str, change: dict, *, strict: bool) -> CheckReport:
    return families.check(Wrapped(name, change), strict=strict, inputs=zoo.example_inputs(name))


def broken(name: str, change: dict) -> set[str]:
    return {identity.name for identity in certified(name, change, strict=False).identities if not identity.holds}


def test_the_check_leaves_the_attention_of_other_threads_alone() -> None:
    module = gpt2().double()
    ids = torch.arange(9)[None]
    seen: list[object] = []

    def attend() -> None:
        seen.append(module.transformer.h[0].attn(torch.ones(1, 3, 32, dtype=torch.float64))[1])

    def elsewhere() -> None:
        thread = threading.Thread(target=attend)
        thread.start()
        thread.join()

    handle = module.transformer.h[1].mlp.register_forward_hook(lambda *_: elsewhere())
    families.check(module, inputs={"input_ids": ids})
    handle.remove()
    assert seen == [None]


def test_attention_that_cannot_run_here_is_named() -> None:
    module = gpt2()
    module.config._attn_implementation = "flash_attention_2"
    before = state(module)
    with pytest.raises(AdapterError, match="its flash_attention_2 attention cannot run here"):
        families.check(module)
    assert state(module) == before


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


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_verifying_on_load_leaves_the_module_as_it_was(attention: str) -> None:
    module = gpt2()
    module.config._attn_implementation = attention
    before = state(module)
    LanguageModel(module)
    assert state(module) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyError, KeyboardInterrupt])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
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
