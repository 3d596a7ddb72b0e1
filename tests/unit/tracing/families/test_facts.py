"""Sizes and sites from a config alone."""

import json
from pathlib import Path

import pytest

import tracing.families
from tests import zoo
from tracing.errors import ModelError, SiteError
from tracing.experiments.activation_patching import ActivationPatchingSpec
from tracing.families import adapter_for, adapter_of, families, model_facts, sites_of_family
from tracing.families.facts import is_sweepable
from tracing.patching import make_plan
from tracing.patching.cells import SITES
from tracing.patching.plan import Lengths

FOLDER = Path(tracing.families.__file__).parent
VARIANTS = {
    "gpt2": [{"n_inner": 40}, {"n_inner": None}],
    "llama": [{"attention_bias": True}, {"mlp_bias": True}, {"tie_word_embeddings": True}],
    "qwen3": [{"attention_bias": True}],
    "opt": [{"enable_bias": False}],
    "falcon_new": [{"num_ln_in_parallel_attn": 1}],
    "mamba": [{"use_bias": True}, {"use_conv_bias": False}, {"time_step_rank": 5}, {"tie_word_embeddings": False}],
    "vit": [{"qkv_bias": False}, {"num_channels": 1}],
    "bert": [{"type_vocab_size": 3}],
}


@pytest.mark.parametrize(
    ("name", "overrides"),
    [(name, {}) for name in zoo.ZOO] + [(name, v) for name, all_ in VARIANTS.items() for v in all_],
)
def test_the_parameter_count_is_that_of_the_module(name: str, overrides: dict) -> None:
    module = zoo.ZOO[name](**overrides)
    facts = model_facts(module.config.to_dict())
    assert facts.n_params == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_config_as_saved_gives_the_same_facts_as_the_loaded_one(name: str, tmp_path: Path) -> None:
    config = zoo.ZOO[name]().config
    config.save_pretrained(tmp_path)
    assert model_facts(json.loads((tmp_path / "config.json").read_text())) == model_facts(config.to_dict())


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in ("mamba", "vit", "t5", "t5_gated")])
def test_sizes_are_those_of_the_model(name: str) -> None:
    facts = model_facts(zoo.ZOO[name]().config.to_dict())
    wide = name in ("llama", "mistral", "qwen3", "gemma2", "gemma3", "gemma3_text", "mixtral")
    grouped = wide or name in ("qwen2", "phi3", "olmo2", "falcon_new")
    one = name in ("falcon", "gpt_bigcode")
    assert (facts.n_layers, facts.n_heads, facts.d_model, facts.vocab_size) == (3, 4, 32, 97)
    assert facts.d_head == (12 if wide else 8)
    assert facts.n_kv_heads == (2 if grouped else 1 if one else 4)
    assert facts.d_mlp == (128 if name == "bloom" else 56)
    assert facts.max_positions == (2048 if name == "bloom" else 48)


def test_a_star_coder_config_of_an_older_version_has_one_key_value_head() -> None:
    config = zoo.ZOO["gpt_bigcode"]().config.to_dict()
    config.pop("num_key_value_heads", None)
    assert model_facts(config).n_kv_heads == 1


def test_the_encoder_of_t5_has_its_own_number_of_layers() -> None:
    facts = model_facts(zoo.ZOO["t5"]().config.to_dict())
    assert (facts.n_encoder_layers, facts.n_layers) == (2, 3)
    assert adapter_of("t5").layers_of("encoder_resid_post", facts) == 2
    assert adapter_of("t5").layers_of("resid_post", facts) == 3


def test_sizes_that_a_config_leaves_to_its_class_are_known() -> None:
    config = zoo.ZOO["gemma2"]().config.to_dict()
    del config["head_dim"], config["num_key_value_heads"]
    assert (model_facts(config).d_head, model_facts(config).n_kv_heads) == (256, 4)


def test_opt_350m_is_refused() -> None:
    config = zoo.ZOO["opt"]().config.to_dict()
    with pytest.raises(ModelError, match="OPT-350M"):
        model_facts({**config, "word_embed_proj_dim": 16})
    with pytest.raises(ModelError, match="OPT-350M"):
        model_facts({**config, "do_layer_norm_before": False})


def test_d_head_is_read_and_not_divided_out() -> None:
    facts = model_facts(zoo.ZOO["llama"]().config.to_dict())
    assert (facts.d_model, facts.n_heads, facts.n_kv_heads, facts.d_head) == (32, 4, 2, 12)


def test_old_gpt2_configs_with_their_own_key_names_are_read() -> None:
    config = {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    facts = model_facts(config)
    assert (facts.d_mlp, facts.n_kv_heads, facts.max_positions, facts.n_params) == (3072, 12, 1024, 124_439_808)


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"no adapter for the model family 'rwkv'.*gpt2, .*llama"):
        model_facts({"model_type": "rwkv"})
    with pytest.raises(ModelError, match="rwkv"):
        sites_of_family("rwkv")


def test_a_config_without_a_size_says_which() -> None:
    with pytest.raises(ModelError, match=r"does not say its hidden_size \(or n_embd\)"):
        model_facts({"model_type": "gpt2"})


@pytest.mark.parametrize("family", families())
def test_every_family_has_the_residual_stream(family: str) -> None:
    assert {"embed", "resid_pre", "resid_post", "logits"} <= set(sites_of_family(family))


def test_every_family_is_swept_and_an_unknown_one_is_not() -> None:
    assert [family for family in families() if not is_sweepable(family)] == []
    assert not is_sweepable("rwkv")


@pytest.mark.parametrize("family", families())
def test_plans_and_specs_of_sweeps_take_the_sites_of_a_family_and_no_others(family: str) -> None:
    name = next(name for name in zoo.ZOO if zoo.ZOO[name]().config.model_type == family)
    facts, able = model_facts(zoo.ZOO[name]().config.to_dict()), adapter_of(family).patchable
    for site in SITES:
        spec = ActivationPatchingSpec(sites=(site,))
        if site in able:
            assert make_plan(facts, [Lengths(3, (False, True, True))], sites=[site]).tiles
            spec.check_model(facts)
            continue
        with pytest.raises(SiteError, match=site):
            make_plan(facts, [Lengths(3, (False, True, True))], sites=[site])
        with pytest.raises(SiteError, match=site):
            spec.check_model(facts)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_a_family_is_one_small_file(file: Path) -> None:
    machinery = {"__init__", "adapter", "certificate", "facts", "identities", "reading", "registry", "sites", "weights"}
    lines = file.read_text().splitlines()
    assert len(lines) <= (220 if file.stem in machinery else 60)
    if file.stem not in {"certificate", "identities", "reading"}:
        assert not any(line.startswith(("import torch", "from torch")) for line in lines)


def test_an_object_that_is_no_transformers_model_has_no_adapter() -> None:
    with pytest.raises(ModelError, match="dict"):
        adapter_for({})
