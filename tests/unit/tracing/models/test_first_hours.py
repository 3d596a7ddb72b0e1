"""What a newcomer tries in the first hours, and what is answered."""

import copy

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.unit.tracing.seed import support
from tracing import LanguageModel
from tracing.errors import ModelError, PathError, PromptError, RecordError
from tracing.graph import codec

PROMPT = "The keys to the cabinet"


@pytest.fixture(scope="module")
def gpt2() -> LanguageModel:
    return LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER, dtype=torch.float64)


# -- new names for modules --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "rename",
    [
        {"layers": "transformer.h", "ff": "mlp"},
        {"transformer.h": "layers", "mlp": "ff"},
        {".transformer.h": "layers", "ff": "mlp"},
    ],
)
def test_a_new_name_may_stand_on_either_side(rename: dict[str, str]) -> None:
    model = LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER, rename=rename)
    with model.trace(PROMPT):
        new, old = model.layers[1].ff.output.save(), model.transformer.h[1].mlp.output.save()
    assert torch.equal(new.value, old.value)
    assert not hasattr(model.transformer, "layers"), "a path counts from the root"
    assert "layers" in dir(model)
    assert "ff" in dir(model.layers[0])


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"layers": "transformer.hh"}, r"no module 'transformer\.hh', and none 'layers' either\. Near it: transformer"),
        ({"transformr.h": "layers"}, r"none 'transformr\.h' either\. Near it: transformer\.h"),
        ({"mlp": "attn"}, "modules of both names"),
        ({"transformer.h": "the.layers"}, "has a dot in it"),
        ({"transformer.h": "trace"}, "is an attribute of LanguageModel"),
    ],
)
def test_a_new_name_that_would_name_nothing_is_refused(rename: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER, rename=rename)


def test_new_names_that_are_no_names_are_refused() -> None:
    with pytest.raises(TypeError, match="is no mapping of names"):
        LanguageModel(support.gpt2(), rename={"transformer.h": ["layers"]})  # type: ignore[dict-item]


# -- patterns by the model's own option -------------------------------------------------------------------------------
def test_attention_patterns_that_are_asked_for_are_returned_under_sdpa(gpt2: LanguageModel) -> None:
    assert gpt2.attention == "sdpa"
    with gpt2.trace(PROMPT, output_attentions=True) as tracer:
        returned = gpt2.output.attentions.save()
        patterns = [pattern.save() for pattern in gpt2.sites.pattern]
        assert "attention: eager" in str(tracer.plan())
    assert len(returned) == 4
    for one, pattern in zip(returned, patterns, strict=True):
        assert torch.equal(one, pattern.value)
    assert gpt2.attention == "sdpa"


def test_the_shapes_of_patterns_that_are_asked_for_are_known(gpt2: LanguageModel) -> None:
    with gpt2.scan(PROMPT, output_attentions=True):
        pattern = gpt2.output.attentions[1].save()
    assert pattern.shape[:2] == (1, 4)


# -- caches -----------------------------------------------------------------------------------------------------------
def test_a_block_in_a_cache_is_indexed_as_in_the_trace(gpt2: LanguageModel) -> None:
    with gpt2.trace([PROMPT] * 2) as tracer:
        some, every = tracer.cache(modules=["transformer.h.1"]), tracer.cache()
        assert "nothing yet" in repr(some)
        whole = gpt2.transformer.h[1].output[0].save()
        row = gpt2.transformer.h[1].output[0][1].save()
    for cache in (some, every):
        found = cache["transformer.h.1"].output
        assert torch.equal(found[0], whole.value)
        assert torch.equal(found[np.int64(0)], whole.value)
        assert type(found[0]) is torch.Tensor
        assert torch.equal(found[0][1], row.value)
        assert torch.equal(found[1:2][0], row.value)
        assert torch.equal(found[1, 2], whole.value[1, 2])
        assert [torch.equal(one, other) for one, other in zip(found, whole.value, strict=True)] == [True, True]
        with pytest.raises(RecordError, match=r"block\.output\[1\] does not exist"):
            found[1]
    assert every["transformer.wte"].output[0].shape == whole.shape[1:]
    assert repr(some["transformer.h.1"]) == f"Entry(output: {list(whole.shape)}, without inputs)"
    assert repr(some) == "Cache(1 modules: transformer.h.1)"
    assert "the model, transformer" in repr(every)


def test_a_block_in_a_cache_is_else_an_ordinary_tensor(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT) as tracer:
        cache = tracer.cache(modules=["transformer.h.1"])
        whole = gpt2.transformer.h[1].output.save()
    found = cache["transformer.h.1"].output
    assert repr(found) == repr(whole.value)
    assert f"{found}" == f"{whole.value}"
    assert type(found * 2) is type(whole + found) is type(found.mean()) is type(copy.deepcopy(found)) is torch.Tensor
    assert np.array_equal(found.numpy(), whole.numpy())
    assert torch.equal(safetensors.torch.load(safetensors.torch.save({"found": found}))["found"], whole.value)
    with gpt2.trace(PROMPT) as tracer:
        gpt2.transformer.h[1].output[:] = found
        total = (found + gpt2.transformer.h[1].output).save()
        logits = gpt2.output.save()
    codec.dumps(tracer.graph)
    with gpt2.trace(PROMPT):
        expected = gpt2.output.save()
    assert torch.equal(total.value, whole.value * 2)
    assert torch.equal(logits.value, expected.value)
    found[0] = 0
    assert not cache["transformer.h.1"].output.any()


# -- texts and logits outside of traces -------------------------------------------------------------------------------
def test_one_text_is_encoded_as_a_list_of_one(gpt2: LanguageModel) -> None:
    assert gpt2.encode(PROMPT) == gpt2.encode([PROMPT]) == [support.TOKENIZER(PROMPT)["input_ids"]]


def test_logits_are_of_texts_and_of_ids(gpt2: LanguageModel) -> None:
    ids = gpt2.encode(PROMPT)
    with gpt2.trace(PROMPT):
        expected = gpt2.output.save()
    for prompts in (PROMPT, [PROMPT], ids, ids[0], torch.tensor(ids), torch.tensor(ids[0])):
        assert torch.equal(gpt2.logits(prompts), expected.value)
    assert gpt2.logits([PROMPT, PROMPT]).shape[0] == 2


@pytest.mark.parametrize("prompts", [[PROMPT, "The"], [], "", [[1, 2], [3]]])
def test_logits_of_prompts_of_unequal_lengths_are_refused(gpt2: LanguageModel, prompts: list[str]) -> None:
    with pytest.raises(PromptError, match="all have one length"):
        gpt2.logits(prompts)


def test_logits_of_the_model_in_a_trace_say_where_they_are(gpt2: LanguageModel) -> None:
    with pytest.raises(PathError, match=r"In a trace the logits are model\.output"), gpt2.trace(PROMPT):
        gpt2.logits.save()
    with pytest.raises(PathError, match=r"has no items .*model\.sites\.logits"), gpt2.trace(PROMPT):
        gpt2.logits[0]


# -- blocks -----------------------------------------------------------------------------------------------------------
def test_blocks_are_places_of_the_model(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        hidden, expected = gpt2.blocks[3].output.save(), gpt2.transformer.h[3].output.save()
    assert torch.equal(hidden.value, expected.value)
    assert [block.path for block in gpt2.blocks] == [f"transformer.h.{n}" for n in range(4)]
    assert [block._module for block in gpt2.blocks] == gpt2.block_modules
