"""Direct contributions add up on every family, and each is the matrix formula on what plain hooks saw (float64)."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import decoders, zoo
from tests.unit.tracing.lenses import exact
from tracing import LanguageModel, VisionModel
from tracing.errors import AdapterError, MetricError, PromptError, SiteError, SpecError, Stopped
from tracing.lenses.direct import direct_logit_attribution
from tracing.lenses.frozen import FrozenNorm
from tracing.metrics import Targets, get
from tracing.patching.inputs import ImagePair

ALL = [name for name in zoo.ZOO if name not in ("bert", "vit")]
HEADLESS = ("mamba", "t5", "t5_gated")
LACKING = {"component": (), "head": HEADLESS, "neuron": ("mamba", "mixtral")}
CASES = [(name, by) for name in ALL for by, without in LACKING.items() if name not in without]


def metric_of(model: LanguageModel, ids: tuple[int, ...], pair: object, metric: str) -> float:
    """The metric of the model's own logits at the last position."""
    start = {"decoder_input_ids": torch.tensor([[2]])} if model.family == "t5" else {}
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([ids]), **start).logits[:, -1]
    return float(get(metric)(logits, Targets.of([pair]))[0])  # type: ignore[list-item]


@pytest.mark.parametrize(("name", "by"), CASES)
def test_contributions_and_bias_add_up_to_the_models_own_metric(name: str, by: str) -> None:
    model, pairs = exact.language_model(name), decoders.pairs(3)
    found = direct_logit_attribution(model, pairs, by=by, top=4)  # type: ignore[arg-type]
    tolerance = 1e-6 if name == "mamba" else 1e-10  # its logits are float32
    assert found.error < tolerance
    for run in ("clean", "corrupted", "difference"):
        total = found.bars.values[run].sum()
        assert total == pytest.approx(found.measured[run].mean(), abs=tolerance)
    if name == "gemma2":  # which softcaps its logits: the sum is that of the logits before
        capped = [metric_of(model, pair.clean_ids, pair, "logit_diff") for pair in pairs]
        assert found.bars.facts["before_softcap"]
        assert found.bars.facts["clean_after_softcap"] == pytest.approx(np.mean(capped), abs=1e-10)
        return
    for number, pair in enumerate(pairs):
        for run, ids in (("clean", pair.clean_ids), ("corrupted", pair.corrupted_ids)):
            own = metric_of(model, ids, pair, "logit_diff")
            assert found.measured[run][number] == pytest.approx(own, abs=tolerance)
            if by != "neuron":
                assert found.examples[run][number].sum() == pytest.approx(own, abs=tolerance)


@torch.no_grad()
def test_heads_and_mlps_of_gpt2_are_the_formula_of_the_paper() -> None:
    model, pair = exact.language_model("gpt2"), decoders.pairs(2)[1]  # with two answers
    module, ids = model.module, torch.tensor([pair.clean_ids])
    blocks = module.transformer.h
    projections = {f"z{n}": block.attn.c_proj for n, block in enumerate(blocks)}
    outputs = {f"m{n}": block.mlp for n, block in enumerate(blocks)}
    with (
        exact.seen(projections, inputs=True) as z,
        exact.seen(outputs) as m,
        exact.seen({"final": module.transformer.ln_f}, inputs=True) as end,
    ):
        module(input_ids=ids)
    final, norm = end["final"][0, -1], module.transformer.ln_f
    weight = module.lm_head.weight
    direction = weight[list(pair.answer_ids)].mean(0) - weight[list(pair.foil_ids)].mean(0)

    def share(write: Tensor) -> float:
        scaled = (write - write.mean()) / (final.var(unbiased=False) + norm.eps).sqrt() * norm.weight
        return float(scaled @ direction)

    found = direct_logit_attribution(model, pair)
    bars = dict(zip([tick.label for tick in found.bars.axis.ticks], found.bars.values["clean"], strict=True))
    for layer, block in enumerate(blocks):
        assert bars[f"m{layer}"] == pytest.approx(share(m[f"m{layer}"][0, -1]), abs=1e-10)
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            write = z[f"z{layer}"][0, -1, part] @ block.attn.c_proj.weight[part]
            assert bars[f"a{layer}.h{head}"] == pytest.approx(share(write), abs=1e-10)
            assert found.grid is not None
            assert found.grid.planes["clean"][layer, head] == pytest.approx(share(write), abs=1e-10)
        assert bars[f"a{layer}.bias"] == pytest.approx(share(block.attn.c_proj.bias), abs=1e-10)
    assert bars["bias"] == pytest.approx(float(norm.bias @ direction), abs=1e-10)


