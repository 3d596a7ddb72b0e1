"""Runs in a peer's process: loads the models, runs the cases, writes what they return. See `run_peer`."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from tests.parity.peers.layout import Layout

Case = Callable[[Any, Layout, Mapping[str, Tensor]], dict[str, Any]]


def load_script(path: Path) -> ModuleType:
    """The module of a script. It is a file because a peer reads the source of the trace."""
    spec = importlib.util.spec_from_file_location(f"peer_cases_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def cases_of(module: ModuleType) -> Iterator[tuple[str, Case]]:
    """The cases of a script, by their names without `case_`."""
    for name, value in vars(module).items():
        if name.startswith("case_"):
            yield name.removeprefix("case_"), value


def wrap(peer: str, folder: str) -> Any:
    """A saved model in float64 as the peer wraps it."""
    if peer.startswith("transformer_lens"):
        from transformer_lens.model_bridge import TransformerBridge

        return TransformerBridge.boot_transformers(folder, dtype=torch.float64, device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.eos_token
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    from nnsight import LanguageModel

    return LanguageModel(module, tokenizer=tokenizer)


def tensors(returned: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """What a case returned as tensors: lists become several, numbers and shapes become tensors."""
    for name, value in returned.items():
        if isinstance(value, torch.Size):
            yield name, torch.tensor(tuple(value))
        elif isinstance(value, list | tuple):
            yield from tensors({f"{name}.{n}": item for n, item in enumerate(value)})
        else:
            plain = value if isinstance(value, Tensor) else getattr(value, "value", value)
            found = plain if isinstance(plain, Tensor) else torch.tensor(plain)
            yield name, found.detach().clone().contiguous()


def run(case: Case, model: Any, layout: Layout, given: Mapping[str, Tensor]) -> dict[str, Tensor] | str:
    """The tensors of a case, or what it raised."""
    try:
        return dict(tensors(case(model, layout, given)))
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:2000]


def main(work: Path) -> None:
    """Answer one request."""
    torch.set_num_threads(1)
    disable_progress_bar()
    request = json.loads((work / "request.json").read_text(encoding="utf-8"))
    given = load_file(work / "arrays.safetensors")
    script = load_script(Path(request["script"]))
    values: dict[str, Tensor] = {}
    errors: dict[str, str] = {}
    for family, folder in request["folders"].items():
        for name, case in cases_of(script):
            if request["cases"] is not None and name not in request["cases"]:
                continue
            model = wrap(request["peer"], folder)  # a fresh one: some cases change it for good
            kind = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["model_type"]
            found = run(case, model, Layout(model, kind), given)
            if isinstance(found, str):
                errors[f"{family}/{name}"] = found
            else:
                values.update({f"{family}/{name}/{key}": value for key, value in found.items()})
    save_file(values, work / "values.safetensors")
    (work / "errors.json").write_text(json.dumps(errors), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
