"""Folders that cannot be loaded say why and what to do; those that can are loaded without running their code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.decoders import gpt2
from tracing.errors import ModelError
from tracing.models import LanguageModel


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved tiny model without tokenizer."""
    folder = tmp_path / "tiny"
    gpt2().save_pretrained(folder)
    return folder


def test_a_saved_model_loads_in_evaluation_mode_without_gradients(saved: Path) -> None:
    model = LanguageModel(saved)
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert (model.dtype, model.device) == (torch.float32, torch.device("cpu"))
    assert model._model is model.module
    torch.testing.assert_close(model.logits([[1, 2, 3]]), gpt2()(torch.tensor([[1, 2, 3]])).logits)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model folder 'nowhere'"):
        LanguageModel(tmp_path / "nowhere")


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        LanguageModel(tmp_path)


def test_a_broken_config_is_named(saved: Path) -> None:
    (saved / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not valid JSON"):
        LanguageModel(saved)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model\.bin\).*safe_serialization=True"):
        LanguageModel(saved)


def test_a_folder_without_weights_says_so(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors file"):
        LanguageModel(saved)


def test_an_unknown_family_is_refused_before_its_weights_are_read(saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "rwkv"}), encoding="utf-8")
    with pytest.raises(ModelError, match="no adapter for the model family 'rwkv'"):
        LanguageModel(saved)


def test_weights_that_lack_a_tensor_are_refused(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors.*transformer\.h\.1\.mlp\.c_fc\.weight"):
        LanguageModel(saved)


def test_no_message_tells_where_the_folder_is_on_this_machine(saved: Path) -> None:
    (saved / "model.safetensors").rename(saved / "other.safetensors")  # transformers quotes the path it looked in
    with pytest.raises(ModelError, match="cannot be loaded") as raised:
        LanguageModel(saved)
    assert "'tiny'" in str(raised.value)
    assert str(saved.parent) not in str(raised.value)
    assert raised.value.remedy


def test_truncated_weights_are_refused(saved: Path) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(ModelError, match="'tiny'"):
        LanguageModel(saved)


def test_an_unknown_precision_lists_the_known_ones(saved: Path) -> None:
    with pytest.raises(ModelError, match="float32, float64, bfloat16, float16"):
        LanguageModel(saved, dtype="int8")


def test_a_model_without_tokenizer_says_so_when_text_is_needed(saved: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer"):
        _ = LanguageModel(saved).tokens


def test_a_model_describes_itself_in_a_notebook() -> None:
    assert repr(LanguageModel(gpt2(), dtype="float64")) == (
        "LanguageModel(gpt2, 3 layers × 4 heads, d_model 32, 0.0M parameters, float64 on cpu)"
    )
