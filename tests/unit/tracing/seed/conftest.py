"""The folder of models from which the document's examples run."""

from pathlib import Path

import pytest

from tests.unit.tracing.seed import support


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the document's models under their names: tiny, but with as many layers as it reads."""
    root = tmp_path_factory.mktemp("seed")
    twelve = support.gpt2(layers=12)
    support.save(twelve, root / "gpt2")
    support.save(twelve, root / "openai-community" / "gpt2")
    support.save(support.llama(layers=42), root / "meta-llama" / "Llama-3.1-70B")
    return root
