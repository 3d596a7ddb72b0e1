"""Batched prompts give the values of prompts run one by one, and inputs that cannot be one batch say why."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tracing.errors import PromptError
from tracing.models.batching import Batch, Inputs, Rows, TextRules, batch_tensors, batch_text

RULES = TextRules(pad_id=9, vocab_size=97, max_positions=12, sizes=frozenset({4, 6}))


def invokes(*prompts: Any, **named: Any) -> list[Inputs]:
    """An invoke to each prompt."""
    return [Inputs((prompt,), named) for prompt in prompts]


def letters(texts: Any, special: bool) -> list[list[int]]:
    """A tokenizer: a letter a token, and 1 in front."""
    return [[1] * special + [ord(letter) - 90 for letter in text] for text in texts]


def text(*prompts: Any, **named: Any) -> Batch:
    return batch_text(invokes(*prompts, **named), RULES, encode=letters)


def test_prompts_of_one_length_are_passed_alone() -> None:
    batch = text([1, 2, 3], [4, 5, 6])
    assert batch.kwargs.keys() == {"input_ids", "use_cache"}
    assert batch.kwargs["input_ids"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert batch.kwargs["use_cache"] is False
    assert batch.rows == (Rows(0, 1), Rows(1, 2))
    assert (batch.total, batch.length) == (2, 3)


def test_shorter_prompts_are_padded_on_the_left_with_mask_and_positions() -> None:
    batch = text([1, 2, 3, 4, 5], [6, 7])
    assert batch.kwargs["input_ids"].tolist() == [[1, 2, 3, 4, 5], [9, 9, 9, 6, 7]]
    assert batch.kwargs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert batch.kwargs["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]]
    assert batch.rows == (Rows(0, 1, 0), Rows(1, 2, 3))


def test_a_padded_length_is_no_other_size_of_the_model_nor_the_number_of_rows() -> None:
    assert text([1] * 4, [1]).length == 5
    assert text([1] * 6, [1]).length == 7
    assert text([1] * 3, [1], [1]).length == 5  # three rows, and 4 is a size
    assert text([1] * 4, [1] * 4).length == 4  # nothing is padded
    assert text([1] * 4, [1]).rows == (Rows(0, 1, 1), Rows(1, 2, 4))


@pytest.mark.parametrize(
    "prompt",
    [
        [[1, 2], [3, 4]],
        torch.tensor([[1, 2], [3, 4]]),
        torch.tensor([[1, 2], [3, 4]], dtype=torch.int32),
        np.array([[1, 2], [3, 4]]),
        [torch.tensor([1, 2]), torch.tensor([3, 4])],
        {"input_ids": [[1, 2], [3, 4]]},
        {"input_ids": torch.tensor([[1, 2], [3, 4]])},
    ],
)
def test_ids_come_in_many_forms(prompt: Any) -> None:
    batch = text(prompt)
    assert batch.kwargs["input_ids"].tolist() == [[1, 2], [3, 4]]
    assert batch.kwargs["input_ids"].dtype == torch.int64
    assert batch.rows == (Rows(0, 2),)


@pytest.mark.parametrize("prompt", [[1, 2], (1, 2), torch.tensor([1, 2]), {"input_ids": [1, 2]}])
def test_a_prompt_without_row_axis_is_one_row(prompt: Any) -> None:
    assert text(prompt).kwargs["input_ids"].tolist() == [[1, 2]]


def test_texts_are_encoded_with_special_tokens_unless_told_otherwise() -> None:
    assert text("ab").kwargs["input_ids"].tolist() == [[1, 7, 8]]
    assert text("ab", add_special_tokens=False).kwargs["input_ids"].tolist() == [[7, 8]]


def test_a_list_of_texts_of_unequal_lengths_is_one_invoke_that_sees_its_longest() -> None:
    batch = text(["abcd", "a"], "abcdefg")
    assert batch.length == 8
    assert batch.rows == (Rows(0, 2, 3), Rows(2, 3, 0))
    assert batch.kwargs["attention_mask"].sum(1).tolist() == [5, 2, 8]
    assert batch.kwargs["position_ids"][1].tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


def test_an_invoke_without_prompt_sees_all_rows() -> None:
    batch = batch_text([*invokes([1, 2]), Inputs(), *invokes([3, 4, 5, 6])], RULES)
    assert batch.rows == (Rows(0, 1, 3), Rows(0, 2, 1), Rows(1, 2, 1))  # 4 is a size, so one column is everybody's


def test_a_users_mask_is_kept_and_gives_positions_where_it_pads_on_the_left() -> None:
    left = text({"input_ids": [[0, 0, 5], [1, 2, 3]], "attention_mask": [[0, 0, 1], [1, 1, 1]]})
    assert left.kwargs["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert left.kwargs["position_ids"].tolist() == [[0, 0, 0], [0, 1, 2]]
    assert left.rows == (Rows(0, 2, 0),)
    right = text({"input_ids": [[5, 0, 0], [1, 2, 3]], "attention_mask": [[1, 0, 0], [1, 1, 1]]})
    assert "position_ids" not in right.kwargs


def test_a_hole_in_a_users_mask_does_not_move_the_positions_behind_it() -> None:
    holed = {"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0, 1]]}
    assert text(holed, [1, 2, 3, 4, 5]).kwargs["position_ids"][0].tolist() == [0, 0, 0, 1, 2]


def test_a_users_padding_on_the_right_stays_behind_our_padding() -> None:
    batch = text({"input_ids": [[5, 0]], "attention_mask": [[1, 0]]}, [1, 2, 3])
    assert batch.length == 3
    assert batch.kwargs["attention_mask"].tolist() == [[0, 1, 0], [1, 1, 1]]


def test_a_users_positions_are_kept() -> None:
    batch = text({"input_ids": [[1, 2]], "position_ids": [[7, 8]]}, [1, 2, 3])
    assert batch.kwargs["position_ids"].tolist() == [[0, 7, 8], [0, 1, 2]]


def test_unequal_lists_of_a_tokenizer_are_padded_together() -> None:
    batch = text(
        {"input_ids": [[1, 2, 3], [4]], "attention_mask": [[1, 1, 1], [1]], "token_type_ids": [[1, 1, 1], [1]]}
    )
    assert batch.kwargs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch.kwargs["token_type_ids"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_labels_of_padding_and_of_the_token_that_padding_would_predict_are_left_out_of_the_loss() -> None:
    given = [
        Inputs(([1, 2, 3],), {"labels": [1, 2, 3]}),
        Inputs(([4, 5],), {"labels": torch.tensor([[4, 5]])}),
        Inputs(([6, 7],), {}),
    ]
    batch = batch_text(given, RULES)
    assert batch.length == 5  # 3 rows, 4 is a size
    own = [batch.kwargs["labels"][n].tolist() for n in range(3)]
    assert own == [[-100, -100, -100, 2, 3], [-100, -100, -100, -100, 5], [-100] * 5]
    unshifted = batch_text(given, replace(RULES, shifted_labels=False))
    assert unshifted.kwargs["labels"][0].tolist() == [-100, -100, 1, 2, 3]


def test_hidden_states_can_be_the_prompt() -> None:
    states = torch.ones(1, 2, 3), torch.ones(1, 5, 3)
    batch = batch_text([Inputs((), {"inputs_embeds": one}) for one in states], RULES)
    assert batch.kwargs["inputs_embeds"].shape == (2, 5, 3)
    assert batch.kwargs["inputs_embeds"][0, :3].abs().max() == 0
    assert "input_ids" not in batch.kwargs


def test_generation_always_gets_a_mask_and_never_positions() -> None:
    alone = batch_text(invokes([9, 2]), RULES, generating=True)  # 9 is the padding id, here meant as a token
    assert alone.kwargs.keys() == {"input_ids", "attention_mask"}
    assert alone.kwargs["attention_mask"].tolist() == [[1, 1]]
    both = batch_text(invokes([9, 2], [1, 2, 3]), RULES, generating=True)
    assert both.kwargs.keys() == {"input_ids", "attention_mask"}


def test_a_model_gets_only_what_its_forward_takes() -> None:
    rules = TextRules(takes=frozenset({"attention_mask"}))
    assert batch_text(invokes([1, 2], [1]), rules).kwargs.keys() == {"input_ids", "attention_mask"}
    assert batch_text(invokes([1, 2]), rules).kwargs.keys() == {"input_ids"}


def test_positions_begin_where_the_model_says() -> None:
    batch = batch_text(invokes([5, 6, 7], [5]), TextRules(first_position=2))
    assert batch.kwargs["position_ids"].tolist() == [[2, 3, 4], [0, 0, 2]]


def test_options_are_passed_on_and_must_agree() -> None:
    agreed = batch_text([Inputs(([1],), {"output_attentions": True}), Inputs((), {"use_cache": True})], RULES)
    assert agreed.kwargs["output_attentions"] is True
    assert agreed.kwargs["use_cache"] is True
    with pytest.raises(PromptError, match="Invoke 2 sets output_attentions otherwise"):
        batch_text([Inputs(([1],), {"output_attentions": True}), Inputs(([1],), {"output_attentions": False})], RULES)


def test_inputs_with_one_entry_a_row_are_put_together() -> None:
    batch = batch_text([Inputs(([1, 2],), {"labels": [3]}), Inputs(([4, 5],), {"labels": [6]})], RULES)
    assert batch.kwargs["labels"].tolist() == [3, 6]
    with pytest.raises(PromptError, match="weights has one entry a row, and not every invoke"):
        batch_text([Inputs(([1, 2],), {"weights": torch.ones(1)}), Inputs(([4, 5],), {})], RULES)


# -- encoder-decoders -------------------------------------------------------------------------------------------------
SEQ2SEQ = TextRules(
    takes=frozenset({"attention_mask", "use_cache"}), encoder_decoder=True, decoder_start=0, sizes=frozenset({4})
)


def test_a_decoder_starts_with_its_first_id_where_none_is_given() -> None:
    batch = batch_text(invokes([1, 2], [3]), SEQ2SEQ)
    assert batch.kwargs["decoder_input_ids"].tolist() == [[0], [0]]
    assert batch.decoder_length is None
    assert "decoder_input_ids" not in batch_text(invokes([1, 2]), SEQ2SEQ, generating=True).kwargs


def test_decoder_inputs_are_padded_on_the_right() -> None:
    given = [Inputs(([1, 2, 3],), {"decoder_input_ids": [0, 5]}), Inputs(([4, 5, 6],), {"decoder_input_ids": [0]})]
    batch = batch_text([*given, Inputs()], SEQ2SEQ)
    assert batch.decoder_length == 5  # 2 rows, length 3, a size 4
    assert batch.kwargs["decoder_input_ids"].tolist() == [[0, 5, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert [rows.decoder for rows in batch.rows] == [2, 1, 2]
    assert "attention_mask" not in batch.kwargs


def test_labels_of_an_encoder_decoder_have_the_decoders_positions() -> None:
    given = [Inputs(([1, 2, 3],), {"labels": [7, 8, 9]}), Inputs(([4, 5, 6],), {"labels": [7]})]
    batch = batch_text(given, SEQ2SEQ)
    assert batch.kwargs["labels"].tolist() == [[7, 8, 9, -100, -100], [7, -100, -100, -100, -100]]
    assert "decoder_input_ids" not in batch.kwargs


def test_decoder_inputs_of_one_invoke_only_are_refused() -> None:
    with pytest.raises(PromptError, match="Invoke 2 does not have all of decoder_input_ids"):
        batch_text([Inputs(([1],), {"decoder_input_ids": [0, 5]}), Inputs(([1],), {})], SEQ2SEQ)


# -- what cannot be ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "invoke 1 has no tokens"),
        ([[]], "invoke 1 has no tokens"),
        (torch.empty(1, 0, dtype=torch.long), "invoke 1 has no tokens"),
        ([[1, 2], []], "invoke 1 has no tokens"),
        ([1] * 13, "invoke 1 has 13 tokens, but the model reads 12.*nothing is cut off"),
        ([1, 97], "token id 97, but the vocabulary ends at 96"),
        ([-1, 5], "token id -1, but ids are 0 to 96"),
        (torch.ones(1, 2), "are float32, not token ids"),
        (torch.ones(1, 1, 2, dtype=torch.long), r"shape \[1, 1, 2\], not \[row, position\]"),
        ({"attention_mask": [[1]]}, "no input_ids, only attention_mask"),
        ({}, "no input_ids, only an empty mapping"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1]]}, r"attention_mask of invoke 1 has shape \[1, 1\].*\[1, 2\]"),
    ],
)
def test_a_prompt_that_cannot_be_run_says_why(prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        text(prompt)


def test_text_without_tokenizer_says_so() -> None:
    with pytest.raises(PromptError, match=r"invoke 1 is text, and this model has no tokenizer.*tokenizer="):
        batch_text(invokes("a"), RULES)


def test_what_is_no_prompt_is_a_type_error_that_lists_prompts() -> None:
    with pytest.raises(TypeError, match=r"was given int, which is no prompt\. Give a text"):
        text(5)
    with pytest.raises(TypeError, match="input_ids of invoke 1 are no list of numbers"):
        text(["a", 5])


def test_two_prompts_to_an_invoke_are_refused() -> None:
    with pytest.raises(PromptError, match="Invoke 1 was given 2 prompts"):
        batch_text([Inputs(([1], [2]), {})], RULES)
    with pytest.raises(PromptError, match="given input_ids twice"):
        text([1], input_ids=[2])


def test_no_prompt_at_all_is_refused() -> None:
    with pytest.raises(PromptError, match="No prompt was given"):
        batch_text([Inputs(), Inputs((), {"output_attentions": True})], RULES)


def test_unequal_lengths_are_refused_where_padding_changes_values() -> None:
    rules = TextRules(refusal=lambda: "it has no mask")
    assert batch_text(invokes([1, 2], [3, 4]), rules).total == 2
    with pytest.raises(PromptError, match=r"unequal lengths \(2, 1 tokens\).*: it has no mask\. Trace them one by one"):
        batch_text(invokes([1, 2], [1]), rules)
    with pytest.raises(PromptError, match=r"\(up to 2 tokens\).*takes no attention_mask"):
        batch_text(invokes([[1, 2], [1]]), TextRules(takes=frozenset()))


def test_a_mask_over_pairs_of_positions_is_passed_on_and_not_padded() -> None:
    mask = torch.ones(1, 1, 2, 2)
    assert text({"input_ids": [[1, 2]], "attention_mask": mask}).kwargs["attention_mask"] is mask
    with pytest.raises(PromptError, match="more than two axes cannot be padded"):
        text({"input_ids": [[1, 2]], "attention_mask": mask}, [1])


def test_ids_and_hidden_states_do_not_mix() -> None:
    with pytest.raises(PromptError, match="Invoke 2 has no input_ids"):
        batch_text([Inputs(([1, 2],), {}), Inputs((), {"inputs_embeds": torch.ones(1, 2, 3)})], RULES)


# -- any module -------------------------------------------------------------------------------------------------------
def test_tensors_of_invokes_are_put_one_after_the_other() -> None:
    first, second = torch.ones(2, 3), torch.zeros(1, 3)
    batch = batch_tensors([Inputs((first,), {"scale": 2.0}), Inputs(), Inputs((second,), {"scale": 2.0})])
    torch.testing.assert_close(batch.args[0], torch.cat([first, second]))
    assert batch.kwargs == {"scale": 2.0}
    assert batch.rows == (Rows(0, 2), Rows(0, 3), Rows(2, 3))
    assert (batch.total, batch.length) == (3, None)


def test_one_invokes_inputs_are_passed_as_they_are() -> None:
    tensor, weight = torch.ones(2, 3), torch.ones(5)
    batch = batch_tensors([Inputs((tensor, "mode"), {"weight": weight, "nested": {"a": [tensor]}})])
    assert batch.args == (tensor, "mode")
    assert batch.args[0] is tensor
    assert batch.kwargs["weight"] is weight
    assert batch.kwargs["nested"]["a"][0] is tensor
    assert batch.rows == (Rows(0, 2),)


def test_tensors_lie_in_nested_containers() -> None:
    def given(rows: int) -> Inputs:
        return Inputs(({"pixels": torch.full((rows, 2), rows), "pair": (torch.ones(rows), torch.tensor(3))},), {})

    batch = batch_tensors([given(1), given(2)])
    assert batch.args[0]["pixels"][:, 0].tolist() == [1, 2, 2]
    assert batch.args[0]["pair"][0].shape == (3,)
    assert batch.args[0]["pair"][1] == 3


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Inputs((torch.ones(1, 4),), {}), r"cannot be one batch: invoke 1 \[2, 3\], invoke 2 \[1, 4\]"),
        (Inputs((torch.ones(1, 3), 1), {}), "differs between the invokes 1, 2"),
        (Inputs((5,), {}), "differs between the invokes 1, 2"),
        (Inputs((torch.ones(1, 3),), {"mode": 1}), "differs between the invokes 1, 2"),
    ],
)
def test_tensors_that_do_not_fit_name_invokes_and_shapes(second: Inputs, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        batch_tensors([Inputs((torch.ones(2, 3),), {}), second])


def test_options_of_modules_must_agree() -> None:
    with pytest.raises(PromptError, match="Scale differs between the invokes 1, 2"):
        batch_tensors([Inputs((torch.ones(1),), {"scale": 1}), Inputs((torch.ones(1),), {"scale": 2})])


def test_a_module_without_input_is_refused() -> None:
    with pytest.raises(PromptError, match="No input was given"):
        batch_tensors([Inputs()])
