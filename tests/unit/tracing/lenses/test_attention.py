"""Patterns equal those of the eager path, value weights the explicit norms, and detectors find heads that are known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests import decoders, tiny, zoo
from tracing import LanguageModel, VisionModel
from tracing.demo import MODEL_DIR
from tracing.errors import MetricError, PromptError, SiteError, SpecError, Stopped
from tracing.lenses.attention import attention_patterns
from tracing.lenses.detectors import detect_heads, repeated_tokens, targets_of
from tracing.lenses.direct import direct_logit_attribution
from tracing.lenses.logit_lens import logit_lens
from tracing.lenses.steering import steering_vector
from tracing.results import Attention

ALL = [*zoo.decoders(), "bert"]


@torch.no_grad()
@pytest.mark.parametrize("name", ALL)
def test_patterns_are_those_that_eager_attention_returns(name: str) -> None:
    model = LanguageModel(zoo.model(name))
    ids = zoo.ids(2, 7)
    found = attention_patterns(model, ids)
    try:
        eager = zoo.model(name, attn_implementation="eager")
    except TypeError:
        eager = zoo.model(name)
        eager.set_attn_implementation("eager")
    expected = eager(input_ids=ids, output_attentions=True).attentions
    for row, one in enumerate(found):
        assert one.tokens == tuple(map(str, ids[row].tolist()))
        for layer, pattern in enumerate(expected):
            np.testing.assert_allclose(np.nan_to_num(one.planes["pattern"][layer]), pattern[row], atol=1e-5)
        later = np.triu(np.ones((7, 7), bool), 1)
        assert np.isnan(one.planes["pattern"][:, :, later]).all() == (name != "bert")


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "falcon", "gpt_bigcode", "bert"])
def test_value_weights_are_norms_of_what_each_key_writes(name: str) -> None:
    model = LanguageModel(zoo.model(name, torch.float64))
    facts, ids = model.facts, zoo.ids(1, 6)
    [one] = attention_patterns(model, ids)
    with model.trace(ids):
        patterns = [model.sites.pattern[layer].save() for layer in range(facts.n_layers)]
        values = [model.sites.v[layer].save() for layer in range(facts.n_layers)]
    for layer in range(facts.n_layers):
        projection = model.block_modules[layer].get_submodule(model.adapter.out_proj)
        weight = projection.weight if name == "gpt2" or "Conv1D" in type(projection).__name__ else projection.weight.T
        for head in range(facts.n_heads):
            v = values[layer][0, :, head // (facts.n_heads // facts.n_kv_heads)]
            sizes = (v @ weight[head * facts.d_head : (head + 1) * facts.d_head]).norm(dim=-1)
            shares = patterns[layer][0, head] * sizes
            shares = shares / shares.sum(-1, keepdim=True)
            kept = one.planes["value_weighted"][layer, head]
            np.testing.assert_allclose(np.nan_to_num(kept), shares, atol=1e-6)


def test_chosen_layers_and_heads_come_in_their_order_and_pairs_by_run() -> None:
    model, pairs = LanguageModel(zoo.model("gpt2")), decoders.pairs(3)
    whole = attention_patterns(model, pairs, run="corrupted")
    some = attention_patterns(model, pairs, run="corrupted", layers=[2, 0], heads=[-1], value_weighted=False, batch=1)
    for one, part, pair in zip(whole, some, pairs, strict=True):
        assert one.tokens == pair.corrupted_tokens
        np.testing.assert_allclose(part.planes["pattern"], one.planes["pattern"][[2, 0]][:, [3]], atol=1e-6)
        assert (part.facts["layers"], part.facts["heads"]) == ([2, 0], [3])
        assert list(part.planes) == ["pattern"]


def test_an_image_model_has_patterns_over_patches(tmp_path: Path) -> None:
    model = VisionModel(zoo.model("vit"))
    one = attention_patterns(model, zoo.example_inputs("vit")["pixel_values"])[1]
    assert one.tokens[:2] == ("class token", "patch 0")
    np.testing.assert_allclose(one.planes["pattern"].sum(-1), 1, atol=1e-5)
    one.to_files(tmp_path / "one")
    np.testing.assert_array_equal(Attention.from_files(tmp_path / "one").planes["pattern"], one.planes["pattern"])


def test_models_without_patterns_and_too_many_numbers_are_refused() -> None:
    with pytest.raises(SiteError, match="family mamba has no attention whose pattern"):
        attention_patterns(LanguageModel(zoo.model("mamba")), [[3, 4]])
    with pytest.raises(SiteError, match="family t5 has no attention whose pattern"):
        detect_heads(LanguageModel(zoo.model("t5")))
    model = LanguageModel(zoo.model("gpt2", n_positions=4096))
    with pytest.raises(SpecError, match="million numbers"):
        attention_patterns(model, [[5] * 4096])
    with pytest.raises(SpecError, match="not different heads"):
        attention_patterns(model, [[5, 6]], heads=[4])
    with pytest.raises(SpecError, match="no number of prompts"):
        attention_patterns(model, [[5, 6]], batch=0)
    with pytest.raises(PromptError, match="Prompt 2 is empty"):
        attention_patterns(model, [[5, 6], []])
    with pytest.raises(Stopped):
        attention_patterns(model, [[5, 6]], should_stop=lambda: True)


# -- detectors --------------------------------------------------------------------------------------------------------
def test_targets_are_the_definitions() -> None:
    ids = torch.tensor([[7, 8, 7, 8, 8]])
    places = {
        kind: targets_of(kind, ids)[0].nonzero().tolist() for kind in ("previous_token", "duplicate_token", "induction")
    }
    assert places["previous_token"] == [[1, 0], [2, 1], [3, 2], [4, 3]]
    assert places["duplicate_token"] == [[2, 0], [3, 1], [4, 1], [4, 3]]
    assert places["induction"] == [[2, 1], [3, 2], [4, 2], [4, 4]]
    assert targets_of("induction", torch.tensor([[1, 5, 6, 1, 5]]), skip=1)[0].nonzero().tolist() == [[4, 2]]


@pytest.mark.parametrize("measure", ["mean", "mul"])
@pytest.mark.parametrize("kind", ["previous_token", "duplicate_token", "induction"])
def test_scores_are_the_formula_on_patterns_read_in_a_trace(kind: str, measure: str) -> None:
    model = LanguageModel(zoo.model("llama", torch.float64))
    rows = [[7, 8, 9, 7, 8, 9], [4, 5, 4, 6, 5], [11, 12, 11, 12, 13, 11]]
    found = detect_heads(model, rows, kinds=[kind], measure=measure)  # type: ignore[list-item, arg-type]
    scores = found.grids[kind].examples
    assert scores is not None
    for number, row in enumerate(rows):
        with model.trace([row]):
            pattern = model.sites.pattern[1].save()
        hits, queries = 0.0, set()
        for t in range(len(row)):
            for s in range(t + 1):
                match = {
                    "previous_token": s == t - 1,
                    "duplicate_token": s < t and row[s] == row[t],
                    "induction": s > 0 and row[s - 1] == row[t],
                }[kind]
                if match:
                    hits += float(pattern[0, 2, t, s])
                    queries.add(t)
        expected = hits / (len(queries) if measure == "mean" else len(row))
        assert scores[number, 1, 2] == pytest.approx(expected, abs=1e-6)


def test_the_heads_that_the_demo_models_card_names_are_found() -> None:
    found = detect_heads(LanguageModel(MODEL_DIR), count=16)
    assert [best[:2] for best in found.best("previous_token", 2)] == [(0, 2), (0, 1)]
    assert {best[:2] for best in found.best("induction", 4)} == {(1, 0), (1, 1), (1, 2), (1, 3)}
    induction = found.grids["induction"].planes["score"]
    assert induction[1].min() > 0.7
    assert np.delete(induction, 1, 0).max() < 0.1
    assert found.best("previous_token")[0][2] == pytest.approx(0.624, abs=0.05)  # the card's, on words alone


def test_random_tokens_repeat_are_no_special_ones_and_follow_the_seed(tiny_folder: Path) -> None:
    model = LanguageModel(tiny_folder)
    rows, skip = repeated_tokens(model, length=10, repeats=3, count=5, seed=1)
    assert skip == 0
    assert rows == repeated_tokens(model, length=10, repeats=3, count=5, seed=1)[0]
    assert rows != repeated_tokens(model, length=10, repeats=3, count=5, seed=2)[0]
    for row in rows:
        assert row == row[:10] * 3
        assert len(set(row)) == 10
        assert 0 not in row  # unknown, beginning and end
    with pytest.raises(SpecError, match="64 positions and has 20 ordinary tokens"):
        repeated_tokens(model, length=21, repeats=2, count=1, seed=0)
    assert len(tiny.VOCABULARY) == 21


def test_what_the_tokenizer_puts_before_a_prompt_begins_the_rows_and_takes_no_part(tiny_folder: Path) -> None:
    from tokenizers import Tokenizer, processors

    from tracing.tokens import Tokens

    fast = Tokenizer.from_file(str(tiny_folder / "tokenizer.json"))
    fast.add_special_tokens(["[CLS]", "[SEP]"])
    start, end = (fast.token_to_id(text) for text in ("[CLS]", "[SEP]"))
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", start), ("[SEP]", end)]
    )
    module = LanguageModel(tiny_folder).module
    module.resize_token_embeddings(len(tiny.VOCABULARY) + 2)
    model = LanguageModel(module, tokenizer=Tokens(fast))
    rows, skip = repeated_tokens(model, length=4, repeats=2, count=2, seed=0)
    assert skip == 1
    assert all(row[0] == start and end not in row and row[1:5] == row[5:] for row in rows)
    found = detect_heads(model, length=4, count=2)
    assert found.grids["induction"].facts["skipped"] == 1


def test_prompts_without_a_target_do_not_count() -> None:
    model = LanguageModel(zoo.model("gpt2"))
    found = detect_heads(model, [[5, 6, 7, 8], [5, 6, 5, 6]])
    assert found.grids["induction"].facts["scored_prompts"] == 1
    assert np.isfinite(found.grids["induction"].planes["score"]).all()
    alone = detect_heads(model, [[5, 6, 7, 8]])
    assert np.isnan(alone.grids["duplicate_token"].planes["score"]).all()
    with pytest.raises(SpecError, match="No detector is named 'copy'"):
        detect_heads(model, kinds=["copy"])  # type: ignore[list-item]


# -- copying ----------------------------------------------------------------------------------------------------------
@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_copying_is_the_eigenvalues_of_the_whole_vocabulary_squared_matrix(name: str) -> None:
    model = LanguageModel(zoo.model(name, torch.float64))
    module, head = model.module, 3
    if name == "gpt2":
        block, final = module.transformer.h[1], module.transformer.ln_f
        norm, values = block.ln_1, block.attn.c_attn.weight[:, 64 + 24 : 64 + 32]
        writes = block.attn.c_proj.weight[24:32]
    elif name == "llama":  # head 3 shares the values of key-value head 1
        block, final = module.model.layers[1], module.model.norm
        norm, values = block.input_layernorm, block.self_attn.v_proj.weight[12:24].T
        writes = block.self_attn.o_proj.weight[:, 36:48].T
    else:
        block, final = module.gpt_neox.layers[1], module.gpt_neox.final_layer_norm
        norm, values = block.input_layernorm, block.attention.query_key_value.weight[3 * 24 + 16 : 3 * 24 + 24].T
        writes = block.attention.dense.weight[:, 24:32].T
    embedding, unembedding = module.get_input_embeddings().weight, module.get_output_embeddings().weight
    whole = (embedding * norm.weight) @ values @ writes @ (unembedding * final.weight).T
    eigenvalues = torch.linalg.eigvals(whole)
    expected = float(eigenvalues.sum().real / eigenvalues.abs().sum())
    found = detect_heads(model, length=6, count=1, kinds=["copying"]).grids["copying"]
    assert found.planes["score"][1, head] == pytest.approx(expected, abs=1e-8)


def test_the_demo_models_induction_heads_copy() -> None:
    found = detect_heads(LanguageModel(MODEL_DIR), kinds=["induction", "copying"], count=2)
    assert list(found.grids) == ["induction", "copying"]
    assert found.grids["copying"].planes["score"][1].min() > 0.85


def test_models_without_a_direct_path_have_no_copying_score() -> None:
    with pytest.raises(SiteError, match="no direct path from a token's embedding"):
        detect_heads(LanguageModel(zoo.model("bert")), [[5, 6, 5]], kinds=["copying"])


def test_weights_that_give_no_numbers_are_no_masked_places() -> None:
    model = LanguageModel(zoo.model("gpt2"))
    model.module.transformer.h[1].ln_1.weight[:] = float("nan")
    for look in (attention_patterns, detect_heads):
        with pytest.raises(MetricError, match="attention of layer 1 is not a number"):
            look(model, [[5, 6, 5]])
    with pytest.raises(MetricError, match="logits of this model are not numbers"):
        logit_lens(model, [[5, 6, 5]])
    with pytest.raises(MetricError, match="'logit_diff' is not a number for pair 1"):
        direct_logit_attribution(model, decoders.pairs(2))
    with pytest.raises(MetricError, match="steering vector of layer 2 is not a number"):
        steering_vector(model, decoders.pairs(2), layers=2)
