"""From a folder to a module: safetensors weights only, no code from the folder, nothing from the network."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM

from tracing.errors import ModelError
from tracing.families import adapter_of

PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "consolidated.00.pth")
"""Names under which weights are stored as pickles, which can run any code when read."""

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype from its name. Raises `ModelError` for one that is not a floating-point type we run in."""
    if isinstance(dtype, torch.dtype):
        return dtype
    try:
        return DTYPES[dtype]
    except KeyError:
        raise ModelError(f"Unknown precision {dtype!r}.", remedy=f"Choose one of {', '.join(DTYPES)}.") from None


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed config.json. Raises `ModelError` where folder or file is missing or unreadable."""
    if not folder.is_dir():
        raise ModelError(
            f"There is no model folder {folder.name!r}.",
            remedy="Give the folder that save_pretrained wrote: it has config.json and model.safetensors.",
            where={"folder": folder.name},
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"The folder {folder.name!r} has no config.json, so it is not a saved model.",
            remedy="Give the folder that save_pretrained wrote.",
            where={"folder": folder.name},
        ) from None
    except ValueError as error:
        raise ModelError(f"The config.json of {folder.name!r} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ModelError(f"The config.json of {folder.name!r} is not an object.")
    return config


def require_safetensors(folder: Path) -> None:
    """Raises `ModelError` where the folder has no safetensors weights, and says how to convert pickled ones."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = [name for name in PICKLED if (folder / name).exists()]
    if pickled:
        raise ModelError(
            f"The folder {folder.name!r} has only pickled weights ({', '.join(pickled)}), which can run any code "
            "when they are read; only safetensors are loaded.",
            remedy="Convert them where you trust them: AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(new_folder, safe_serialization=True).",
            where={"folder": folder.name, "pickled": pickled},
        )
    raise ModelError(
        f"The folder {folder.name!r} has no weights: there is no *.safetensors file in it.",
        remedy="Save the model with save_pretrained(folder).",
        where={"folder": folder.name},
    )


def load_module(folder: Path, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The unmodified transformers module of a folder, in `dtype` on `device`.

    Raises `ModelError` for a missing folder, an unknown family, pickled weights, or weights that do not fit the config.
    """
    config = read_config(folder)
    adapter_of(str(config.get("model_type", "")))
    require_safetensors(folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"The model in {folder.name!r} cannot be loaded: {_without_path(str(error), folder)}.",
            remedy="Check that config.json and the weights belong together, or save the model again with "
            "save_pretrained(folder).",
            where={"folder": folder.name},
        ) from error
    module, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"The weights of {folder.name!r} lack {len(missing)} tensors of the architecture, first {missing[0]!r}.",
            remedy="Check that config.json and the weights belong together.",
            where={"folder": folder.name, "missing": missing[:20]},
        )
    assert isinstance(module, nn.Module)
    return module.to(device)


def _without_path(text: str, folder: Path) -> str:
    """`text` with the folder's name where it has the folder's place on this machine: failures are shown to people."""
    for place in sorted({str(folder.resolve()), str(folder.absolute())}, key=len, reverse=True):
        text = text.replace(place, folder.name)
    return text.removesuffix(".")
