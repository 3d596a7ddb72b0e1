"""Files of results that are missing or damaged are named, with what to do; numbers that mean nothing are refused."""

from pathlib import Path

import numpy as np
import pytest

from tracing import results
from tracing.errors import SpecError
from tracing.results import EdgeScores

SCORES = EdgeScores(
    name="edges", title="Edges", sources=("input",), readers=("m0", "logits"), real=np.ones((1, 2), bool),
    scores=np.array([[1.0, -2.0]], np.float32), facts={},
)  # fmt: skip


@pytest.mark.parametrize("read", [results.from_files, EdgeScores.from_files], ids=["any", "one"])
def test_missing_and_damaged_files_are_named(read: object, tmp_path: Path) -> None:
    assert callable(read)
    SCORES.to_files(tmp_path / "edges")
    assert read(tmp_path / "edges").sources == ("input",)
    (tmp_path / "edges.safetensors").write_bytes(b"abc")
    with pytest.raises(SpecError, match=r"edges\.safetensors is damaged"):
        read(tmp_path / "edges")
    (tmp_path / "edges.safetensors").unlink()
    with pytest.raises(SpecError, match=r"no file edges\.safetensors"):
        read(tmp_path / "edges")
    (tmp_path / "edges.json").write_text("{bro")
    with pytest.raises(SpecError, match=r"edges\.json is damaged"):
        read(tmp_path / "edges")
    with pytest.raises(SpecError, match=r"no file other\.json") as caught:
        read(tmp_path / "other")
    assert "to_files" in caught.value.remedy


@pytest.mark.parametrize("number", [-1, 1.5, True], ids=str)
def test_only_a_count_of_edges_is_one(number: object) -> None:
    with pytest.raises(SpecError, match="no number of edges"):
        SCORES.top(number)  # type: ignore[arg-type]
    assert SCORES.top(0) == []
    assert SCORES.top(np.int64(1)) == [("input", "logits", -2.0)]
