"""Text models of every family: batched prompts equal prompts alone, tokenizers, keywords, models without weights."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import Tensor, nn

from tests import zoo
from tracing.errors import ModelError, PromptError
from tracing.models import LanguageModel
from tracing.models.batching import Batch, Inputs
from tracing.tokens import Tokens

CAUSAL = [name for name in zoo.ZOO if not name.startswith(("vit", "bert", "t5"))]
IN_32_BITS = {"gptj": 1e-6}
"""Families that compute some parts in float32 whatever the weights are in: what rounding those leave."""
EAGER = ("bloom", "gemma2")
"""Families that run eager attention, whose softmax is in float32."""


def wrap(name: str, **options: Any) -> LanguageModel:
    return LanguageModel(zoo.double(zoo.model(name)), verify=False, **options)


def run(model: LanguageModel, *prompts: Any, **named: Any) -> tuple[Batch, Tensor]:
    """The batch of an invoke to each prompt, and its logits."""
    batch = model.batch([Inputs((prompt,), named) for prompt in prompts])
    with torch.inference_mode():
        return batch, model.logits_of(model.module(*batch.args, **batch.kwargs))


def own_logits(batch: Batch, logits: Tensor, invoke: int) -> Tensor:
    rows = batch.rows[invoke]
    return logits[rows.start : rows.stop, rows.pad :]


def require_equal(model: LanguageModel, prompts: list[Any], tolerance: float = 1e-12) -> Batch:
    """The logits of every prompt are the same in one batch and alone."""
    batch, together = run(model, *prompts)
    for n, prompt in enumerate(prompts):
        torch.testing.assert_close(own_logits(batch, together, n), run(model, prompt)[1], atol=tolerance, rtol=0)
    return batch


@pytest.mark.parametrize("name", [name for name in CAUSAL if name not in EAGER])
def test_prompts_of_unequal_lengths_in_one_batch_give_the_logits_of_each_alone(name: str) -> None:
    batch = require_equal(wrap(name), [zoo.ids(1, 9), zoo.ids(1, 4), zoo.ids(2, 6)], IN_32_BITS.get(name, 1e-12))
    assert batch.rows[1].pad > 0


@pytest.mark.parametrize("name", EAGER)
def test_eager_attention_is_batched_in_32_bits_and_refused_where_it_gives_nan(name: str) -> None:
    prompts = [zoo.ids(1, 9), zoo.ids(1, 4), zoo.ids(2, 6)]
    require_equal(LanguageModel(zoo.model(name), verify=False), prompts, 1e-5)
    with pytest.raises(PromptError, match="padding gives NaN in float64 with eager attention"):
        run(wrap(name), *prompts)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox", "mamba", "opt", "bert", "t5"])
def test_what_stands_in_padding_changes_nothing(name: str) -> None:
    model, found = wrap(name), []
    for pad_id in (0, 7, 50):
        model.rules = replace(model.rules, pad_id=pad_id)
        batch, logits = run(model, zoo.ids(1, 9), zoo.ids(1, 4))
        assert batch.kwargs["input_ids"][1, 0] == pad_id
        found.append(logits[1, batch.rows[1].pad :] if name != "t5" else logits[1])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_an_encoder_reads_prompts_of_unequal_lengths() -> None:
    require_equal(wrap("bert"), [zoo.ids(1, 9), zoo.ids(1, 4), zoo.ids(2, 6)])


@pytest.mark.parametrize("name", ["t5", "t5_gated"])
def test_an_encoder_decoder_reads_unequal_lengths_on_both_sides(name: str) -> None:
    model = wrap(name)
    given = [
        Inputs((zoo.ids(1, 9),), {"decoder_input_ids": zoo.ids(1, 3)}),
        Inputs((zoo.ids(2, 5),), {"decoder_input_ids": zoo.ids(2, 6)}),
    ]
    batch = model.batch(given)
    assert batch.decoder_length not in (None, batch.length, *model.rules.sizes)
    with torch.inference_mode():
        together = model.module(**batch.kwargs).logits
        for one, rows in zip(given, batch.rows, strict=True):
            alone = model.module(**model.batch([one]).kwargs).logits
            own = together[rows.start : rows.stop, : rows.decoder]
            torch.testing.assert_close(own, alone, atol=1e-12, rtol=0)


def test_the_loss_of_one_batch_is_that_of_its_labels() -> None:
    model = wrap("llama")
    ids = zoo.ids(1, 9), zoo.ids(1, 4)
    with torch.inference_mode():
        batch = model.batch([Inputs((one,), {"labels": one}) for one in ids])
        together = model.module(**batch.kwargs).loss
        losses = [model.module(**model.batch([Inputs((one,), {"labels": one})]).kwargs).loss for one in ids]
    # The loss is in float32 whatever the weights are in. A prompt of n tokens has n - 1 predictions.
    torch.testing.assert_close(together, (losses[0] * 8 + losses[1] * 3) / 11, atol=1e-5, rtol=0)


def test_a_users_left_padding_gives_the_logits_without_padding() -> None:
    model = wrap("gpt2")
    ids = zoo.ids(1, 4)
    padded = {
        "input_ids": torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1),
        "attention_mask": [[0] * 3 + [1] * 4],
    }
    torch.testing.assert_close(run(model, padded)[1][:, 3:], run(model, ids)[1], atol=1e-12, rtol=0)
    batch, logits = run(model, padded, zoo.ids(1, 9))
    torch.testing.assert_close(own_logits(batch, logits, 0)[:, 3:], run(model, ids)[1], atol=1e-12, rtol=0)


# -- what can be padded, and how far a model reads --------------------------------------------------------------------
RWKV = partial(zoo.make, "RwkvForCausalLM", "RwkvConfig", vocab_size=97, hidden_size=32, num_hidden_layers=2, **zoo.IDS)
BART = partial(
    zoo.make, "BartForConditionalGeneration", "BartConfig", vocab_size=97, d_model=32, encoder_layers=1,
    decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=56, decoder_ffn_dim=56,
    max_position_embeddings=48, decoder_start_token_id=1, **zoo.IDS,
)  # fmt: skip
GPT_NEO = partial(
    zoo.make, "GPTNeoForCausalLM", "GPTNeoConfig", vocab_size=97, hidden_size=32, num_layers=2, num_heads=4,
    attention_types=[[["global", "local"], 1]], max_position_embeddings=48, window_size=4, **zoo.IDS,
)  # fmt: skip


@pytest.mark.parametrize("build", [RWKV, BART], ids=["no mask", "absolute positions"])
def test_a_model_that_padding_changes_is_measured_and_refused(build: Callable[[], nn.Module]) -> None:
    model = LanguageModel(build())
    assert model.batch([Inputs((zoo.ids(1, 5),)), Inputs((zoo.ids(1, 5),))]).total == 2
    with pytest.raises(PromptError, match=r"unequal lengths \(5, 3 tokens\).*padding changes its outputs"):
        model.batch([Inputs((zoo.ids(1, 5),)), Inputs((zoo.ids(1, 3),))])


def test_a_model_of_no_known_family_that_padding_leaves_alone_is_batched() -> None:
    model = LanguageModel(GPT_NEO())
    assert model.padding_refusal == ""
    require_equal(model, [zoo.ids(1, 9), zoo.ids(1, 4)], 1e-5)


def test_a_prompt_longer_than_a_table_of_positions_is_refused_and_rotary_models_have_none() -> None:
    for name in ("gpt2", "opt", "bert", "gptj"):
        assert LanguageModel(zoo.model(name), verify=False).rules.max_positions == zoo.POSITIONS
    with pytest.raises(PromptError, match="has 49 tokens, but the model reads 48"):
        wrap("gpt2").batch([Inputs((zoo.ids(1, 49),))])
    for name in ("llama", "gpt_neox", "bloom", "mamba", "t5"):
        assert LanguageModel(zoo.model(name), verify=False).rules.max_positions is None


@pytest.mark.parametrize("name", ["gpt2", "bert", "opt", "gpt_bigcode"])
def test_padding_may_go_beyond_the_table_of_positions(name: str) -> None:
    size = {"max_position_embeddings" if name in ("bert", "opt") else "n_positions": zoo.WIDTH}
    model = LanguageModel(zoo.double(zoo.model(name, **size)), verify=False)
    assert model.batch([Inputs((zoo.ids(1, 32),)), Inputs((zoo.ids(1, 3),))]).length == 33  # 32 is the width
    require_equal(model, [zoo.ids(1, 32), zoo.ids(1, 3)])


def test_a_padded_length_is_no_size_of_the_model() -> None:
    sizes = set(LanguageModel(zoo.model("llama")).rules.sizes)
    assert {32, 97, 12, 4, 2, 48, 24, 56, 3} <= sizes  # width, vocabulary, head, heads, q, k and v, mlp, layers
    assert LanguageModel(zoo.model("gpt2")).batch([Inputs(([1] * 8,)), Inputs(([1],))]).length == 9  # 8 wide heads


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(PromptError, match="token id 97, but the vocabulary ends at 96"):
        wrap("gpt2").batch([Inputs(([97],))])


# -- keywords ---------------------------------------------------------------------------------------------------------
def test_an_unknown_argument_of_the_forward_is_a_type_error_with_a_suggestion() -> None:
    model = wrap("llama")
    model.batch([Inputs(([1],), {"output_attentions": True, "logits_to_keep": 1})])
    with pytest.raises(
        TypeError, match=r"LlamaForCausalLM\.forward has no.*'output_attentons' \(did you mean 'output_att"
    ):
        model.batch([Inputs(([1],), {"output_attentons": True})])


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("devise", "'devise' (did you mean 'device'?)"),
        ("torch_dtype", "'torch_dtype' (did you mean 'dtype'?)"),
        ("trust_remote_code", "LanguageModel has no keyword argument 'trust_remote_code'. It takes"),
    ],
)
def test_an_unknown_keyword_of_the_model_is_a_type_error_with_a_suggestion(keyword: str, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        LanguageModel(zoo.model("gpt2"), **{keyword: "x"})


def test_engines_are_listed() -> None:
    with pytest.raises(ModelError, match="no engine 'tpu'"):
        LanguageModel(zoo.model("gpt2"), engine="tpu")


# -- what the model is ------------------------------------------------------------------------------------------------
def test_blocks_are_known_to_be_residual_blocks() -> None:
    model = wrap("gpt2")
    assert model.block_paths == {"transformer.h.0", "transformer.h.1", "transformer.h.2"}
    assert model.is_block("transformer.h.1")
    assert not model.is_block("transformer.h.1.mlp")
    assert wrap("t5").block_paths == {"encoder.block.0", "encoder.block.1", *(f"decoder.block.{n}" for n in range(3))}


def test_a_family_without_adapter_can_be_wrapped_and_says_so_when_its_sites_are_asked_for() -> None:
    model = LanguageModel(GPT_NEO())
    assert model.block_paths == {"transformer.h.0", "transformer.h.1"}
    assert repr(model).startswith("LanguageModel(GPTNeoForCausalLM, 0.0M parameters, float32 on cpu")
    assert "GPTNeoAttention" in str(model)
    with pytest.raises(ModelError, match="no adapter for the model family 'gpt_neo'"):
        _ = model.adapter
    with pytest.raises(ModelError, match="no adapter"):
        _ = model.facts


class Counter(nn.Module):
    """A model of one's own that names its ids otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.table(numbers)


