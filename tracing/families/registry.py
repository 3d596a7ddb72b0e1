"""Adapters by family name (`config.model_type`). A user's own adapter is added with `register`.

An adapter for a module of one's own: `embed`, `pos`, `layers.N.{ln1,attn,ln2,mlp}`, with attention that has `q`, `k`,
`v` and `out` and returns `(output, pattern)`, whose `config` is a dict or has `to_dict()`.

    from tracing.families import PLAIN_SITES, Adapter, Weights, register, separate

    register(Adapter(
        family="mine",                        # config["model_type"]
        backbone="",                          # paths of the model: "" is the model itself, or that there is none
        input_name="",                        # model(ids), not model(input_ids=ids)
        embeddings=("embed", "pos"),          # their outputs are added up
        blocks="layers",
        unembed="unembed",
        norm_attn="ln1", attn="attn",
        **separate("attn.q", "attn.k", "attn.v"),
        out_proj="attn.out",
        pattern_item=1,                       # attn returns (output, pattern)
        norm_mlp="ln2", mlp="mlp",            # resid_mid is what ln2 is called with
        weights=Weights(learned_positions=True, final_norm=False),
        sites=PLAIN_SITES,                    # scores, q_rot and k_rot are inside attention, where only transformers'
    ))                                        # own attention can be tapped

`config` needs model_type, hidden_size, num_attention_heads, num_hidden_layers, vocab_size, max_position_embeddings and,
where they are not the usual ones, head_dim and intermediate_size. `families.check` then says what is exact.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracing.errors import ModelError
from tracing.families import bert, falcon, gemma3, gpt_bigcode, gpt_neox, mamba, opt, phi, t5, vit
from tracing.families.adapter import Adapter
from tracing.families.bloom import BLOOM
from tracing.families.gemma2 import GEMMA2
from tracing.families.gpt2 import GPT2
from tracing.families.gptj import GPTJ
from tracing.families.llama import LLAMA
from tracing.families.mistral import MISTRAL
from tracing.families.mixtral import MIXTRAL
from tracing.families.olmo2 import OLMO2
from tracing.families.phi3 import PHI3
from tracing.families.qwen2 import QWEN2
from tracing.families.qwen3 import QWEN3

if TYPE_CHECKING:
    from tracing.families.facts import ModelFacts


@dataclass(frozen=True, slots=True)
class Family:
    """An adapter, and what of it depends on the config."""

    adapter: Adapter
    variant: Callable[[Mapping[str, Any]], Adapter] | None = None
    """The adapter of a model with this config, where the family has several layouts."""
    count: "Callable[[ModelFacts, Mapping[str, Any]], int] | None" = None
    """The number of parameters, where `Adapter.weights` cannot say it."""
    sizes: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    """Sizes under the usual config keys, where the config has them under no name."""


_BUILT_IN: tuple[Family, ...] = (
    Family(GPT2),
    Family(LLAMA),
    Family(MISTRAL),
    Family(MIXTRAL),
    Family(QWEN2),
    Family(QWEN3),
    Family(GEMMA2),
    Family(gemma3.GEMMA3),
    Family(gemma3.GEMMA3_VISION, count=gemma3.count, sizes=gemma3.sizes),
    Family(OLMO2),
    Family(PHI3),
    Family(BLOOM),
    Family(GPTJ),
    Family(gpt_neox.GPT_NEOX, gpt_neox.variant),
    Family(phi.PHI, phi.variant),
    Family(opt.OPT, opt.variant),
    Family(falcon.FALCON, falcon.variant, sizes=falcon.sizes),
    Family(gpt_bigcode.GPT_BIGCODE, gpt_bigcode.variant, sizes=gpt_bigcode.sizes),
    Family(bert.BERT, count=bert.count),
    Family(vit.VIT, count=vit.count, sizes=vit.sizes),
    Family(mamba.MAMBA, count=mamba.count),
    Family(t5.T5, count=t5.count),
)
_FAMILIES: dict[str, Family] = {family.adapter.family: family for family in _BUILT_IN}
_OWN: set[str] = set()


def register(
    adapter: Adapter,
    variant: Callable[[Mapping[str, Any]], Adapter] | None = None,
    *,
    count: "Callable[[ModelFacts, Mapping[str, Any]], int] | None" = None,
    replace: bool = False,
) -> Adapter:
    """Add an adapter; with `replace`, in the place of one registered before (never of one that comes with tracing).

    `variant(config)` gives the adapter of one model, where it depends on the config; `count(facts, config)` the number
    of parameters, where `Adapter.weights` cannot say it.
    Raises `ValueError` where the family is taken.
    """
    name = adapter.family
    if name in _FAMILIES and not (replace and name in _OWN):
        remedy = "Pass replace=True to put this one in its place." if name in _OWN else "Choose another family name."
        raise ValueError(f"An adapter for the family {name!r} is already registered. {remedy}")
    _FAMILIES[name] = Family(adapter, variant, count)
    _OWN.add(name)
    return adapter


def families() -> tuple[str, ...]:
    """The known families, by name."""
    return tuple(sorted(_FAMILIES))


def family_of(name: str) -> Family:
    """A family by `config.model_type`. Raises `ModelError` listing the known ones otherwise."""
    try:
        return _FAMILIES[name]
    except KeyError:
        raise ModelError(
            f"There is no adapter for the model family {name!r}, which is the model_type of its config.",
            remedy=f"Known families: {', '.join(families())}. For others, register an Adapter of this family "
            "(tracing.families.register); its module paths work without one.",
            where={"family": name},
        ) from None


def adapter_of(family: str, config: Mapping[str, Any] | None = None) -> Adapter:
    """The adapter of a family, or of one model of it where its layout depends on the config. Raises `ModelError`."""
    found = family_of(family)
    return found.adapter if config is None or found.variant is None else found.variant(config)


def adapter_for(model: Any) -> Adapter:
    """The adapter of a transformers model (or of our wrapper), by its `config.model_type`.

    Raises `ModelError` where the model has no config or belongs to no known family.
    """
    config = config_of(model)
    if not config.get("model_type"):
        raise ModelError(
            f"{type(model).__name__} has no config with a model_type, which is the family that adapters go by.",
            remedy='Give it one, module.config = {"model_type": "mine", ...}, and register an Adapter of that family: '
            "tracing.families.register. Its module paths work without one.",
        )
    return adapter_of(str(config["model_type"]), config)


def config_of(model: Any) -> dict[str, Any]:
    """The config of a model as a dict; empty where it has none."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        return dict(config.to_dict())
    return dict(config) if isinstance(config, Mapping) else {}