@torch.no_grad()
def test_neurons_of_gpt2_are_activation_times_output_row_and_the_rest_is_added_up() -> None:
    model, pair = exact.language_model("gpt2"), decoders.pairs(1)[0]
    module = model.module
    block, norm = module.transformer.h[2], module.transformer.ln_f
    shares = []
    for ids in (pair.clean_ids, pair.corrupted_ids):
        with exact.seen({"act": block.mlp.c_proj, "final": norm}, inputs=True) as seen:
            module(input_ids=torch.tensor([ids]))
        writes = seen["act"][0, -1][:, None] * block.mlp.c_proj.weight
        weight, final = module.lm_head.weight, seen["final"][0, -1]
        direction = weight[list(pair.answer_ids)].mean(0) - weight[list(pair.foil_ids)].mean(0)
        centred = (writes - writes.mean(1, keepdim=True)) / (final.var(unbiased=False) + norm.eps).sqrt()
        shares.append((centred * norm.weight) @ direction)
    found = direct_logit_attribution(model, pair, by="neuron", top=1000)
    labels = [tick.label for tick in found.bars.axis.ticks]
    assert labels[-1] == "bias"
    assert found.grid is None
    for run, expected in zip(("clean", "corrupted"), shares, strict=True):
        bars = dict(zip(labels, found.bars.values[run], strict=True))
        own = [bars[f"m2.n{n}"] for n in range(56)]
        np.testing.assert_allclose(own, expected, atol=1e-10)
    few = direct_logit_attribution(model, pair, by="neuron", top=2)
    shown = dict(zip([tick.label for tick in few.bars.axis.ticks], few.bars.values["difference"], strict=True))
    best = sorted(np.abs(found.bars.values["difference"][:168]))[::-1][:2]
    np.testing.assert_allclose(np.abs(list(shown.values())[:2]), best, atol=1e-10)
    assert {"m0.rest", "m1.rest", "m2.rest"} <= set(shown)


@torch.no_grad()
def test_a_head_behind_a_sandwich_norm_goes_through_it_with_its_scale_frozen() -> None:
    model, pair = exact.language_model("gemma2"), decoders.pairs(1)[0]
    module = model.module
    layer = module.model.layers[1]
    with exact.seen({"z": layer.self_attn.o_proj, "final": module.model.norm}, inputs=True) as seen:
        module(input_ids=torch.tensor([pair.clean_ids]))
    z, final = seen["z"][0, -1], seen["final"][0, -1]
    weight = module.lm_head.weight
    direction = weight[list(pair.answer_ids)].mean(0) - weight[list(pair.foil_ids)].mean(0)
    whole = z @ layer.self_attn.o_proj.weight.T
    inner = (1 + layer.post_attention_layernorm.weight) / (whole.square().mean() + 1e-6).sqrt()
    outer = (1 + module.model.norm.weight) / (final.square().mean() + 1e-6).sqrt()
    found = direct_logit_attribution(model, pair)
    assert found.grid is not None
    for head in range(4):
        part = slice(12 * head, 12 * head + 12)
        write = z[part] @ layer.self_attn.o_proj.weight[:, part].T
        assert found.grid.planes["clean"][1, head] == pytest.approx(
            float((write * inner * outer) @ direction), abs=1e-10
        )