def test_a_module_of_ones_own_takes_its_ids_by_position() -> None:
    model = LanguageModel(Counter())
    batch, output = run(model, [1, 2, 3], [4, 5, 6])
    assert batch.kwargs == {}
    assert output.shape == (2, 3, 4)
    with pytest.raises(PromptError, match="takes no attention_mask"):
        run(model, [1, 2, 3], [4])


def test_logits_are_those_of_an_output_that_has_them() -> None:
    module = zoo.model("gpt2")
    output = module(zoo.ids())
    assert LanguageModel.logits_of(output) is output.logits
    assert LanguageModel.logits_of(output.logits) is output.logits


# -- without weights --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "t5", "mamba"])
def test_a_config_alone_gives_a_model_without_weights(name: str, tmp_path: Path) -> None:
    module = zoo.model(name)
    module.config.architectures = [type(module).__name__]
    module.config.save_pretrained(tmp_path)
    model = LanguageModel(tmp_path, device="meta", dtype="bfloat16")
    assert type(model.module) is type(module)
    assert {path: part.shape for path, part in model.module.named_parameters()} == {
        path: part.shape for path, part in module.named_parameters()
    }
    assert (model.device.type, model.dtype, model.has_weights) == ("meta", torch.bfloat16, False)
    assert model.facts.n_layers
    with pytest.raises(ModelError, match=r"without weights.*device=\"cpu\".*remote=True"):
        model.require_weights()
    with pytest.raises(ModelError, match="without weights"):
        model.logits([[1, 2]])
    with pytest.raises(ModelError, match="without weights"):
        model.call(**model.batch([Inputs(([1, 2],))]).kwargs)


