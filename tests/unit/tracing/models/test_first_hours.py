"""What a newcomer tries in the first hours, and what is answered."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests import zoo
from tests.unit.tracing.seed import support
from tracing import LanguageModel, Model, VisionModel
from tracing.errors import AdapterError, ModelError, PathError, PromptError, RecordError, SiteError
from tracing.families import check
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


# -- what is wrapped, and by what -------------------------------------------------------------------------------------
class Mine(nn.Module):
    """A module of one's own with a config of another's family."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config, self.embed = config, nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.embed(ids)
        return found


@pytest.mark.parametrize(
    ("wrapped", "message"),
    [
        (lambda: Model("gpt2"), r"Model was given 'gpt2', which is no torch module \(at .*LanguageModel\("),
        (lambda: Model(nn.Linear), "the class Linear, which is no torch module"),
        (lambda: Model(Model(nn.Linear(3, 3))), "wraps a module already"),
        (lambda: LanguageModel(None), "was given None"),
        (lambda: VisionModel(support.gpt2()), r"takes no pixel_values, so VisionModel .* Wrap it as LanguageModel"),
        (lambda: LanguageModel(zoo.model("vit")), r"takes no input_ids, so LanguageModel .* Wrap it as VisionModel"),
        (lambda: LanguageModel(Mine(model_type="mine")).adapter, "'mine', which is the model_type of its config"),
        (lambda: LanguageModel(nn.Linear(3, 3)).adapter, r"Linear has no config with a model_type.*module\.config = "),
        (lambda: LanguageModel(Mine(model_type="gpt2")), r"does not say its hidden_size .*Add it to module\.config"),
    ],
)
def test_what_cannot_be_wrapped_says_what_can(wrapped: Callable[[], Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        wrapped()


def test_a_forward_that_calls_its_ids_otherwise_is_told_of_input_name() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole: Any = support.gpt2()
            self.config, self.transformer, self.lm_head = whole.config, whole.transformer, whole.lm_head

        def forward(self, tokens: torch.Tensor) -> Any:
            return self.lm_head(self.transformer(tokens)[0])

    with pytest.raises(AdapterError, match=r"called as Other\.forward\(input_ids=ids\).*Adapter\(input_name="):
        check(Other())


def test_text_for_a_module_that_reads_tensors_says_where_text_goes(gpt2: LanguageModel) -> None:
    for call in (gpt2, Model(gpt2._model)):
        for prompt in (PROMPT, [PROMPT]):
            with pytest.raises(PromptError, match=r"was given text, .*with model\.trace\(text\)"):
                call(prompt)
    plain = Model(gpt2._model)
    with pytest.raises(PromptError, match=r"LanguageModel\(module, tokenizer="), plain.trace(PROMPT):
        plain.output.save()
    with pytest.raises(ModelError, match=r"no tokenizer.*is wrapped by Model\(module\)"):
        LanguageModel(nn.Linear(3, 3)).encode("x")


def test_a_module_that_reads_text_itself_is_given_it() -> None:
    class Reader(nn.Module):
        def forward(self, text: str) -> torch.Tensor:
            return torch.ones(len(text), 2)

    model = Model(Reader())
    assert model("ab").shape == (2, 2)
    with model.trace("abc"):
        read = model.output.save()
    assert read.shape == (3, 2)


# -- edits ------------------------------------------------------------------------------------------------------------
def test_edits_for_a_folder_that_is_not_there_name_it(gpt2: LanguageModel, tmp_path: Path) -> None:
    with gpt2.edit() as edited:
        edited.transformer.h[0].output[:] = 0
    with pytest.raises(ModelError, match=r"no folder '.*nowhere' to store"):
        edited.save_edits(tmp_path / "nowhere" / "edits.json")
    edited.save_edits(tmp_path / "edits.json")


# -- loading ----------------------------------------------------------------------------------------------------------
def test_loading_shows_no_progress_bar_and_leaves_the_setting(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    support.gpt2().save_pretrained(tmp_path)
    capfd.readouterr()
    LanguageModel(tmp_path)
    assert "Loading weights" not in "".join(capfd.readouterr())
    with pytest.raises(ModelError):
        LanguageModel(tmp_path / "nowhere")
    type(support.gpt2()).from_pretrained(tmp_path)
    assert "Loading weights" in "".join(capfd.readouterr())


# -- what is printed --------------------------------------------------------------------------------------------------
def test_what_a_trace_is_made_of_prints_briefly(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT) as tracer:
        gpt2.output.save()
    assert re.fullmatch(r"<model\.trace\(\.\.\.\), made at test_first_hours\.py:\d+.*>", repr(tracer))
    assert re.fullmatch(r"Graph\(\d nodes, 1 sites, 1 saved; print it to read it\)", repr(tracer.graph))
    with gpt2.session() as session:
        assert repr(session).startswith("<model.session(), made at")
    with gpt2.generate(PROMPT, max_new_tokens=2) as tracer:
        assert repr(tracer.iter[0:2]) == "<generation steps 0, 1>"
        assert "choose some" in repr(tracer.iter)
        gpt2.output.save()
    assert re.fullmatch(r"Tokens\(\d+ ids, \d+ special\)", repr(gpt2.tokens))


def test_an_edited_model_says_so(gpt2: LanguageModel) -> None:
    with gpt2.edit() as edited:
        edited.transformer.h[0].output[:] = 0
    assert repr(edited).endswith(", 1 edit)")
    assert str(edited).splitlines()[0].endswith(", 1 edit")
    assert len(repr(edited.edits)) < 100
    assert "edit" not in repr(gpt2) + str(gpt2)


def test_attached_modules_are_shown_listed_and_taken_off() -> None:
    model = LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER)
    block = model.transformer.h[2]
    block.sae = nn.Linear(32, 32)
    assert "sae: Linear" in str(model)
    assert "sae" in str(model.transformer.h[2])
    assert "sae" not in str(model.transformer.h[1])
    assert "0-1: " in str(model), "blocks that print alike are still shown once"
    assert "sae" in dir(block)
    with model.edit() as edited:
        edited.transformer.h[0].output[:] = 0
    del block.sae
    assert not hasattr(block, "sae")
    assert "sae" not in str(model)
    assert hasattr(edited.transformer.h[2], "sae"), "a copy keeps its own"
    with pytest.raises(RecordError, match=r"transformer\.h\.2\.mlp is a module of the model itself"):
        del block.mlp
    with pytest.raises(PathError, match="no submodule 'saee'"):
        del block.saee


# -- what errors say --------------------------------------------------------------------------------------------------
def test_the_line_is_named_inside_the_sentence(gpt2: LanguageModel) -> None:
    for name, layer in (("resid_post", 9), ("resid_pots", 0)):
        with (
            pytest.raises(SiteError, match=r"[^.] \(at test_first_hours\.py:\d+.*?\)\. ") as caught,
            gpt2.trace(PROMPT),
        ):
            getattr(gpt2.sites, name)[layer].save()
        assert ". (at" not in str(caught.value)


def test_a_slip_in_an_attribute_of_the_model_is_told(gpt2: LanguageModel) -> None:
    with pytest.raises(PathError, match="It has logits"):
        gpt2.logitz  # noqa: B018


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([1, -2], r"token id -2, but ids are 0 to \d+\."),
        (["", PROMPT], r"row 0 \(.*\) of the prompt of invoke 1 has no tokens"),
        ([[1], []], r"row 1 \(.*\) of the prompt of invoke 1 has no tokens"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_said(gpt2: LanguageModel, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=f"(?i){message}"), gpt2.trace(prompt):
        gpt2.output.save()


def test_the_note_of_a_failed_write_has_the_shape_of_what_was_written_to(gpt2: LanguageModel) -> None:
    for place in ("transformer.h.1.attn", ""):
        with pytest.raises(Exception) as caught, gpt2.trace(PROMPT):
            value = gpt2.get(place).output[0] if place else gpt2.output
            value[:, -1] = torch.ones(3)
            gpt2.output.save()
        note = "".join(caught.value.__notes__)
        assert "given (1, 15, " in note, note


# -- tab completion ---------------------------------------------------------------------------------------------------
def test_completion_offers_what_is_for_users(gpt2: LanguageModel) -> None:
    offered = dir(gpt2)
    assert {"trace", "sites", "tokenizer", "logits", "output", "transformer", "lm_head"} <= set(offered)
    assert not {"begin_invoke", "padding_refusal", "why_not_reached", "steps_of"} & set(offered)
    assert [name for name in offered if not hasattr(type(gpt2), name) and name not in (
        "edits", "path", "transformer", "lm_head"
    )] == []  # fmt: skip
    assert "processor" in dir(VisionModel(zoo.model("vit")))


def test_completion_of_a_value_offers_operations_and_then_the_tensor(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        saved = gpt2.output.save()
        assert {"mean", "add_", "T", "save", "grad"} <= set(dir(gpt2.output)) & set(dir(saved))
    assert {"numpy", "mean"} <= set(dir(saved))
