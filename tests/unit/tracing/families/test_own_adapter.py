"""A module of one's own: the compiled Tracr transformers, with an adapter of a few lines."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tracr
from tests.parity.conftest import shared
from tracing import families
from tracing.errors import AdapterError, SiteError
from tracing.families import registry


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    families.register(tracr.ADAPTER)
    yield
    registry._FAMILIES.pop("tracr")
    registry._OWN.discard("tracr")


@pytest.fixture(params=tracr.NAMES)
def model(request: pytest.FixtureRequest) -> tracr.Tracr:
    return tracr.load(shared("tracr") / request.param)


def test_the_module_computes_what_the_compiler_recorded(request: pytest.FixtureRequest, model: tracr.Tracr) -> None:
    name = request.node.callspec.params["model"]
    recorded = np.load(shared("tracr") / name / "jax_io.npz")
    seen: list[torch.Tensor] = []
    for part in (*(block.mlp for block in model.blocks), model.unembed):
        part.register_forward_hook(lambda _, args, output: seen.append(args[0]))
    for length in range(1, 6):
        seen.clear()
        with torch.no_grad():
            logits = model(torch.tensor(recorded[f"tokens_{length}"]).long())
        np.testing.assert_allclose(logits, recorded[f"logits_{length}"], atol=1e-4)
        np.testing.assert_allclose(seen[-1], recorded[f"final_resid_{length}"], atol=1e-4)
        for layer, mid in enumerate(seen[:-1]):
            np.testing.assert_allclose(mid, recorded[f"resid_{length}"][2 * layer], atol=1e-4)


def test_an_adapter_of_a_few_lines_is_certified(model: tracr.Tracr) -> None:
    report = families.check(model)
    names = [identity.name for identity in report.identities]
    assert names == ["residual", "block", "heads", "pattern", "queries and keys", "readout"]
    assert max(identity.error for identity in report.identities) < 1e-10
    assert "softmax(q·k / √d_head) = pattern" in str(report)


@pytest.mark.parametrize(
    "change",
    [
        {"q": families.HeadSlice("attn.v")},
        {"v": families.HeadSlice("attn.q")},
        {"mid": ("", "inputs")},
        {"embeddings": ("embed",)},
        {"out_proj": "attn.v"},
        {"mlp": "mlp.fc_in"},
        {"pattern_item": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_wrong_adapter_of_ones_own_is_refused(change: dict) -> None:
    model = tracr.load(shared("tracr") / "reverse")
    families.register(replace(tracr.ADAPTER, **change), replace=True)
    with pytest.raises(AdapterError):
        families.check(model)


def test_sites_inside_attention_do_not_exist_and_the_pattern_is_read_only() -> None:
    model = tracr.load(shared("tracr") / "hist")
    facts = families.model_facts(model.config)
    with pytest.raises(SiteError, match="no site 'scores'"):
        tracr.ADAPTER.site("scores", 0, facts)
    assert tracr.ADAPTER.site("pattern", 0, facts).read_only


def test_replacing_a_registration_has_to_be_said() -> None:
    with pytest.raises(ValueError, match=r"'tracr' is already registered\. Pass replace=True"):
        families.register(tracr.ADAPTER)
    families.register(tracr.ADAPTER, replace=True)
    with pytest.raises(ValueError, match=r"'gpt2' is already registered\. Choose another"):
        families.register(families.adapter_of("gpt2"), replace=True)


def test_the_example_of_the_registry_is_an_adapter() -> None:
    example = registry.__doc__.partition("    from tracing")[2].partition("\n\n`config`")[0]
    lines = [line.removeprefix("    ") for line in f"from tracing{example}".splitlines()]
    try:
        exec("\n".join(lines), {})
        assert families.adapter_of("mine").site("z", 1, FACTS).path == "layers.1.attn.out"
    finally:
        registry._FAMILIES.pop("mine", None)
        registry._OWN.discard("mine")


FACTS = families.model_facts({"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2,
                              "vocab_size": 9, "max_position_embeddings": 7, "intermediate_size": 5})  # fmt: skip