def test_a_module_in_memory_keeps_its_weights() -> None:
    with pytest.raises(ModelError, match="throw the weights of this module away"):
        LanguageModel(zoo.model("gpt2"), device="meta")
    with torch.device("meta"):
        module = hf.GPT2LMHeadModel(zoo.model("gpt2").config)
    assert not LanguageModel(module).has_weights


# -- generation -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "bloom", "mamba", "gpt_neox"])
def test_a_batched_generation_makes_the_tokens_of_each_prompt_alone(name: str) -> None:
    model = LanguageModel(zoo.model(name), verify=False)
    prompts = [zoo.ids(1, 9), zoo.ids(1, 4)]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    together = model.generate_ids(**model.batch([Inputs((one,)) for one in prompts], generating=True).kwargs, **options)
    for row, one in zip(together, prompts, strict=True):
        alone = model.generate_ids(**model.batch([Inputs((one,))], generating=True).kwargs, **options)
        assert row[-4:].tolist() == alone[0, -4:].tolist()


def test_a_generation_that_does_not_fit_the_positions_is_refused() -> None:
    model = wrap("gpt2")
    kwargs = model.batch([Inputs((zoo.ids(1, 40),)), Inputs((zoo.ids(1, 3),))], generating=True).kwargs
    assert model.generate_ids(**kwargs, max_new_tokens=9, min_new_tokens=9).shape[1] == kwargs["input_ids"].shape[1] + 9
    with pytest.raises(PromptError, match="40 tokens and 10 new ones do not fit the 48 positions"):
        model.generate_ids(**kwargs, max_new_tokens=10)


