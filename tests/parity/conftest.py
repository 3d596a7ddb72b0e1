"""The folder of reference data beside the project: absent in a user's clone, required in CI."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared(name: str) -> Path:
    """A folder of reference data; skips where it is absent, fails in CI."""
    folder = SHARED / name
    if not folder.exists():
        message = f"reference data ../shared/data/{name} is not here"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def stories() -> Path:
    """A real LLaMA of 260K parameters, with pronoun pairs."""
    return shared("stories260K")


@pytest.fixture(scope="session")
def parity_data() -> Path:
    """Recorded references of tiny random decoders in float64."""
    return shared("parity")
