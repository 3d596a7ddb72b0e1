"""Steering vectors are differences of means, and steered text is that of a generation with an explicit hook."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import decoders, tiny, zoo
from tests.unit.tracing.lenses import exact
from tracing import LanguageModel
from tracing.demo import MODEL_DIR, PROMPTS_DIR
from tracing.errors import ModelError, PromptError, SiteError, SpecError, Stopped
from tracing.lenses.steered import steer
from tracing.lenses.steering import SteeringVector, steering_vector
from tracing.metrics import Targets, get
from tracing.prompts import PromptPair

GENERATING = [*zoo.decoders(), "mamba"]
PROMPTS = [[4, 5, 6], [7, 8, 9, 10], [11, 12, 13]]


def direction(scale: float = 1.0) -> Tensor:
    return torch.linspace(-1, 1, 32).mul(7).sin() * scale


def continued(
    model: LanguageModel, row: list[int], layer: int, added: Tensor, positions: str, new: int = 5
) -> list[int]:
    """Greedy ids from full forwards without a cache, the block's input changed by a hook written here."""
    ids = list(row)

    def hook(_: Any, args: Any, kwargs: Any) -> Any:
        hidden = (args[0] if args else kwargs["hidden_states"]).clone()
        if positions == "all":
            hidden += added
        elif positions == "prompt":
            hidden[:, : len(row)] += added
        else:
            hidden[:, len(row) - 1 :] += added
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    handle = model.block_modules[layer].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        for _ in range(5):
            with torch.no_grad():
                logits = model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            ids.append(int(logits.argmax()))
    finally:
        handle.remove()
    return ids[len(row) :]


@pytest.mark.parametrize("name", GENERATING)
def test_steered_text_is_that_of_full_forwards_with_a_hook(name: str) -> None:
    model = LanguageModel(zoo.model(name))
    model.module.generation_config.eos_token_id = None
    vector = SteeringVector("resid_pre", {1: direction()})
    for positions in ("all", "prompt", "generated"):
        found = steer(model, PROMPTS, vector, (0.0, 2.5), max_new_tokens=5, positions=positions)  # type: ignore[arg-type]
        texts = {(e.facts["prompt"], e.facts["scale"]): e.text for e in found.text.entries}
        for number, row in enumerate(PROMPTS, start=1):
            plain = continued(model, row, 1, direction(0.0), positions)
            steered = continued(model, row, 1, direction(2.5), positions)
            assert texts[number, 0.0] == " ".join(map(str, plain))
            assert texts[number, 2.5] == " ".join(map(str, steered))


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi", "opt", "olmo2", "bloom"])
def test_every_site_moves_the_residual_stream_by_the_vector(name: str) -> None:
    model = exact.language_model(name)
    added = direction().double() * 0.5
    sites = [
        site for site in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out") if site in model.adapter.sites
    ]
    for site in sites:
        found = steer(model, [PROMPTS[0]], SteeringVector(site, {1: added}), (1,), lambda x: x[:, 20], max_new_tokens=0)
        with model.trace([PROMPTS[0]]):
            model.sites[site][1][:] += added
            logits = model.output[0, -1, 20].save()
        assert found.curve is not None
        assert found.curve.series[0].y[0] == pytest.approx(float(logits), abs=1e-10)