def test_options_of_a_generation_are_known() -> None:
    model = wrap("llama")
    assert {"max_new_tokens", "do_sample", "stopping_criteria", "output_attentions"} <= (
        model.option_names("generate") or set()
    )
    assert "max_new_tokens" not in (model.option_names("forward") or set())
    assert {"input_ids", "attention_mask", "labels", "add_special_tokens"} <= model.input_names()
    assert model.steps_of({"max_new_tokens": 3}) == 3
    assert model.steps_of({"generation_config": hf.GenerationConfig(max_new_tokens=5)}) == 5
    assert model.steps_of({}) is None


# -- tokenizers -------------------------------------------------------------------------------------------------------
def words() -> Tokenizer:
    """A word a token."""
    made = Tokenizer(tokenizer_models.WordLevel({"<unk>": 0, "When": 1, "Mary": 2, "went": 3}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model and tokenizer.json alone."""
    zoo.model("gpt2").save_pretrained(tmp_path / "tiny")
    words().save(str(tmp_path / "tiny" / "tokenizer.json"))
    return tmp_path / "tiny"


def given_tokenizer(kind: str, folder: Path) -> Any:
    match kind:
        case "transformers":
            return hf.PreTrainedTokenizerFast(tokenizer_object=words())
        case "tokens":
            return Tokens(words())
        case "folder":
            return folder
        case "name":
            return str(folder)
        case _:
            return None


@pytest.mark.parametrize("kind", ["transformers", "tokens", "folder", "name"])
def test_a_tokenizer_comes_in_many_forms(kind: str, folder: Path) -> None:
    model = LanguageModel(zoo.model("gpt2"), tokenizer=given_tokenizer(kind, folder))
    assert isinstance(model.tokenizer, hf.PreTrainedTokenizerBase)
    assert model.tokenizer.encode("Mary went") == [2, 3]
    assert model.tokenizer.decode([2, 3]) == "Mary went"
    assert model.tokens.encode("When") == [1]
    assert model.batch([Inputs(("When Mary",))]).kwargs["input_ids"].tolist() == [[1, 2]]


def test_a_folders_own_tokenizer_is_read_when_it_is_needed(folder: Path) -> None:
    model = LanguageModel(folder)
    assert "tokenizer" not in model.__dict__
    assert model.tokenizer.encode("When Mary went")[1] == 2
    batch = model.batch([Inputs((["When Mary went", "Mary"],)), Inputs(("went",))])
    assert batch.kwargs["attention_mask"].sum(1).tolist() == [3, 1, 1]


def test_a_saved_transformers_tokenizer_keeps_its_special_tokens(folder: Path) -> None:
    hf.PreTrainedTokenizerFast(tokenizer_object=words(), eos_token="<unk>").save_pretrained(folder)
    model = LanguageModel(folder)
    assert model.tokenizer.eos_token == "<unk>"
    assert model.tokenizer.encode("Mary") == [2]


def test_nothing_is_cut_off_by_a_tokenizer_that_would(folder: Path) -> None:
    cutting = words()
    cutting.enable_truncation(2)
    cutting.save(str(folder / "tokenizer.json"))
    hf.PreTrainedTokenizerFast(tokenizer_object=cutting, model_max_length=2).save_pretrained(folder)
    model = LanguageModel(folder)
    model.tokenizer(["Mary Mary Mary"], truncation=True, max_length=2)  # leaves the tokenizer cutting
    assert model.batch([Inputs(("Mary " * 5,))]).length == 5


def test_a_model_without_tokenizer_says_so() -> None:
    model = wrap("gpt2")
    for read in (lambda: model.tokenizer, lambda: model.tokens, lambda: model.batch([Inputs(("Mary",))])):
        with pytest.raises(ModelError, match=r"no tokenizer.*tokenizer="):
            read()


def test_a_broken_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json of 'tiny' cannot be read"):
        _ = LanguageModel(folder).tokenizer
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}', encoding="utf-8")
    with pytest.raises(ModelError, match="tokenizer of 'tiny' cannot be read"):
        _ = LanguageModel(folder).tokenizer
