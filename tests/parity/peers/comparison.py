"""What the parity tests share: the models, one answer a peer and script, and the same case run on our tracer."""

import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.parity.peers import Answer, cases_ours, host, run_peer
from tests.parity.peers.layout import Layout
from tests.unit.tracing.seed import support
from tracing import LanguageModel

FAMILIES: Final[dict[str, Callable[[], nn.Module]]] = {
    "gpt2": support.gpt2,
    "llama": support.llama,
    "mistral": support.mistral,
    "gpt_neox": support.gpt_neox,
}
CLEAN_IDS: Final = [3, 40, 17, 88, 21, 9, 54]
CORRUPTED_IDS: Final = [3, 61, 17, 30, 21, 9, 12]
GIVEN: Final[dict[str, Tensor]] = {
    "clean": torch.tensor([CLEAN_IDS]),
    "corrupted": torch.tensor([CORRUPTED_IDS]),
    "both": torch.tensor([CLEAN_IDS, CORRUPTED_IDS]),
    "direction": torch.linspace(-1, 1, 32, dtype=torch.float64),
}
TOLERANCE: Final = 1e-12


class Peers:
    """Saved models and the answers of peers to scripts; shared by the processes of one test run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with FileLock(folder / "models.lock"):
            for family, make in FAMILIES.items():
                if not (folder / family / "config.json").exists():
                    support.save(make(), folder / family)

    def answer(self, peer: str, script: Path, families: tuple[str, ...] = tuple(FAMILIES)) -> Answer:
        """What the peer answers to a script on all models; asked once."""
        name = f"{peer}-{script.stem}"
        values, errors = self.folder / f"{name}.safetensors", self.folder / f"{name}.json"
        with FileLock(self.folder / f"{name}.lock"):
            if not errors.exists():
                answer = run_peer(peer, script, {family: self.folder / family for family in families}, GIVEN)
                save_file(dict(answer), values)
                errors.write_text(json.dumps(answer.errors), encoding="utf-8")
        found = Answer(load_file(values))
        found.errors = json.loads(errors.read_text(encoding="utf-8"))
        return found

    @cache  # noqa: B019 (one object a test run)
    def model(self, family: str, attention: str | None = None) -> LanguageModel:
        """A saved model in our tracer, float64."""
        return LanguageModel(self.folder / family, dtype=torch.float64, attn_implementation=attention)


def shared_folder(base: Path) -> Path:
    """A folder that all processes of this test run share; `base` is pytest's for this process."""
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "peers"
    folder.mkdir(exist_ok=True)
    return folder


def names(script: Path) -> list[str]:
    """The cases of a script that our tracer can import."""
    return [name for name, _ in host.cases_of(host.load_script(script))]


def ours(model: LanguageModel, family: str, script: Path, case: str) -> dict[str, Tensor]:
    """A case run by our tracer: the peer's text as it stands, or ours where `cases_ours` has one."""
    own = dict(host.cases_of(cases_ours))
    function = own[case] if case in own else dict(host.cases_of(host.load_script(script)))[case]
    return dict(host.tensors(function(model, Layout(model, family), GIVEN)))


def assert_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float = TOLERANCE) -> None:
    """The same names, shapes and numbers."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=tolerance, rtol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )


def plain(module: nn.Module, ids: Tensor, **more: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and module outputs of a forward with plain hooks; see `support.run`."""
    return support.run(module, ids, **more)
