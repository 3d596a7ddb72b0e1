"""Slips of a newcomer, and idioms of other tracers: each is named, with what to write instead."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tracing import LanguageModel, Model
from tracing.errors import NotSavedError, OperationError, PathError, RecordError, SiteError

PROMPT = [5, 6, 7]
HIDDEN = torch.zeros(1, 3, 32, dtype=torch.float64)


def trace(model: LanguageModel, use: Callable[[Any], Any]) -> Any:
    """A trace with one line of its own."""
    with model.trace(PROMPT) as tracer:
        found = use(tracer)
        model.output.save()
    return found


# -- blocks -----------------------------------------------------------------------------------------------------------
def test_an_edit_gives_one_value(gpt2: LanguageModel) -> None:
    said = r"cannot be iterated over or unpacked .*`with model.edit.. as edited:`"
    with pytest.raises(RecordError, match=said), gpt2.edit() as (_tracer, _edited):
        pass


def test_lists_of_modules_are_iterated_over(gpt2: LanguageModel) -> None:
    assert [block.path for block in gpt2.transformer.h] == [f"transformer.h.{layer}" for layer in range(4)]
    assert [part.path for part in Model(nn.Sequential(nn.ReLU(), nn.Identity()))] == ["0", "1"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda model: model.trace(PROMPT), "model.trace(...) as tracer"),
        (lambda model: model.generate(PROMPT, 5), "model.generate(...) as tracer"),
        (lambda model: model.scan(PROMPT), "model.scan(...) as tracer"),
        (lambda model: model.edit(), "model.edit() as edited"),
        (lambda model: model.session(), "model.session()"),
    ],
)
def test_a_block_that_is_not_opened_warns_by_its_own_name(
    gpt2: LanguageModel, call: Callable[[LanguageModel], Any], text: str
) -> None:
    with pytest.warns(RuntimeWarning, match=re.escape(f"Write `with {text}:`.")):
        call(gpt2)


def test_a_prompt_that_is_not_opened_warns(gpt2: LanguageModel) -> None:
    with gpt2.trace() as tracer:
        with pytest.warns(RuntimeWarning, match=r"Write `with tracer.invoke\(...\):`"):
            tracer.invoke(PROMPT)
        with tracer.invoke(PROMPT):
            gpt2.output.save()


# -- values -----------------------------------------------------------------------------------------------------------
def test_a_saved_value_of_a_trace_that_failed_says_so(gpt2: LanguageModel) -> None:
    with pytest.raises(KeyError), gpt2.trace(PROMPT):
        saved, other = gpt2.output.save(), gpt2.transformer.h[0].output
        raise KeyError
    assert "saved, but its trace ended with an error before it was computed" in repr(saved)
    assert repr(other).endswith("not saved>")


def test_a_value_of_an_open_trace_is_no_prompt(gpt2: LanguageModel) -> None:
    said = r"cannot be a prompt \(at test_slips.*not known before"
    with gpt2.session():
        with gpt2.generate(PROMPT, max_new_tokens=2) as tracer:
            ids = tracer.result.save()
        for args, options in (((ids,), {}), (({"input_ids": ids},), {}), ((), {"input_ids": ids})):
            with pytest.raises(RecordError, match=said), gpt2.trace(*args, **options):
                pass


def test_a_value_of_a_finished_trace_is_a_prompt_if_it_was_saved(gpt2: LanguageModel) -> None:
    with gpt2.generate(PROMPT, max_new_tokens=2, eos_token_id=None) as tracer:
        ids = tracer.result
        ids.save()
    with gpt2.trace(ids):
        logits = gpt2.output.save()
    assert logits.shape[1] == 5
    with gpt2.generate(PROMPT, max_new_tokens=2) as tracer:
        gone = tracer.result
    with pytest.raises(NotSavedError), gpt2.trace(gone):
        pass


def test_a_value_that_a_tokenizer_reads_names_the_line_of_the_user(gpt2: LanguageModel) -> None:
    with (
        pytest.raises(RecordError, match=r"\(at test_slips"),
        gpt2.generate(PROMPT, max_new_tokens=2) as tracer,
    ):
        gpt2.tokenizer.decode(tracer.result[0])


def test_the_result_outside_of_its_block_says_where_to_save_it(gpt2: LanguageModel) -> None:
    with gpt2.generate(PROMPT, max_new_tokens=2) as tracer:
        tracer.result.save()
    with pytest.raises(RecordError, match=r"Save it there: ids = tracer.result.save\(\)"):
        tracer.result  # noqa: B018


def test_results_whose_number_is_known_are_unpacked(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        logits, projected = gpt2.output, gpt2.transformer.h[0].attn.c_attn.output
        (values, indices), (largest, where) = logits.topk(2), logits.max(-1)
        query, key, value = projected.split([32, 32, 32], -1)
        first, _, last = projected.chunk(3, dim=-1)
        query[:] = 0
        found = [one.save() for one in (values, indices, largest, where, query, first, key, value, last, logits)]
    values, indices, largest, where, query, first, key, value, last, logits = found
    assert torch.equal(values.value, logits.topk(2).values)
    assert torch.equal(indices.value, logits.topk(2).indices)
    assert torch.equal(largest.value, logits.max(-1).values)
    assert torch.equal(where.value, logits.max(-1).indices)
    assert not query.any()
    assert not first.any()
    assert torch.equal(value.value, last.value)
    assert key.any()


@pytest.mark.parametrize("use", [lambda x: x.max(), lambda x: x.split(2), lambda x: x + 1])
def test_other_results_are_not_unpacked(gpt2: LanguageModel, use: Callable[[Any], Any]) -> None:
    with pytest.raises(RecordError, match="iterated over"):
        trace(gpt2, lambda _: list(use(gpt2.output)))


# -- skips and tuples -------------------------------------------------------------------------------------------------
def test_a_tuple_cannot_stand_for_a_block_that_returns_a_tensor(gpt2: LanguageModel) -> None:
    with pytest.raises(RecordError, match=r"transformer.h.1 returns one tensor, .*test_slips.*Give the tensor"):
        trace(gpt2, lambda _: gpt2.transformer.h[1].skip((HIDDEN,)))


def test_an_error_of_the_model_after_a_skip_with_a_tuple_names_the_skip(gpt2: LanguageModel) -> None:
    with pytest.raises(TypeError) as found:
        trace(gpt2, lambda _: gpt2.transformer.h[1].mlp.skip((HIDDEN,)))
    assert any("test_slips.py" in note and "give the tensor" in note for note in found.value.__notes__)


@pytest.mark.parametrize("how", ["write", "skip"])
def test_a_tuple_over_a_tuple_has_its_length(gpt2: LanguageModel, how: str) -> None:
    def use(_: Any) -> None:
        if how == "skip":
            gpt2.transformer.h[1].attn.skip((HIDDEN,))
        else:
            gpt2.transformer.h[1].attn.output = (HIDDEN,)

    with pytest.raises(TypeError, match="returns a tuple of 2, so give a tuple of 2 instead of 1") as found:
        trace(gpt2, use)
    assert any("test_slips.py" in note for note in found.value.__notes__)


# -- standard sites ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "use",
    [
        lambda site: site.save(),
        lambda site: site.shape,
        lambda site: site + 1,
        lambda site: 2 * site,
        torch.relu,
        lambda site: torch.stack([site, site]),
    ],
)
def test_a_site_without_its_layer_asks_for_it(gpt2: LanguageModel, use: Callable[[Any], Any]) -> None:
    with pytest.raises((SiteError, RecordError), match=r"\(at test_slips.*\[layer\]"):
        trace(gpt2, lambda _: use(gpt2.sites.resid_post))


def test_sites_are_found_by_their_names_as_keys(gpt2: LanguageModel) -> None:
    with gpt2.trace(PROMPT):
        gpt2.sites["embed"] = gpt2.sites["embed"] * 0
        embed, block = gpt2.sites.embed.save(), gpt2.sites["resid_post"][1].save()
    assert not embed.any()
    assert block.shape == (1, 3, 32)
    with pytest.raises(SiteError, match=r"sites\[3\] is no site"):
        trace(gpt2, lambda _: gpt2.sites[3])  # type: ignore[index]


# -- idioms of other tracers ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("option", "hint"),
    [("scan", "validate=True"), ("trace", "call the module"), ("invoker_args", "invoke"), ("dispatch", "weights")],
)
def test_foreign_options_have_a_hint(gpt2: LanguageModel, option: str, hint: str) -> None:
    with pytest.raises(TypeError, match=rf"no option '{option}' \(at test_slips.*{hint}"):
        gpt2.trace(PROMPT, **{option: False})


@pytest.mark.parametrize(
    ("use", "error", "hint"),
    [
        (lambda model, _: model.generator.output, PathError, "tracer.result"),
        (lambda model, _: model.transformer.h[0].all(), PathError, r"tracer.all\(\)"),
        (lambda _, tracer: tracer.log(1), OperationError, "print"),
        (lambda _, tracer: tracer.other, AttributeError, "no attribute 'other'"),
    ],
)
def test_foreign_names_have_a_hint(
    gpt2: LanguageModel, use: Callable[[Any, Any], Any], error: type[Exception], hint: str
) -> None:
    with pytest.raises(error, match=hint):
        trace(gpt2, lambda tracer: use(gpt2, tracer))


def test_inputs_of_a_prompts_block_have_a_hint(gpt2: LanguageModel) -> None:
    with (
        pytest.raises(OperationError, match=r"model\.inputs"),
        gpt2.trace() as tracer,
        tracer.invoke(PROMPT) as invoker,
    ):
        invoker.inputs  # noqa: B018
