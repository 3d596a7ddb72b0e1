"""Image models: pixels, processors and pictures, and what is none of these."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from tests import zoo
from tracing.errors import ModelError, PromptError
from tracing.models.batching import Inputs, Rows
from tracing.models.vision import VisionModel


@pytest.fixture
def model() -> VisionModel:
    return VisionModel(zoo.model("vit"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved image model with its processor."""
    zoo.model("vit").save_pretrained(tmp_path / "tiny")
    size = {"height": 12, "width": 12}
    hf.ViTImageProcessor(size=size).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def pixels(rows: int) -> torch.Tensor:
    return zoo.example_inputs("vit", rows=rows)["pixel_values"]


def picture(shade: int) -> Image.Image:
    return Image.fromarray(np.full((20, 30, 3), shade, dtype=np.uint8))


def test_images_of_several_invokes_are_one_batch_and_give_the_logits_of_each_alone(model: VisionModel) -> None:
    given = [Inputs((pixels(2),)), Inputs((pixels(3)[2],))]
    batch = model.batch([*given, Inputs()])
    assert batch.rows == (Rows(0, 2), Rows(2, 3), Rows(0, 3))
    assert batch.length is None
    with torch.inference_mode():
        together = model.call(*batch.args, **batch.kwargs).logits
        for one, rows in zip(given, batch.rows, strict=False):
            alone = model.call(**model.batch([one]).kwargs).logits
            torch.testing.assert_close(together[rows.start : rows.stop], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", ["keyword", "mapping", "list of tensors", "array", "array of doubles", "arrays"])
def test_pixels_come_in_many_forms(model: VisionModel, form: str) -> None:
    wanted = pixels(2)
    forms = {
        "keyword": Inputs((), {"pixel_values": wanted}),
        "mapping": Inputs((hf.BatchFeature({"pixel_values": wanted.numpy()}),)),
        "list of tensors": Inputs((list(wanted),)),
        "array": Inputs((wanted.numpy(),)),
        "array of doubles": Inputs((wanted.double().numpy(),)),
        "arrays": Inputs((list(wanted.numpy()),)),
    }
    assert torch.equal(model.batch([forms[form]]).kwargs["pixel_values"], wanted)


def test_pixels_get_the_models_precision() -> None:
    model = VisionModel(zoo.model("vit"), dtype="bfloat16", verify=False)
    assert model.batch([Inputs((pixels(1),))]).kwargs["pixel_values"].dtype == torch.bfloat16


def test_pictures_go_through_the_folders_processor(folder: Path) -> None:
    model = VisionModel(folder)
    batch = model.batch([Inputs((picture(0),)), Inputs(([picture(255), picture(0)],))])
    assert batch.rows == (Rows(0, 1), Rows(1, 3))
    wanted = model.processor([picture(0), picture(255), picture(0)], return_tensors="pt")
    torch.testing.assert_close(batch.kwargs["pixel_values"], wanted["pixel_values"])
    assert (batch.kwargs["pixel_values"][:, 0, 0, 0] == torch.tensor([-1.0, 1.0, -1.0])).all()
    array = model.batch([Inputs((np.asarray(picture(255)),))])
    torch.testing.assert_close(array.kwargs["pixel_values"], batch.kwargs["pixel_values"][1:2])


def test_the_model_is_read_with_its_blocks_and_family(folder: Path) -> None:
    model = VisionModel(folder)
    assert type(model.module).__name__ == "ViTForImageClassification"
    assert model.block_paths == {"vit.layers.0", "vit.layers.1", "vit.layers.2"}
    assert repr(model).startswith("VisionModel(vit, 3 layers")


def test_pictures_without_processor_say_so(model: VisionModel) -> None:
    with pytest.raises(ModelError, match=r"no image processor.*\[batch, channel, height, width\]"):
        model.batch([Inputs((picture(0),))])


def test_pictures_without_pillow_say_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = VisionModel(folder)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModelError, match=r"Pillow, which is not installed.*pip install pillow"):
        model.batch([Inputs((picture(0),))])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (torch.ones(1, 4, 12, 12), r"invoke 1 have shape \[1, 4, 12, 12\].*\[batch, 3, height, width\]"),
        (torch.ones(12, 12), r"invoke 1 have shape \[12, 12\]"),
        ({"labels": torch.ones(1)}, "no pixel_values, only labels"),
        ({}, "no pixel_values, only an empty mapping"),
    ],
)
def test_what_is_no_image_of_this_model_says_so(model: VisionModel, prompt: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        model.batch([Inputs((prompt,))])


@pytest.mark.parametrize("form", ["tensor", "one", "keyword", "mapping"])
def test_pixels_of_whole_numbers_are_refused(model: VisionModel, form: str) -> None:
    raw = torch.randint(0, 255, (1, 3, 12, 12), dtype=torch.uint8)
    forms = {
        "tensor": Inputs((raw,)),
        "one": Inputs((raw[0],)),
        "keyword": Inputs((), {"pixel_values": raw}),
        "mapping": Inputs(({"pixel_values": raw.numpy()},)),
    }
    with pytest.raises(PromptError, match=r"invoke 1 are whole numbers \(torch\.uint8\).*model\.processor"):
        model.batch([forms[form]])


def test_an_array_of_one_image_is_pixels_or_a_picture_by_its_numbers(folder: Path) -> None:
    model = VisionModel(folder)
    wanted = pixels(1)
    assert torch.equal(model.batch([Inputs((wanted[0].numpy(),))]).kwargs["pixel_values"], wanted)
    pictures = np.stack([np.asarray(picture(255)), np.asarray(picture(0))])
    found = model.batch([Inputs((pictures,))]).kwargs["pixel_values"]
    assert found[:, 0, 0, 0].tolist() == [1.0, -1.0]


def test_text_is_no_image(model: VisionModel) -> None:
    with pytest.raises(TypeError, match="was given str, which is no image"):
        model.batch([Inputs(("a cat",))])


def test_images_of_unequal_sizes_name_their_invokes(model: VisionModel) -> None:
    with pytest.raises(PromptError, match=r"invoke 1 \[1, 3, 12, 12\], invoke 2 \[1, 3, 8, 8\]"):
        model.batch([Inputs((torch.ones(1, 3, 12, 12),)), Inputs((torch.ones(1, 3, 8, 8),))])


def test_two_images_to_an_invoke_are_a_batch_or_refused(model: VisionModel) -> None:
    with pytest.raises(PromptError, match="Invoke 1 was given 2 inputs"):
        model.batch([Inputs((pixels(1), pixels(1)))])
    with pytest.raises(PromptError, match="pixel_values twice"):
        model.batch([Inputs((pixels(1),), {"pixel_values": pixels(1)})])


def test_unknown_keywords_are_type_errors(model: VisionModel) -> None:
    with pytest.raises(TypeError, match=r"did you mean 'interpolate_pos_encoding'"):
        model.batch([Inputs((pixels(1),), {"interpolate_pos_encodin": True})])
    with pytest.raises(TypeError, match="VisionModel has no keyword argument 'tokenizer'"):
        VisionModel(zoo.model("vit"), tokenizer="x")
