"""Every standard site of every architecture, against plain hooks whose paths are written out here.

The table is by hand, from reading the modeling files: it takes nothing from the adapters.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import zoo
from tracing.errors import SiteError
from tracing.families import SitePath, adapter_for, adapter_of, config_of, model_facts
from tracing.families.reading import Seen, read

Split = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
HEADS = 4


def thirds(fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = fused.split(32, -1)
    return q.reshape(2, -1, 4, 8), k.reshape(2, -1, 4, 8), v.reshape(2, -1, 4, 8)


def in_each_head(fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heads = fused.reshape(2, -1, 4, 24)
    return heads[..., :8], heads[..., 8:16], heads[..., 16:]


def one_key_value_head(fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return fused[..., :32].reshape(2, -1, 4, 8), fused[..., None, 32:40], fused[..., None, 40:48]


def in_each_group(fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    groups = fused.reshape(2, -1, 2, 4, 8)
    return groups[..., :2, :].reshape(2, -1, 4, 8), groups[..., 2, :], groups[..., 3, :]


def four_and_two_and_two(fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (
        fused[..., :32].reshape(2, -1, 4, 8),
        fused[..., 32:48].reshape(2, -1, 2, 8),
        fused[..., 48:].reshape(2, -1, 2, 8),
    )


@dataclass(frozen=True)
class Hand:
    """Paths of one architecture: of the blocks, then from a block. `mid` is (path, "in" or "out")."""

    blocks: str
    attention: str
    o: str
    adds_attention: str
    adds_mlp: str
    mid: tuple[str, str] | None
    qkv: tuple[str, ...]
    split: Split | None = None


SEPARATE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
LLAMA = Hand(
    "model.layers", "self_attn", "self_attn.o_proj", "self_attn", "mlp", ("post_attention_layernorm", "in"), SEPARATE
)
GEMMA = Hand(
    "model.layers", "self_attn", "self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm",
    ("pre_feedforward_layernorm", "in"), SEPARATE,
)  # fmt: skip
NEOX = ("gpt_neox.layers", "attention", "attention.dense", "attention", "mlp")
GPT2 = ("transformer.h", "attn", "attn.c_proj", "attn", "mlp", ("ln_2", "in"), ("attn.c_attn",))
FALCON = ("transformer.h", "self_attention", "self_attention.dense", "self_attention", "mlp")
FALCON_QKV = ("self_attention.query_key_value",)
PHI = Hand("model.layers", "self_attn", "self_attn.dense", "self_attn", "mlp", None, SEPARATE)
HAND: dict[str, Hand] = {
    "gpt2": Hand(*GPT2, thirds),
    "gpt_neox": Hand(*NEOX, None, ("attention.query_key_value",), in_each_head),
    "gpt_neox_sequential": Hand(
        *NEOX, ("post_attention_layernorm", "in"), ("attention.query_key_value",), in_each_head
    ),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "mixtral"), LLAMA),
    "phi3": Hand(
        "model.layers", "self_attn", "self_attn.o_proj", "self_attn", "mlp", ("post_attention_layernorm", "in"),
        ("self_attn.qkv_proj",), four_and_two_and_two,
    ),
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "gemma3": replace(GEMMA, blocks="model.language_model.layers"),
    "olmo2": Hand(
        "model.layers", "self_attn", "self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm",
        ("mlp", "in"), SEPARATE,
    ),
    "phi": PHI,
    "phi_normed": PHI,
    "opt": Hand(
        "model.decoder.layers", "self_attn", "self_attn.out_proj", "self_attn", "fc2", ("final_layer_norm", "in"),
        SEPARATE,
    ),
    "bloom": Hand(
        "transformer.h", "self_attention", "self_attention.dense", "self_attention.dense", "mlp.dense_4h_to_h",
        ("self_attention", "out"), FALCON_QKV, in_each_head,
    ),
    "falcon": Hand(*FALCON, None, FALCON_QKV, one_key_value_head),
    "falcon_new": Hand(*FALCON, None, FALCON_QKV, in_each_group),
    "falcon_sequential": Hand(*FALCON, ("post_attention_layernorm", "in"), FALCON_QKV, in_each_head),
    "gpt_bigcode": Hand(*GPT2, one_key_value_head),
    "gpt_bigcode_heads": Hand(*GPT2, in_each_head),
    "gptj": Hand(
        "transformer.h", "attn", "attn.out_proj", "attn", "mlp", None, ("attn.q_proj", "attn.k_proj", "attn.v_proj")
    ),
    "bert": Hand(
        "bert.encoder.layer", "attention.self", "attention.output.dense", "attention.output.dense", "output.dense",
        ("attention.output.LayerNorm", "out"),
        ("attention.self.query", "attention.self.key", "attention.self.value"),
    ),
    "vit": Hand(
        "vit.layers", "attention", "attention.o_proj", "attention", "mlp", ("layernorm_after", "in"),
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    ),
}  # fmt: skip


def first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) else value


def watch(module: nn.Module, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Copies of every module's first argument, first output and second output, by path; eager attention."""
    ins: dict[str, Tensor] = {}
    outs: dict[str, Tensor] = {}
    seconds: dict[str, Any] = {}

    def before(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            value = args[0] if args else kwargs.get("hidden_states")
            if isinstance(value, Tensor):
                ins[path] = value.clone()

        return hook

    def after(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, output: Any) -> None:
            if isinstance(first(output), Tensor):
                outs[path] = first(output).clone()
            if isinstance(output, tuple) and len(output) > 1:
                seconds[path] = output[1]

        return hook

    for path, part in module.named_modules():
        part.register_forward_pre_hook(before(path), with_kwargs=True)
        part.register_forward_hook(after(path))
    module.config._attn_implementation = "eager"  # Falcon has no way to set it
    with torch.no_grad():
        logits = module(**inputs).logits
    return ins, outs, {**seconds, "logits": logits}


def inputs_of(name: str) -> dict[str, Tensor]:
    given = zoo.example_inputs(name)
    return {key: value.double() if value.is_floating_point() else value for key, value in given.items()}


def seen_by_adapter(name: str) -> Seen:
    module = zoo.model(name, torch.float64)
    seen = read(module, adapter_for(module), model_facts(config_of(module)), inputs_of(name))
    assert not seen.missing
    return seen


@pytest.mark.parametrize("name", HAND)
def test_every_site_is_where_plain_hooks_find_it(name: str) -> None:
    hand, seen = HAND[name], seen_by_adapter(name)
    module = zoo.model(name, torch.float64)
    ins, outs, more = watch(module, inputs_of(name))
    expected: dict[tuple[str, int | None], Tensor] = {("embed", None): ins[f"{hand.blocks}.0"]}
    expected["logits", None] = more["logits"]
    for layer in range(3):
        block = f"{hand.blocks}.{layer}"
        tokens = ins[block].shape[1]

        def at(path: str, where: dict[str, Tensor], block: str = block, tokens: int = tokens) -> Tensor:
            return where[f"{block}.{path}"].reshape(2, tokens, -1)

        expected["resid_pre", layer] = ins[block]
        expected["resid_post", layer] = outs[block]
        expected["attn_out", layer] = at(hand.adds_attention, outs)
        expected["mlp_out", layer] = at(hand.adds_mlp, outs)
        expected["z", layer] = at(hand.o, ins).reshape(2, tokens, HEADS, -1)
        expected["pattern", layer] = more[f"{block}.{hand.attention}"]
        if hand.mid is not None:
            expected["resid_mid", layer] = at(hand.mid[0], ins if hand.mid[1] == "in" else outs)
        if hand.split:
            parts = hand.split(at(hand.qkv[0], outs))
        else:
            d_head = expected["z", layer].shape[-1]
            parts = tuple(at(path, outs).reshape(2, tokens, -1, d_head) for path in hand.qkv)
        expected.update({(kind, layer): part for kind, part in zip("qkv", parts, strict=True)})
    compared = {key: value for key, value in seen.sites.items() if key[0] not in ("scores", "q_rot", "k_rot")}
    assert compared.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(compared[key], value, rtol=0, atol=1e-12, msg=lambda text, key=key: f"{key}: {text}")


SHAPES = {
    "resid": {"embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mixer_out", "cross_out"},
    "query": {"q", "z", "q_rot"},
    "key": {"k", "v", "k_rot"},
    "square": {"pattern", "scores"},
}


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_site_has_its_standard_shape(name: str) -> None:
    facts = model_facts(config_of(zoo.model(name)))
    seen = seen_by_adapter(name)
    for (site, layer), value in seen.sites.items():
        tokens = 7 if name.startswith("t5") and not site.startswith("encoder_") else 10 if name == "vit" else 9
        kind = next((kind for kind, names in SHAPES.items() if site.removeprefix("encoder_") in names), "logits")
        expected = {
            "resid": (2, tokens, 32),
            "query": (2, tokens, 4, facts.d_head),
            "key": (2, tokens, facts.n_kv_heads, facts.d_head),
            "square": (2, 4, tokens, tokens),
            "logits": (2, 7) if name == "vit" else (2, tokens, 97),
        }[kind]
        if site == "k_rot" and name == "falcon_new":  # its module repeats the keys itself
            assert value.shape[2] in (2, 4)
            continue
        assert tuple(value.shape) == expected, (site, layer)


def test_mamba_has_a_mixer_and_t5_two_stacks() -> None:
    module = zoo.model("mamba", torch.float64)
    ins, outs, _ = watch(module, inputs_of("mamba"))
    seen = seen_by_adapter("mamba").sites
    for layer in range(3):
        torch.testing.assert_close(seen["mixer_out", layer], outs[f"backbone.layers.{layer}.mixer"])
        torch.testing.assert_close(seen["resid_pre", layer], ins[f"backbone.layers.{layer}"])
    module = zoo.model("t5", torch.float64)
    ins, outs, _ = watch(module, inputs_of("t5"))
    seen = seen_by_adapter("t5").sites
    for layer in range(2):
        encoder = f"encoder.block.{layer}"
        torch.testing.assert_close(seen["encoder_resid_post", layer], outs[encoder])
        torch.testing.assert_close(seen["encoder_attn_out", layer], outs[f"{encoder}.layer.0.SelfAttention.o"])
        torch.testing.assert_close(seen["encoder_mlp_out", layer], outs[f"{encoder}.layer.1.DenseReluDense"])
    for layer in range(3):
        decoder = f"decoder.block.{layer}"
        torch.testing.assert_close(seen["resid_pre", layer], ins[decoder])
        torch.testing.assert_close(seen["attn_out", layer], outs[f"{decoder}.layer.0.SelfAttention.o"])
        torch.testing.assert_close(seen["cross_out", layer], outs[f"{decoder}.layer.1.EncDecAttention.o"])
        torch.testing.assert_close(seen["mlp_out", layer], outs[f"{decoder}.layer.2.DenseReluDense"])


@pytest.mark.parametrize("name", [name for name, hand in HAND.items() if hand.mid is not None and name != "bert"])
def test_what_is_written_to_the_middle_stays_in_the_residual_stream(name: str) -> None:
    module, layer = zoo.model(name, torch.float64), 1
    adapter, facts = adapter_for(module), model_facts(config_of(module))
    site = adapter.site("resid_mid", layer, facts)
    assert site.in_place == (site.kind == "inputs")
    part, written = module.get_submodule(site.path), torch.zeros(())

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal written
        value = args[0] if args else kwargs["hidden_states"]
        written = value.mul_(1.5).clone()

    def after(_: nn.Module, args: Any, output: Any) -> Any:
        nonlocal written
        written = output[0] * 1.5
        return (written, *output[1:])

    if site.in_place:
        part.register_forward_pre_hook(before, with_kwargs=True)
    else:
        part.register_forward_hook(after)
    seen = read(module, adapter, facts, inputs_of(name)).sites
    expected = written.reshape(seen["mlp_out", layer].shape) + seen["mlp_out", layer]
    torch.testing.assert_close(seen["resid_post", layer], expected, rtol=0, atol=1e-12)


def test_residual_blocks_are_those_of_every_stack() -> None:
    module = zoo.model("t5")
    blocks = adapter_for(module).residual_blocks(module)
    assert blocks == [*module.encoder.block, *module.decoder.block]
    module = zoo.model("gpt2")
    assert adapter_for(module).residual_blocks(module) == list(module.transformer.h)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_adapter_knows_whether_blocks_return_tuples(name: str) -> None:
    module, found = zoo.model(name), []
    adapter = adapter_for(module)
    for block in adapter.residual_blocks(module):
        block.register_forward_hook(lambda _, args, output: found.append(isinstance(output, tuple)))
    with torch.no_grad():
        module(**zoo.example_inputs(name))
    assert set(found) == {adapter.block_returns_tuple}


LLAMA_FACTS = model_facts(config_of(zoo.model("llama")))


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("resid_mit", 0, r"no site 'resid_mit'. Did you mean resid_mid\?"),
        ("resid_post", None, r"needs a layer. Write sites.resid_post\[layer\]"),
        ("resid_post", 3, "There is no layer 3: the model has 3. Layers are 0 to 2"),
        ("resid_post", -4, "There is no layer -4"),
        ("logits", 0, "logits has no layers"),
    ],
)
def test_an_impossible_site_says_why(name: str, layer: int | None, message: str) -> None:
    with pytest.raises(SiteError, match=message):
        adapter_of("llama").site(name, layer, LLAMA_FACTS)


@pytest.mark.parametrize("name", ["gpt_neox", "phi", "falcon", "falcon_new", "gptj"])
def test_parallel_blocks_have_no_middle_and_say_so(name: str) -> None:
    module = zoo.model(name)
    with pytest.raises(SiteError, match=r"resid_mid does not exist on the parallel blocks.*Use resid_pre"):
        adapter_for(module).site("resid_mid", 0, model_facts(config_of(module)))


def test_layers_count_from_the_end_too() -> None:
    adapter = adapter_of("llama")
    assert adapter.site("z", -1, LLAMA_FACTS) == adapter.site("z", 2, LLAMA_FACTS)


def test_what_a_path_says_is_plain_data() -> None:
    adapter = adapter_of("llama")
    assert adapter.site("resid_mid", 1, LLAMA_FACTS) == SitePath(
        "model.layers.1.post_attention_layernorm", "inputs", (("first",),), in_place=True
    )
    assert adapter.site("k", 1, LLAMA_FACTS) == SitePath(
        "model.layers.1.self_attn.k_proj", "output", (("main",), ("heads", 0, 1, 12))
    )
    assert adapter.site("head_out", 1, LLAMA_FACTS).read_only
