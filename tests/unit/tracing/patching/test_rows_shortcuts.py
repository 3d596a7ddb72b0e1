"""Each short cut of the row engine alone gives the same residuals, in float64 to 1e-10 (float32: 1e-5)."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from tests import zoo
from tracing.errors import SiteError
from tracing.families import Adapter
from tracing.models import LanguageModel
from tracing.patching import readout, rows
from tracing.patching.capture import capture
from tracing.patching.footprint import Kept, kept_for
from tracing.patching.plan import Optimise
from tracing.patching.rows import Rows, run_rows, walk_of

SITES = ("resid_pre", "z", "k", "pattern", "neurons")
LAYOUTS = ("gpt2", "gpt_neox", "gemma3_text", "mistral", "falcon_new", "opt")
"""Sequential, parallel, sandwich norms with sliding windows, grouped query, grouped parallel, tokens side by side."""


def model_of(name: str, dtype: torch.dtype = torch.float64, **sizes: object) -> LanguageModel:
    return LanguageModel(zoo.model(name, dtype, **sizes))


def found(
    model: LanguageModel, sites: tuple[str, ...], options: Optimise, *, tokens: int = 9, rows: int = 2
) -> dict[str, Tensor]:
    """Rows at each position, and of each unit, at every layer, of each site: clean activations into another run."""
    source_kept, base_kept = kept_for(model.adapter, sites)
    base = capture(model, {"input_ids": zoo.ids(rows, tokens)}, base_kept)
    source = capture(model, {"input_ids": zoo.ids(rows, tokens).flip(0, 1)}, source_kept).sites
    result = {}
    for site in sites:
        where = torch.eye(tokens, dtype=torch.bool)
        units = torch.arange(tokens) % 2 if site in ("z", "k", "pattern", "neurons") else None
        entries = [Rows(site, layer, where, units) for layer in range(model.facts.n_layers)]
        with torch.inference_mode():
            result[site] = run_rows(model, base, source, entries, slice(None), options)
    return result


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("off", ["causal", "last_token"])
def test_each_short_cut_alone_changes_nothing(name: str, off: str) -> None:
    model = model_of(name)
    with_all, without = found(model, SITES, Optimise()), found(model, SITES, replace(Optimise(), **{off: False}))
    for site in SITES:
        torch.testing.assert_close(without[site], with_all[site], atol=1e-10, rtol=0, msg=site)


@pytest.mark.parametrize("name", [*LAYOUTS, "bloom", "qwen3", "phi", "mixtral"])
def test_whole_rows_give_what_packed_rows_give(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(name)
    sites = tuple(site for site in SITES if site in model.adapter.patchable)
    side_by_side = found(model, sites, Optimise())
    monkeypatch.setattr(rows, "walk_of", lambda _: "rows")
    whole = found(model, sites, Optimise())
    for site in sites:  # bloom takes its softmax in float32
        torch.testing.assert_close(whole[site], side_by_side[site], atol=1e-5 if name == "bloom" else 1e-10, rtol=0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_float32_gives_what_float64_gives(name: str) -> None:
    single = found(model_of(name, torch.float32), ("resid_pre", "z"), Optimise())
    double = found(model_of(name), ("resid_pre", "z"), Optimise())
    for site, values in double.items():
        torch.testing.assert_close(single[site].double(), values, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("parallel", [True, False])
def test_alibi_reaches_the_packed_keys(parallel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("falcon", alibi=True, parallel_attn=parallel, bias=not parallel)
    side_by_side = found(model, ("resid_pre", "z"), Optimise())
    monkeypatch.setattr(rows, "walk_of", lambda _: "rows")
    for site, values in found(model, ("resid_pre", "z"), Optimise()).items():
        torch.testing.assert_close(values, side_by_side[site], atol=1e-10, rtol=0)


def test_pairs_of_a_batch_are_those_asked_for() -> None:
    model = model_of("gpt2")
    of_source, of_base = kept_for(model.adapter, ["z"])
    base = capture(model, {"input_ids": zoo.ids(4)}, of_base)
    source = capture(model, {"input_ids": zoo.ids(4).flip(0)}, of_source).sites
    entry = Rows("z", 1, torch.ones(4, 9, dtype=torch.bool), torch.arange(4))
    with torch.inference_mode():
        every = run_rows(model, base, source, [entry], slice(None), Optimise())
        some = run_rows(model, base, source, [entry], slice(1, 3), Optimise())
    torch.testing.assert_close(some, every[:, 1:3], atol=1e-12, rtol=0)


def test_entries_of_different_sites_layers_and_starts_share_a_call() -> None:
    model = model_of("llama")
    of_source, of_base = kept_for(model.adapter, ["resid_pre", "z", "q"])
    base = capture(model, {"input_ids": zoo.ids(2)}, of_base)
    source = capture(model, {"input_ids": zoo.ids(2).flip(1)}, of_source).sites
    late, early = torch.eye(9, dtype=torch.bool)[5:8], torch.eye(9, dtype=torch.bool)[:3]
    entries = [Rows("z", 2, late, torch.arange(3)), Rows("resid_pre", 1, early), Rows("q", 0, late, torch.arange(3)),
               Rows("resid_pre", 2, late)]  # fmt: skip
    with torch.inference_mode():
        together = run_rows(model, base, source, entries, slice(None), Optimise())
        for number, entry in enumerate(entries):
            alone = run_rows(model, base, source, [entry], slice(None), Optimise())
            torch.testing.assert_close(together[number], alone[0], atol=1e-12, rtol=0)


def test_an_answer_before_the_end_ignores_what_comes_after_it() -> None:
    model = model_of("gpt2")
    of_source, of_base = kept_for(model.adapter, ["resid_pre"])
    entry = Rows("resid_pre", 1, torch.eye(9, dtype=torch.bool))
    source = capture(model, {"input_ids": zoo.ids(2).flip(1)}, of_source).sites
    base = capture(model, {"input_ids": zoo.ids(2)}, of_base, answer=5)
    with torch.inference_mode():
        finals = run_rows(model, base, source, [entry], slice(None), Optimise())[0]
    torch.testing.assert_close(finals[:, 6:], base.final[:, None].expand(-1, 3, -1), atol=1e-12, rtol=0)
    assert (finals[:, 5] - base.final).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in ("vit", "gemma3")])
def test_logits_read_from_the_last_residual_are_the_models(name: str) -> None:
    model = model_of(name, torch.float32)
    inputs = zoo.example_inputs(name)
    final = capture(model, inputs, Kept()).final
    with torch.inference_mode():
        expected = model.module(**inputs).logits[:, -1].float()
        torch.testing.assert_close(readout.read_logits(model, final), expected, atol=2e-4, rtol=1e-4)


def test_patterns_and_neurons_are_what_the_model_computes() -> None:
    model = model_of("llama")
    model.module.set_attn_implementation("eager")
    seen = capture(model, {"input_ids": zoo.ids()}, Kept(frozenset({"pattern", "v", "z", "neurons", "mlp_out"}))).sites
    patterns = model.module(input_ids=zoo.ids(), output_attentions=True).attentions
    for layer, pattern in enumerate(patterns):
        torch.testing.assert_close(seen["pattern"][layer], pattern, atol=1e-6, rtol=0)
        down = model.block_modules[layer].mlp.down_proj
        with torch.no_grad():
            torch.testing.assert_close(down(seen["neurons"][layer]), seen["mlp_out"][layer], atol=1e-10, rtol=0)


def test_attention_that_ignores_masks_runs_whole_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gpt2")
    assert walk_of(model) == "packed"
    monkeypatch.setattr(model.config, "_attn_implementation_internal", "flash_attention_2", raising=False)
    assert walk_of(model) == "rows"


def test_a_site_that_blocks_do_not_have_is_refused_by_name() -> None:
    with pytest.raises(SiteError, match=r"neurons cannot be patched in the family mixtral: a mixture of experts"):
        kept_for(model_of("mixtral").adapter, ["neurons"])
    with pytest.raises(SiteError, match="resid_mid cannot be patched in the family gptj"):
        kept_for(model_of("gptj").adapter, ["resid_mid"])
    with pytest.raises(SiteError, match="does not say how to walk"):
        kept_for(Adapter(family="mine", backbone="", embeddings=(), blocks="layers"), ["resid_pre"])


def test_every_short_cut_has_a_name() -> None:
    assert {field.name for field in fields(Optimise)} >= {"suffix", "causal", "last_token"}
