"""From a folder to a module: safetensors weights only, no code from the folder, nothing from the network."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto
from transformers.utils.import_utils import is_accelerate_available

from tracing.errors import ModelError
from tracing.models.hub import Source
from tracing.models.quiet import QUIET

PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth", "consolidated.00.pth")
"""Names under which weights are stored as pickles, which can run any code when read."""

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}

_STORED: Final = {"F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16, "F16": torch.float16}
"""Floating-point precisions as safetensors files call them."""

TASKS: Final = (
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    modeling_auto.MODEL_MAPPING_NAMES,
)
"""Where to look for the class of a config that does not name its architecture, most wanted first."""

DeviceMap = str | int | torch.device | Mapping[str, Any]


def dtype_of(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype from its name. Raises `ModelError` for one that is not a floating-point type we run in."""
    if isinstance(dtype, torch.dtype):
        return dtype
    try:
        return DTYPES[dtype]
    except KeyError:
        raise ModelError(f"Unknown precision {dtype!r}.", remedy=f"Choose one of {', '.join(DTYPES)}.") from None


def device_of(device: str | int | torch.device) -> torch.device:
    """A torch device that this machine has. Raises `ModelError` for others."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"There is no device {str(device)!r} on this machine.",
            remedy='Use "cpu", or "cuda" where torch finds a GPU (torch.cuda.is_available()).',
        ) from error
    return found


def unknown_keywords(where: str, given: Iterable[str], known: Iterable[str]) -> TypeError:
    """The error for keywords that `where` does not have, with the ones that were probably meant."""
    known = sorted(known)
    parts = []
    for name in sorted(given):
        near = difflib.get_close_matches(name, known, 1, 0.6) or [one for one in known if one in name]
        parts.append(repr(name) + (f" (did you mean {near[0]!r}?)" if near else ""))
    return TypeError(f"{where} has no keyword argument {', '.join(parts)}. It takes {', '.join(known)}.")


def read_config(source: Source) -> dict[str, Any]:
    """The parsed config.json. Raises `ModelError` where folder or file is missing or unreadable."""
    folder, name = source.folder, source.name
    if not folder.is_dir():
        raise ModelError(
            f"There is no model folder {name!r}.",
            remedy="Give the folder that save_pretrained wrote: it has config.json and model.safetensors.",
            where={"folder": name},
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"The folder {name!r} has no config.json, so it is not a saved model.",
            remedy="Give the folder that save_pretrained wrote.",
            where={"folder": name},
        ) from None
    except ValueError as error:
        raise ModelError(
            f"The config.json of {name!r} is not valid JSON: {error}.", remedy="Save or fetch the model again."
        ) from error
    if not isinstance(config, dict):
        raise ModelError(
            f"The config.json of {name!r} is not an object.", remedy="Give the folder that save_pretrained wrote."
        )
    return config


def require_safetensors(source: Source) -> None:
    """Raises `ModelError` where the folder has no safetensors weights, and says how to convert pickled ones."""
    folder, name = source.folder, source.name
    if any(folder.glob("*.safetensors")):
        return
    pickled = [file for file in PICKLED if (folder / file).exists()]
    if pickled:
        raise ModelError(
            f"The folder {name!r} has only pickled weights ({', '.join(pickled)}), which can run any code "
            "when they are read; only safetensors are loaded.",
            remedy="Convert them where you trust them: AutoModelForCausalLM.from_pretrained(folder)"
            ".save_pretrained(new_folder, safe_serialization=True).",
            where={"folder": name, "pickled": pickled},
        )
    if source.fetched:
        raise ModelError(
            f"The model {name!r} has no safetensors weights in the hub's cache; pickled ones are never fetched.",
            remedy='Fetch it online if it has them, or convert it. To look at it without weights, pass device="meta".',
            where={"folder": name},
        )
    raise ModelError(
        f"The folder {name!r} has no weights: there is no *.safetensors file in it.",
        remedy='Save the model with save_pretrained(folder). To look at the model without weights, pass device="meta".',
        where={"folder": name},
    )


def architecture(config: Mapping[str, Any], name: str) -> Any:
    """The transformers class of a parsed config.json: the one it names, else the likeliest one for its model type.

    Raises `ModelError` for a model that transformers does not have; code in a model's folder is never run.
    """
    family = str(config.get("model_type", ""))
    if family not in CONFIG_MAPPING:
        raise ModelError(
            f"The model {name!r} is of the type {family!r}, which transformers {transformers.__version__} does not "
            "have, and code that a model brings along is never run.",
            remedy="Build the module yourself and wrap it: LanguageModel(module), or Model(module).",
            where={"family": family},
        )
    named = config.get("architectures") or []
    by_type = [tasks[family] for tasks in TASKS if family in tasks]
    for candidate in (*named, *(one if isinstance(one, str) else one[0] for one in by_type)):
        found = getattr(transformers, candidate, None) if isinstance(candidate, str) else None
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            continue
        if getattr(found.config_class, "model_type", None) == family:
            return found
    raise ModelError(
        f"transformers has no model class for {name!r} ({family}).",
        remedy="Build the module yourself and wrap it: LanguageModel(module), or Model(module).",
        where={"family": family},
    )


def build_module(source: Source, *, dtype: torch.dtype | str, attn_implementation: str | None = None) -> nn.Module:
    """The module of a config.json on the "meta" device: all shapes, no weights; "auto" for the stored precision."""
    read = read_config(source)
    kind = architecture(read, source.name)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    try:
        config = kind.config_class.from_dict(read)
        if dtype == "auto":
            dtype = _stored_dtype(config, source)
        with torch.device("meta"):
            module: nn.Module = kind._from_config(config, dtype=dtype, **options)
    except (OSError, ValueError, RuntimeError, ImportError, TypeError) as error:
        raise _unloadable(source, error) from error
    return module


def _stored_dtype(config: Any, source: Source) -> torch.dtype:
    """What loading with "auto" gives: the config's precision; without one, that of the first floating-point weight."""
    named = getattr(config, "dtype", None)
    if named is not None:
        return dtype_of(named)
    for file in sorted(source.folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no mapping)
                found = _STORED.get(weights.get_slice(name).get_dtype())
                if found is not None:
                    return found
    return torch.float32


