"""`make peers`: install the peers under build/peers, a folder each, without a second torch.

    python -m tests.parity.peers.install [PEER ...]

Only what this environment lacks is installed, and only what the peers import when they trace a local model. Where a
peer imports at its start what tracing never calls (a notebook's display, data set downloads), a stub of a few lines
stands in. A folder that is complete is left alone.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.parity.peers import FOLDER

NOTEBOOK = "def get_ipython():\n    return None\n"
DATASETS = {
    "datasets/__init__.py": "def load_dataset(*_, **__):\n    raise NotImplementedError\n",
    "datasets/arrow_dataset.py": "class Dataset:\n    pass\n",
    "datasets/iterable_dataset.py": "class IterableDataset:\n    pass\n",
    "datasets/load.py": "from datasets import load_dataset\n",
    "pandas/__init__.py": "class DataFrame:\n    pass\n",
}


@dataclass(frozen=True)
class Peer:
    """What one folder holds."""

    packages: Sequence[str]
    stubs: dict[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Changes whenever the folder must be made anew."""
        described = json.dumps([list(self.packages), self.stubs, sys.version_info[:2]])
        return hashlib.sha256(described.encode()).hexdigest()


PEERS = {
    "nnsight-0.8.1": Peer(("nnsight==0.8.1", "greenlet==3.5.6", "accelerate==1.15.0")),
    "nnsight-0.4.11": Peer(
        (
            "nnsight==0.4.11",
            "accelerate==1.15.0",
            "bidict==0.23.1",
            "einops==0.8.2",
            "msgspec==0.21.1",
            "python-engineio==4.13.3",
            "python-socketio==5.16.3",
        ),
        {"IPython/__init__.py": NOTEBOOK},
    ),
    "transformer_lens-4.3.0": Peer(
        ("transformer_lens==4.3.0", "accelerate==1.15.0", "einops==0.8.2", "jaxtyping==0.3.11", "wadler_lindig==0.1.8"),
        DATASETS,
    ),
}


def install(name: str) -> bool:
    """Make one folder; False where it is there already."""
    peer, target = PEERS[name], FOLDER / name
    stamp = target / ".installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == peer.digest:
        return False
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), *peer.packages], check=True)
    for path, text in peer.stubs.items():
        (target / path).parent.mkdir(exist_ok=True)
        (target / path).write_text(text, encoding="utf-8")
    stamp.write_text(peer.digest, encoding="utf-8")
    return True


if __name__ == "__main__":
    for wanted in sys.argv[1:] or PEERS:
        if install(wanted):
            sys.stdout.write(f"Installed {wanted} in build/peers\n")
