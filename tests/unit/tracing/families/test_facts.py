"""Sizes and sites from a config alone."""

import pytest

from tests.decoders import FAMILIES
from tracing.errors import ModelError
from tracing.families import adapter_for, families, model_facts, sites_of_family

VARIANTS = {
    "gpt2": [{}, {"n_inner": 40}],
    "llama": [{}, {"attention_bias": True}, {"mlp_bias": True}, {"tie_word_embeddings": True}],
}


@pytest.mark.parametrize(("family", "overrides"), [(family, v) for family, all_ in VARIANTS.items() for v in all_])
def test_the_parameter_count_is_that_of_the_module(family: str, overrides: dict) -> None:
    module = FAMILIES[family](**overrides)
    facts = model_facts(module.config.to_dict())
    assert facts.n_params == sum(parameter.numel() for parameter in module.parameters())


def test_a_config_as_saved_gives_the_same_facts_as_the_loaded_one() -> None:
    module = FAMILIES["llama"]()
    assert model_facts(module.config.to_diff_dict()) == model_facts(module.config.to_dict())


def test_d_head_is_read_and_not_divided_out() -> None:
    facts = model_facts(FAMILIES["llama"]().config.to_dict())
    assert (facts.d_model, facts.n_heads, facts.n_kv_heads, facts.d_head) == (32, 4, 2, 16)


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
    with pytest.raises(ModelError, match=r"no adapter for the model family 'rwkv'.*gpt2, llama"):
        model_facts({"model_type": "rwkv"})
    with pytest.raises(ModelError, match="rwkv"):
        sites_of_family("rwkv")


def test_a_config_without_a_size_says_which() -> None:
    with pytest.raises(ModelError, match=r"does not say its hidden_size \(or n_embd\)"):
        model_facts({"model_type": "gpt2"})


@pytest.mark.parametrize("family", families())
def test_every_family_has_the_standard_sites(family: str) -> None:
    assert {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z"} <= set(sites_of_family(family))


def test_an_object_that_is_no_transformers_model_has_no_adapter() -> None:
    with pytest.raises(ModelError, match="dict"):
        adapter_for({})