def load_module(
    source: Source,
    *,
    dtype: torch.dtype | str,
    device: torch.device | None = None,
    device_map: DeviceMap | None = None,
    attn_implementation: str | None = None,
) -> nn.Module:
    """The unmodified transformers module of a folder, in `dtype` on `device` or spread by `device_map`.

    Raises `ModelError` for a missing folder, an unknown type, pickled weights, or weights that do not fit the config.
    """
    kind = architecture(read_config(source), source.name)
    require_safetensors(source)
    options: dict[str, Any] = {}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    if device_map is not None:
        require_accelerate(device_map)
        options["device_map"] = device_map if isinstance(device_map, str) else dict(device_map)  # type: ignore[arg-type]
        refuse_disk(options["device_map"])
    try:
        with QUIET:
            loaded: Any = kind.from_pretrained(
                str(source.folder),
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise _unloadable(source, error) from error
    module, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"The weights of {source.name!r} lack {len(missing)} tensors of the architecture, first {missing[0]!r}.",
            remedy="Check that config.json and the weights belong together.",
            where={"folder": source.name, "missing": missing[:20]},
        )
    assert isinstance(module, nn.Module)
    return module if device is None else module.to(device)


def refuse_disk(device_map: str | Mapping[str, Any]) -> None:
    """Raises `ModelError` where a map keeps parts of the model on disk."""
    if isinstance(device_map, Mapping) and "disk" in map(str, device_map.values()):
        raise ModelError(
            "This device_map keeps parts of the model on disk, and they would be read anew in every forward.",
            remedy='Place them on "cpu", or load the model with accelerate\'s own offload folder and wrap the module.',
        )


def require_accelerate(device_map: object) -> None:
    """Raises `ModelError` where spreading a model over devices is asked for and accelerate is not installed."""
    if not is_accelerate_available():
        raise ModelError(
            f"device_map={device_map!r} needs the package accelerate, which is not installed.",
            remedy='pip install accelerate, or name one device: device="cpu".',
        )


def _unloadable(source: Source, error: Exception) -> ModelError:
    return ModelError(
        f"The model in {source.name!r} cannot be loaded: {_without_path(str(error), source)}.",
        remedy="Check that config.json and the weights belong together, or save the model again with "
        "save_pretrained(folder).",
        where={"folder": source.name},
    )


def _without_path(text: str, source: Source) -> str:
    """`text` with the model's name where it has the folder's place on this machine: failures are shown to people."""
    folder = source.folder
    for place in sorted({str(folder.resolve()), str(folder.absolute())}, key=len, reverse=True):
        text = text.replace(place, source.name)
    return text.removesuffix(".")