def test_means_errors_and_batches() -> None:
    model, pairs = exact.language_model("qwen2"), decoders.pairs(5)
    found = direct_logit_attribution(model, pairs)
    one = direct_logit_attribution(model, pairs, batch=1)
    alone = [direct_logit_attribution(model, pair).bars.values["clean"] for pair in pairs]
    np.testing.assert_allclose(one.bars.values["clean"], found.bars.values["clean"], atol=1e-12)
    np.testing.assert_allclose(found.examples["clean"], alone, atol=1e-12)
    assert found.bars.low is not None
    spread = np.std(alone, axis=0, ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(found.bars.values["clean"] - found.bars.low["clean"], spread, atol=1e-10)


def test_the_logit_alone_is_split_without_the_foil() -> None:
    model, pair = exact.language_model("gpt2"), decoders.pair([3, 8, 5], [3, 9, 5], (4,))
    found = direct_logit_attribution(model, pair, "logit", by="component")
    assert found.bars.values["clean"].sum() == pytest.approx(metric_of(model, (3, 8, 5), pair, "logit"), abs=1e-10)
    with pytest.raises(PromptError, match="compares the answer with a foil"):
        direct_logit_attribution(model, pair)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mamba"])
def test_lower_precisions_add_up_within_their_rounding(name: str, dtype: torch.dtype) -> None:
    model = LanguageModel(zoo.model(name, dtype))
    found = direct_logit_attribution(model, decoders.pairs(3), by="component")
    assert found.error < (2e-2 if dtype == torch.bfloat16 else 1e-6)


def test_what_has_no_direct_contributions_says_why() -> None:
    pairs = decoders.pairs(1)
    with pytest.raises(SiteError, match="norm the sum of residual and sublayer"):
        direct_logit_attribution(LanguageModel(zoo.model("bert")), pairs)
    for name in HEADLESS:
        with pytest.raises(SiteError, match="no heads whose writes can be told apart"):
            direct_logit_attribution(LanguageModel(zoo.model(name)), pairs)
    for name in ("mamba", "mixtral"):
        with pytest.raises(SiteError, match="neurons cannot be told apart"):
            direct_logit_attribution(LanguageModel(zoo.model(name)), pairs, by="neuron")
    model = LanguageModel(zoo.model("gpt2"))
    with pytest.raises(MetricError, match="not linear in the logits"):
        direct_logit_attribution(model, pairs, "prob")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="no split"):
        direct_logit_attribution(model, pairs, by="layer")  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        direct_logit_attribution(model, pairs, should_stop=lambda: True)


def test_a_write_that_the_adapter_does_not_know_is_found_by_the_sum() -> None:
    model = LanguageModel(zoo.model("gpt2"))
    model.module.transformer.h[2].register_forward_hook(lambda _m, _a, output: output + 3.0 * torch.arange(32).sin())
    with pytest.raises(AdapterError, match="do not add up to the metric"):
        direct_logit_attribution(model, decoders.pairs(1))


def test_the_parts_of_a_norm_are_found_by_what_it_does() -> None:
    layer, rms = nn.LayerNorm(5, eps=1e-3).double(), nn.RMSNorm(5, eps=1e-3).double()
    for norm in (layer, rms):
        for parameter in norm.requires_grad_(False).parameters():
            parameter.uniform_(-1, 1)
    x, u = torch.linspace(-1, 2, 5).double(), torch.linspace(1, -2, 5).double()
    for norm in (layer, rms):
        direction, constant = FrozenNorm.of(norm).before(x, u)
        assert float(x @ direction + constant) == pytest.approx(float(norm(x) @ u), abs=1e-12)
    with pytest.raises(SiteError, match="neither a LayerNorm nor an RMSNorm"):
        FrozenNorm.of(nn.PReLU(5))


def test_the_class_logits_of_an_image_model_are_split_as_well() -> None:
    model = VisionModel(zoo.model("vit", torch.float64))
    clean, corrupted = zoo.example_inputs("vit")["pixel_values"].double()
    pair = ImagePair(clean, corrupted, answer=3, foil=(5, 1))
    with torch.no_grad():
        logits = model.module(pixel_values=clean[None]).logits[0]
    for by in ("component", "head", "neuron"):
        found = direct_logit_attribution(model, pair, by=by)  # type: ignore[arg-type]
        assert found.bars.values["clean"].sum() == pytest.approx(float(logits[3] - logits[[5, 1]].mean()), abs=1e-10)
