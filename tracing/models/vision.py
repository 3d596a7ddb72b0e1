"""`VisionModel`: a transformers image model with its processor, ready to be traced."""

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor

from tracing.errors import ModelError, PromptError
from tracing.graph.nodes import Inputs
from tracing.models.batching import Batch, batch_tensors
from tracing.models.pretrained import Pretrained


class VisionModel(Pretrained):
    """An image model, traced on pixels `[batch, channel, height, width]`, a processor's output or images.

    >>> from tracing import VisionModel                                                # doctest: +SKIP
    >>> model = VisionModel("google/vit-base-patch16-224")                            # doctest: +SKIP
    >>> with model.trace(Image.open("cat.png")) as tracer:                            # doctest: +SKIP
    ...     hidden = model.vit.layers[5].output.save()

    Keyword arguments are those of `LanguageModel`, but for `tokenizer`; as there, a module given in memory gets
    `module.eval().requires_grad_(False)`, for good.
    """

    public = (*Pretrained.public, "processor")

    def __init__(self, model: str | Path | nn.Module, **options: Any) -> None:
        """See `LanguageModel`. Raises `ModelError` for a model that reads no pixels, too."""
        super().__init__(model, **options)
        self.require_input("pixel_values", "LanguageModel(...) where it reads text, Model(module) where neither")

    @cached_property
    def processor(self) -> Any:
        """The image processor of the model's folder. Raises `ModelError` where there is none or it cannot run here."""
        source = self.source
        if source is None or not (source.folder / "preprocessor_config.json").exists():
            raise ModelError(
                "This model has no image processor, so it reads pixel tensors only.",
                remedy="Give pixels [batch, channel, height, width], or save a processor into the model's folder.",
            )
        _require_pillow()
        try:
            return AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                str(source.folder), local_files_only=True, trust_remote_code=False, backend="pil"
            )
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(
                f"The image processor of {source.name!r} cannot be read: {type(error).__name__}.",
                remedy="Save it again with save_pretrained.",
            ) from error

    def input_names(self) -> frozenset[str]:
        """Keyword arguments that are an image's own."""
        return frozenset({"pixel_values", "labels", "bool_masked_pos"} & (self.accepted or set()))

    def batch(self, inputs: Sequence[Inputs], *, generating: bool = False, steps: int = 1) -> Batch:
        """One call for the images of all invokes.

        An invoke gives pixels `[batch, channel, height, width]` or `[channel, height, width]` (tensors or arrays of
        floats), what a processor returned (a mapping with `pixel_values`), an image or a list of images: Pillow's, or
        arrays `[height, width, channel]`.
        Raises `PromptError` for images of unequal sizes, for what is no image and for pixels that are whole numbers,
        `TypeError` for unknown arguments.
        """
        read = []
        for number, one in enumerate(inputs, start=1):
            self.refuse_unknown(one.kwargs)
            read.append(Inputs((), self._read(number, one)))
        return batch_tensors(read, device=self.device)

    def _read(self, number: int, given: Inputs) -> dict[str, Any]:
        """One invoke's inputs by name, pixels `[row, channel, height, width]` in the model's precision."""
        if len(given.args) > 1:
            raise PromptError(
                f"Invoke {number} was given {len(given.args)} inputs, but an invoke takes one.",
                remedy="Give a batch of pixels or a list of images, or an invoke to each.",
            )
        named = dict(given.kwargs)
        if given.args:
            prompt = given.args[0]
            fields = dict(prompt) if isinstance(prompt, Mapping) else {"pixel_values": self._pixels(number, prompt)}
            if twice := sorted(fields.keys() & named.keys()):
                raise PromptError(f"Invoke {number} was given {', '.join(twice)} twice.", remedy="Give it once.")
            named = {**fields, **named}
        if not named and not given.args:
            return named
        if "pixel_values" not in named:
            raise PromptError(
                f"Invoke {number} has no pixel_values, only {', '.join(sorted(named)) or 'an empty mapping'}.",
                remedy="Give pixels [batch, channel, height, width], or an image.",
            )
        pixels = torch.as_tensor(named["pixel_values"])
        pixels = pixels[None] if pixels.dim() == 3 else pixels
        channels = getattr(self.config, "num_channels", None)
        if pixels.dim() != 4 or (channels is not None and pixels.shape[1] != channels):
            raise PromptError(
                f"The pixels of invoke {number} have shape {list(pixels.shape)}, but this model reads "
                f"[batch, {channels or 'channel'}, height, width].",
                remedy="Bring channels to the front: pixels.permute(...), or give a picture to the processor.",
                where={"invoke": number, "shape": list(pixels.shape)},
            )
        if not pixels.is_floating_point():
            raise PromptError(
                f"The pixels of invoke {number} are whole numbers ({pixels.dtype}), and the model reads what its "
                "processor makes of those: scaled and normalised ones.",
                remedy="Give the picture itself, as an array [height, width, channel] or by Pillow, or what "
                "model.processor(picture) returns; pixels.float() where the numbers are meant as they are.",
                where={"invoke": number, "dtype": str(pixels.dtype)},
            )
        named["pixel_values"] = pixels.to(self.dtype)
        return named

    def _pixels(self, number: int, prompt: Any) -> Tensor:
        """Pixels of a tensor, an array, an image or a list of images."""
        if isinstance(prompt, Tensor):
            return prompt
        if _is_array(prompt) and prompt.ndim == 4 and prompt.dtype.kind == "f":
            return torch.tensor(prompt)
        several = isinstance(prompt, list | tuple) or (_is_array(prompt) and prompt.ndim == 4)
        images = [torch.tensor(one) if self._are_pixels(one) else one for one in (prompt if several else [prompt])]
        if images and all(isinstance(image, Tensor) for image in images):
            return torch.stack(images)
        if not images or not all(_is_image(image) for image in images):
            raise TypeError(
                f"Invoke {number} was given {type(prompt).__name__}, which is no image. Give pixels "
                "[batch, channel, height, width], a processor's output, or Pillow images."
            )
        found = self.processor(images, return_tensors="pt")["pixel_values"]
        assert isinstance(found, Tensor)
        return found

    def _are_pixels(self, image: Any) -> bool:
        """Whether an array is pixels as the model reads them, `[channel, height, width]`, and not a picture."""
        if not _is_array(image) or image.ndim != 3 or image.dtype.kind != "f":
            return False
        channels = getattr(self.config, "num_channels", None)
        return bool(image.shape[0] == channels != image.shape[2])


def _is_array(value: Any) -> bool:
    """A numpy array, as far as one can tell without numpy."""
    return hasattr(value, "ndim") and hasattr(value, "__array_interface__")


def _is_image(value: Any) -> bool:
    """A Pillow image, or a picture as an array `[height, width, channel]`."""
    return hasattr(value, "convert") or (_is_array(value) and value.ndim in (2, 3))


def _require_pillow() -> None:
    if importlib.util.find_spec("PIL") is None:
        raise ModelError(
            "Images need the package Pillow, which is not installed.",
            remedy="pip install pillow, or give pixels [batch, channel, height, width].",
        )