def test_the_unsteered_text_is_the_models_own_generation(tiny_folder: Path) -> None:
    model = LanguageModel(tiny_folder)
    pairs = tiny.pairs(2)
    vector = steering_vector(model, pairs, layers=[0, 2])
    found = steer(model, pairs, vector, 0.0, max_new_tokens=6)
    ids = torch.tensor(model.encode([pair.clean for pair in pairs]))
    made = model.module.generate(input_ids=ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[:, ids.shape[1] :]
    for entry, row in zip(found.text.entries, made.tolist(), strict=True):
        kept = row[: row.index(0)] if 0 in row else row
        assert entry.text == "".join(model.tokens.texts(kept))


# -- vectors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("position", ["last", "mean", 1])
def test_a_vector_is_the_difference_of_means_of_sets_of_any_sizes(position: Any) -> None:
    model = exact.language_model("qwen2")
    positive, negative = [[3, 4, 5], [6, 7, 8, 9]], [[10, 11], [12, 13, 14], [15, 16, 17, 18]]

    def mean(rows: list[list[int]]) -> Tensor:
        streams = [exact.residuals(model, row)[2] for row in rows]
        return torch.stack(
            [s.mean(0) if position == "mean" else s[-1 if position == "last" else 1] for s in streams]
        ).mean(0)

    found = steering_vector(model, positive, negative, layers=2, position=position)
    torch.testing.assert_close(found.vectors[2], mean(positive) - mean(negative), atol=1e-12, rtol=0)
    unit = steering_vector(model, positive, negative, layers=2, position=position, unit=True)
    torch.testing.assert_close(unit.vectors[2] * found.norms[2], found.vectors[2], atol=1e-12, rtol=0)


def test_pairs_are_clean_against_corrupted() -> None:
    model, pairs = exact.language_model("gpt2"), decoders.pairs(4)
    both = steering_vector(model, pairs, layers=[0, -1])
    apart = steering_vector(model, [p.clean_ids for p in pairs], [p.corrupted_ids for p in pairs], layers=[0, 2])
    assert list(both.vectors) == [0, 2]
    for layer, vector in both.vectors.items():
        torch.testing.assert_close(vector, apart.vectors[layer], atol=1e-12, rtol=0)


def test_vectors_come_back_from_their_files(tmp_path: Path) -> None:
    model = LanguageModel(zoo.model("gpt2"))
    made = steering_vector(model, decoders.pairs(2), layers=[1, 2], site="mlp_out")
    made.to_files(tmp_path / "vector")
    again = SteeringVector.from_files(tmp_path / "vector")
    assert (again.site, again.facts, list(again.vectors)) == ("mlp_out", made.facts, [1, 2])
    assert all(torch.equal(again.vectors[n], made.vectors[n]) for n in (1, 2))
    (tmp_path / "vector.json").write_text(json.dumps({"format": "grid/1", "layers": []}))
    with pytest.raises(ModelError, match="are no steering_vector/1"):
        SteeringVector.from_files(tmp_path / "vector")


# -- the curve --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mamba"])
def test_the_curve_is_the_metric_of_forwards_with_a_hook(name: str) -> None:
    model, pairs = exact.language_model(name), decoders.pairs(4)
    vector = SteeringVector("resid_pre", {1: direction().double()})
    curve = steer(model, pairs, vector, (2.0, -1.0, 0.0), "logit_diff", max_new_tokens=0).curve
    assert curve is not None
    assert curve.x.tolist() == [-1.0, 0.0, 2.0]
    for scale, found, low in zip(curve.x, curve.series[0].y, curve.series[0].low, strict=True):  # type: ignore[arg-type]
        values = []
        for pair in pairs:
            with model.trace([list(pair.clean_ids)]):
                model.sites.resid_pre[1][:] += direction().double() * scale
                logits = model.output[:, -1].save()
            values.append(float(get("logit_diff")(logits.value, Targets.of([pair]))[0]))
        tolerance = 1e-6 if name == "mamba" else 1e-10
        assert found == pytest.approx(np.mean(values), abs=tolerance)
        assert low == pytest.approx(np.mean(values) - np.std(values, ddof=1) / 2, abs=tolerance)


def test_the_demo_model_says_paris_where_the_vector_points_to_it() -> None:
    model = LanguageModel(MODEL_DIR)
    lines = (PROMPTS_DIR / "facts.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = [PromptPair.model_validate_json(line) for line in lines]
    paris = [pair.clean for pair in pairs if pair.answer == (" Paris",)]
    rest = [pair.clean for pair in pairs if pair.answer != (" Paris",)]
    judged = [pair for pair in pairs if pair.foil == (" Paris",)][:4]
    towards = [pair.model_copy(update={"answer": (" Paris",), "foil": pair.answer}) for pair in judged]
    vector = steering_vector(model, paris, rest, layers=3)
    found = steer(model, towards, vector, (0, 1, 2, 4), "logit_diff", max_new_tokens=1)
    assert found.curve is not None
    line = found.curve.series[0].y
    assert line[0] < 0 < line[-1]
    assert (np.diff(line) > 0).all()
    assert {entry.text for entry in found.text.entries if entry.label == "scale 4"} == {" Paris"}


# -- sampling, stopping, refusals -------------------------------------------------------------------------------------
def test_sampled_text_follows_its_seed_and_leaves_the_global_one_alone() -> None:
    model = LanguageModel(zoo.model("gpt2"))
    vector = SteeringVector("resid_pre", {0: direction()})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    texts = [
        [e.text for e in steer(model, PROMPTS, vector, 0.1, sample=True, temperature=50.0, seed=seed).text.entries]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_stops_between_two_tokens_and_leaves_no_hook() -> None:
    model = LanguageModel(zoo.model("gpt2"))
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 4

    with pytest.raises(Stopped):
        steer(model, [[4, 5]], SteeringVector("resid_pre", {1: direction()}), 1.0, max_new_tokens=20, should_stop=stop)
    assert len(asked) == 5
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.module.modules())


def test_what_cannot_be_steered_is_refused() -> None:
    model, vector = LanguageModel(zoo.model("gpt2")), SteeringVector("resid_pre", {1: direction()})
    with pytest.raises(ModelError, match=r"\[5\] numbers for layer 0"):
        steer(model, PROMPTS, SteeringVector("resid_pre", {0: torch.ones(5)}))
    with pytest.raises(ModelError, match="layer 9"):
        steer(model, PROMPTS, SteeringVector("resid_pre", {9: direction()}))
    with pytest.raises(SiteError, match="resid_mid does not exist on the parallel"):
        steer(LanguageModel(zoo.model("phi")), PROMPTS, SteeringVector("resid_mid", {1: direction()}))
    for name in ("bert", "t5"):
        with pytest.raises(SiteError, match="does not continue a prompt"):
            steer(LanguageModel(zoo.model(name)), PROMPTS, vector)
    with pytest.raises(SpecError, match="not different numbers"):
        steer(model, PROMPTS, vector, (1, 1))
    with pytest.raises(SpecError, match="mean nothing here"):
        steer(model, PROMPTS, vector, positions="first")  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="these prompts have none"):
        steer(model, PROMPTS, vector, metric="logit_diff")
    with pytest.raises(PromptError, match="do not fit the 48 positions"):
        steer(model, PROMPTS, vector, max_new_tokens=60)
    with pytest.raises(SpecError, match="no negative prompts"):
        steering_vector(model, PROMPTS, layers=1)
    with pytest.raises(SpecError, match="is 0, so it has no direction"):
        steering_vector(model, PROMPTS, PROMPTS, layers=1, unit=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_vector_takes_the_models_precision(dtype: torch.dtype) -> None:
    model = LanguageModel(zoo.model("llama", dtype))
    vector = steering_vector(model, decoders.pairs(3), layers=1)
    assert vector.vectors[1].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    found = steer(model, PROMPTS, vector, (0, 3), "kl_divergence", max_new_tokens=2)
    assert found.curve is not None
    assert found.curve.series[0].y[0] == 0 < found.curve.series[0].y[1]
