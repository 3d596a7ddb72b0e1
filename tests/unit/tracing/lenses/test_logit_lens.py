"""The logit lens is the model's own norm, head and softcap on hidden states that plain hooks saw (float64, 1e-10)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import decoders, tiny, zoo
from tests.unit.tracing.lenses import exact
from tracing import LanguageModel, VisionModel
from tracing.errors import AdapterError, MetricError, ModelError, PromptError, SiteError, SpecError, Stopped
from tracing.lenses.logit_lens import logit_lens
from tracing.lenses.looks import Looks
from tracing.lenses.tuned import TunedLens
from tracing.prompts import TokenizedPair
from tracing.results import Grid, TokenTable

ALL = [name for name in zoo.ZOO if name not in ("vit", "t5", "t5_gated")]


def head_of(model: LanguageModel) -> Callable[[Tensor], Tensor]:
    """Norm, head and softcap of a model by the names that its own code has."""
    module = model.module
    norms = ("transformer.ln_f", "gpt_neox.final_layer_norm", "model.norm", "model.language_model.norm",
             "model.final_layernorm", "model.decoder.final_layer_norm", "backbone.norm_f")  # fmt: skip
    parts = dict(module.named_modules())
    norm = next((parts[name] for name in norms if name in parts), lambda x: x)
    head = parts["cls.predictions"] if model.family == "bert" else module.get_output_embeddings()
    cap = 30.0 if model.family == "gemma2" else None

    def read(hidden: Tensor) -> Tensor:
        logits = head(norm(hidden))
        return logits if cap is None else cap * torch.tanh(logits / cap)

    return read


def pairs_for(name: str) -> list[TokenizedPair]:
    pairs = decoders.pairs(4, lengths=(5, 6))
    if name != "bert":
        return pairs
    return [TokenizedPair(*(getattr(p, f) for f in TokenizedPair.__slots__[:7]), answer_position=2) for p in pairs]


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_every_cell_is_the_models_own_readout_of_the_hidden_state_there(name: str) -> None:
    model = exact.language_model(name)
    pairs, read = pairs_for(name), head_of(model)
    found = logit_lens(model, pairs, "logit_diff", top=3)
    grid = found.grid
    assert grid is not None
    assert found.error <= (1e-7 if name == "mamba" else 1e-12)
    tolerance = 1e-6 if name == "mamba" else 1e-10  # its readout is float32
    last = model.facts.n_layers
    for number, pair in enumerate(pairs):
        streams = exact.residuals(model, list(pair.clean_ids))
        final = read(streams[-1]).log_softmax(-1)
        shift = 6 - pair.length
        for row in range(last + 1):
            logits = read(streams[row])
            answer, foil = logits[:, list(pair.answer_ids)].mean(1), logits[:, list(pair.foil_ids)].mean(1)
            assert grid.examples is not None
            np.testing.assert_allclose(grid.examples[number, row, shift:], answer - foil, atol=tolerance)
            assert np.isnan(grid.examples[number, row, :shift]).all()
        table = found.tables[number]
        best = read(streams[1]).softmax(-1).topk(3)
        np.testing.assert_allclose(table.values[1], best.values, atol=tolerance)
        assert [list(cell) for cell in table.tokens[1]] == [[str(i) for i in row] for row in best.indices.tolist()]
        assert final.shape[0] == len(table.columns)
    np.testing.assert_allclose(grid.planes["kl"][last], 0, atol=1e-10)
    place = 2 if name == "bert" else -1
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([pairs[0].clean_ids])).logits[0, place]
    own = logits[list(pairs[0].answer_ids)].mean() - logits[list(pairs[0].foil_ids)].mean()
    assert grid.clean is not None
    np.testing.assert_allclose(grid.clean[0], own.item(), atol=tolerance)


def test_planes_are_rank_probability_divergence_and_entropy() -> None:
    model = exact.language_model("gpt2")
    pair = decoders.pair([3, 8, 5], [3, 9, 5], (4, 7), (9,))
    grid = logit_lens(model, pair, "logit_diff").grid
    assert grid is not None
    read, streams = head_of(model), exact.residuals(model, [3, 8, 5])
    for row, t in ((0, 1), (2, 2)):
        logs, final = (read(streams[n])[t].log_softmax(-1) for n in (row, 3))
        answer = max(logs[4], logs[7])
        assert grid.planes["rank"][row, t] == int((logs > answer).sum())
        assert grid.planes["probability"][row, t] == pytest.approx(float(logs.exp()[[4, 7]].sum()), abs=1e-12)
        assert grid.planes["kl"][row, t] == pytest.approx(float((final.exp() * (final - logs)).sum()), abs=1e-12)
        assert grid.planes["entropy"][row, t] == pytest.approx(float(-(logs.exp() * logs).sum()), abs=1e-12)


@pytest.mark.parametrize(("site", "path"), [("attn_out", "attn"), ("mlp_out", "mlp"), ("resid_mid", "ln_2")])
def test_other_sites_are_read_by_themselves(site: str, path: str) -> None:
    model = exact.language_model("gpt2")
    module = model.block_modules[1].get_submodule(path)
    with exact.seen({"x": module}, inputs=site == "resid_mid") as found, torch.no_grad():
        model.module(input_ids=torch.tensor([[3, 8, 5]]))
    grid = logit_lens(model, [3, 8, 5], lambda logits: logits[:, 11], site=site, layers=[1], top=0).grid
    assert grid is not None
    np.testing.assert_allclose(grid.raw[0], head_of(model)(found["x"][0])[:, 11].detach(), atol=1e-12)


def test_only_the_columns_that_a_metric_reads_are_computed_and_nothing_changes() -> None:
    model = exact.language_model("gemma2")
    pairs = decoders.pairs(3)
    whole = logit_lens(model, pairs, "logit_diff").grid
    sizes = []
    head = model.module.get_output_embeddings()
    handle = head.register_forward_hook(lambda _m, args, _o: sizes.append(args[0].shape[0]))
    narrow = logit_lens(model, pairs, "logit_diff", looks=("metric",), top=0).grid
    handle.remove()
    assert whole is not None
    assert narrow is not None
    assert sizes == [1, 1]  # the check on one prompt, the model's own and ours
    assert list(narrow.planes) == ["raw"]
    np.testing.assert_allclose(narrow.raw, whole.raw, atol=1e-12)


def test_the_answer_position_alone_is_the_last_column_and_batches_change_nothing() -> None:
    model = exact.language_model("llama")
    pairs = decoders.pairs(5)
    whole, one, answer = (
        logit_lens(model, pairs, "logit_diff", batch=batch, at=at).grid
        for batch, at in (("auto", "all"), (1, "all"), (2, "answer"))
    )
    assert whole is not None and one is not None and answer is not None  # noqa: PT018
    for key, plane in whole.planes.items():
        np.testing.assert_allclose(one.planes[key], plane, atol=1e-12)
        np.testing.assert_allclose(answer.planes[key][:, 0], plane[:, -1], atol=1e-12)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = exact.language_model("gpt2"), decoders.pairs(4, lengths=(5, 6))
    whole = logit_lens(model, pairs, "kl_divergence", top=4, tables=[1, 3])
    monkeypatch.setattr("tracing.lenses.looks.BLOCK_NUMBERS", 3 * model.facts.vocab_size)
    blocks = logit_lens(model, pairs, "kl_divergence", top=4, tables=[1, 3])
    assert whole.grid is not None and blocks.grid is not None  # noqa: PT018
    assert set(whole.grid.planes) >= {"raw", "rank", "probability", "kl", "entropy"}
    for key, plane in whole.grid.planes.items():
        np.testing.assert_allclose(blocks.grid.planes[key], plane, atol=1e-13, err_msg=key)
    for one, other in zip(whole.tables, blocks.tables, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(other.values, one.values, atol=1e-14)


def test_top_tokens_far_below_the_first_are_still_in_order() -> None:
    logits = torch.tensor([[0.0, -300.0, 200.0, -250.0, -200.0]])
    seen = Looks((), logits, None, lambda *_: logits[:, 0], [0], 4)(logits)
    assert seen.ids.tolist() == [[2, 0, 4, 3]]
    np.testing.assert_allclose(seen.probabilities, [[1, 0, 0, 0]], atol=1e-30)


def test_a_t5_decoder_is_read_at_its_start_token_and_its_scale_is_its_own() -> None:
    for name in ("t5", "t5_gated"):
        model = exact.language_model(name)
        grid = logit_lens(model, [[5, 6, 7, 8]], lambda logits: logits[:, 3], top=1).grid
        assert grid is not None
        assert grid.raw.shape == (4, 1)
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([[5, 6, 7, 8]]), decoder_input_ids=torch.tensor([[2]])).logits
        assert grid.raw[-1, 0] == pytest.approx(float(logits[0, 0, 3]), abs=1e-10)


def test_an_image_model_ends_in_its_own_class_logits() -> None:
    model = VisionModel(zoo.model("vit", torch.float64))
    pixels = zoo.example_inputs("vit")["pixel_values"]
    found = logit_lens(model, pixels, lambda logits: logits[:, 4], at="answer", top=2)
    with torch.no_grad():
        logits = model.module(pixel_values=pixels.double()).logits
    assert found.grid is not None
    assert found.grid.raw[-1, 0] == pytest.approx(float(logits[:, 4].mean()), abs=1e-10)
    assert len(found.table.tokens) == 4


# -- tuned lens -------------------------------------------------------------------------------------------------------
def test_identity_translators_are_the_logit_lens() -> None:
    model = exact.language_model("gpt2")
    pairs = decoders.pairs(3)
    plain, tuned = (logit_lens(model, pairs, "logit", lens=lens).grid for lens in (None, TunedLens.identity(model)))
    assert plain is not None and tuned is not None  # noqa: PT018
    for key, plane in plain.planes.items():
        np.testing.assert_allclose(tuned.planes[key], plane, atol=1e-12)


@pytest.mark.parametrize("form", ["affine", "residual"])
def test_translators_come_back_from_files_and_are_applied_before_the_norm(form: str, tmp_path: Path) -> None:
    model = exact.language_model("gpt2")
    generator = torch.Generator().manual_seed(3)
    weights = tuple(torch.randn(32, 32, generator=generator, dtype=torch.float64) for _ in range(3))
    biases = tuple(torch.randn(32, generator=generator, dtype=torch.float64) for _ in range(3))
    TunedLens("resid_pre", weights, biases, form).to_files(tmp_path / "lens")  # type: ignore[arg-type]
    lens = TunedLens.from_files(tmp_path / "lens")
    grid = logit_lens(model, [3, 8, 5], lambda logits: logits[:, 11], lens=lens).grid
    stream = exact.residuals(model, [3, 8, 5])[2]
    expected = stream @ weights[2].T + biases[2] + (stream if form == "residual" else 0)
    assert grid is not None
    np.testing.assert_allclose(grid.raw[2], head_of(model)(expected)[:, 11].detach(), atol=1e-10)
    np.testing.assert_allclose(grid.planes["kl"][3], 0, atol=1e-12)  # the output itself is not translated


def test_a_tuned_lens_of_another_model_or_site_is_refused(tmp_path: Path) -> None:
    model, other = exact.language_model("gpt2"), LanguageModel(zoo.model("gpt2", n_layer=2))
    lens = TunedLens.identity(other)
    with pytest.raises(ModelError, match="has 2 layers of width 32, the model 3 of 32"):
        logit_lens(model, [3, 8], lens=lens)
    with pytest.raises(ModelError, match="translates resid_pre, not mlp_out"):
        logit_lens(model, [3, 8], site="mlp_out", lens=lens)
    lens.to_files(tmp_path / "lens")
    (tmp_path / "lens.json").write_text('{"format": "grid/1"}')
    with pytest.raises(ModelError, match="no tuned_lens/1 file"):
        TunedLens.from_files(tmp_path / "lens")


# -- refusals, precisions, results ------------------------------------------------------------------------------------
def test_what_cannot_be_read_is_refused_before_anything_runs() -> None:
    model = LanguageModel(zoo.model("phi"))
    pairs = decoders.pairs(2)
    with pytest.raises(SiteError, match="resid_mid does not exist on the parallel blocks"):
        logit_lens(model, pairs, site="resid_mid")
    with pytest.raises(PromptError, match="compares with answers, and these prompts have none"):
        logit_lens(model, [3, 8], "logit_diff")
    with pytest.raises(PromptError, match="compares the answer with a foil"):
        logit_lens(model, decoders.pair([3, 8], [3, 9], (4,)), "logit_diff")
    with pytest.raises(MetricError, match="no metric named"):
        logit_lens(model, pairs, "nonsense")
    with pytest.raises(SpecError, match="not different layers"):
        logit_lens(model, pairs, layers=[7])
    with pytest.raises(SpecError, match="rank and probability need pairs"):
        logit_lens(model, [3, 8], looks=("rank",))
    with pytest.raises(PromptError, match="Prompt 1 has no position 9"):
        logit_lens(model, [3, 8], at=9)
    with pytest.raises(PromptError, match="no prompts"):
        logit_lens(model, [])
    with pytest.raises(Stopped):
        logit_lens(model, pairs, should_stop=lambda: True)


def test_a_model_whose_end_the_adapter_does_not_know_is_refused() -> None:
    model = LanguageModel(zoo.model("gpt2"))
    model.module.register_forward_hook(lambda _m, _a, output: setattr(output, "logits", output.logits * 2) or output)
    with pytest.raises(AdapterError, match="do not give the model's own logits"):
        logit_lens(model, [3, 8, 5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mamba"])
def test_lower_precisions_are_near_float64(name: str, dtype: torch.dtype) -> None:
    pairs = decoders.pairs(3)
    low, high = (
        logit_lens(LanguageModel(zoo.model(name, kind)), pairs, "logit_diff").grid for kind in (dtype, torch.float64)
    )
    assert low is not None and high is not None  # noqa: PT018
    reach = np.nanmax(np.abs(high.raw))
    assert np.nanmax(np.abs(low.raw - high.raw)) < (0.15 if dtype == torch.bfloat16 else 1e-4) * reach


def test_results_survive_their_files(tiny_folder: Path, tmp_path: Path) -> None:
    found = logit_lens(LanguageModel(tiny_folder), tiny.pairs(3), "prob", tables=[2])
    assert found.grid is not None
    found.grid.to_files(tmp_path / "grid")
    found.table.to_files(tmp_path / "table")
    np.testing.assert_array_equal(Grid.from_files(tmp_path / "grid").raw, found.grid.raw)
    assert TokenTable.from_files(tmp_path / "table").tokens == found.table.tokens
    assert found.table.name == "tokens_3"


def test_progress_counts_prompts() -> None:
    steps: list[tuple[int, int]] = []
    model = LanguageModel(zoo.model("gpt2"))
    logit_lens(model, decoders.pairs(5), progress=lambda done, total: steps.append((done, total)), batch=1)
    assert steps == [(n, 5) for n in range(1, 6)]
