"""Every registered method: called from Python, and its notebook executed outside Django, gives the run's numbers."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.tracing.results.test_types import EACH, bars, certificate, grid, text
from tracing.demo import MODEL_DIR, prompt_sets
from tracing.errors import PromptError, SiteError, SpecError
from tracing.experiments import get, methods, run_method
from tracing.experiments.events import Progress, Quantity
from tracing.experiments.notebook import ModelSource, code_of, notebook
from tracing.models import LanguageModel
from tracing.prompts import PromptPair
from tracing.results import Bars, Grid, TypedResult
from tracing.results.comparing import TOLERANCES, compare, pack

PAIRS = 4
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@cache
def model() -> LanguageModel:
    return LanguageModel(MODEL_DIR)


@cache
def pairs() -> tuple[PromptPair, ...]:
    path = next(found.path for found in prompt_sets() if found.slug == "ioi")
    lines = path.read_text(encoding="utf-8").splitlines()[:PAIRS]
    return tuple(PromptPair.model_validate_json(line) for line in lines)


@cache
def computed(name: str) -> dict[str, TypedResult]:
    return run_method(name, {}, model(), pairs())


def written(name: str, stored: dict[str, TypedResult]) -> dict[str, Any]:
    method = get(name)
    source = ModelSource("the demo model", "MODEL_DIR", weights())
    return notebook(method, method.spec(), source, pairs(), stored)


def weights() -> dict[str, str]:
    import hashlib

    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in MODEL_DIR.glob("*.safetensors")}


def executed(found: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """The code cells as a script, in a process that cannot import Django."""
    script = folder / "notebook.py"
    refuse = 'import sys\nsys.modules["django"] = None\n'
    script.write_text(refuse + code_of(found), encoding="utf-8")
    environment = {"OMP_NUM_THREADS": "1", "PATH": "", "MPLBACKEND": "Agg", "PYTHONPATH": str(Path.cwd())}
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, env=environment, check=False
    )


@pytest.mark.parametrize("name", [method.name for method in methods()])
def test_the_notebook_of_a_method_computes_the_run_s_numbers(name: str, tmp_path: Path) -> None:
    stored = computed(name)
    assert stored
    done = executed(json.loads(json.dumps(written(name, stored))), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "1 weight files are those of the run" in done.stdout
    for result in stored:
        assert f"{result} · " in done.stdout
    assert "DIFFERS" not in done.stdout


@pytest.mark.parametrize("name", [method.name for method in methods()])
def test_results_of_a_method_can_be_stored_and_addressed(name: str) -> None:
    for key, result in computed(name).items():
        assert key == result.name
        assert SAFE_NAME.fullmatch(key), f"{key!r} is no part of an address"
        json.dumps(result.data(), allow_nan=False)


@pytest.mark.parametrize("name", [method.name for method in methods()])
def test_a_method_says_all_that_its_pages_show(name: str) -> None:
    method = get(name)
    assert method.summary.endswith(".")
    assert "When not to trust it:" in method.help
    assert "\nSource" in method.help
    compile(method.call(method.spec()), name, "exec")


def test_other_numbers_make_the_notebook_fail(tmp_path: Path) -> None:
    stored = computed("activation_patching")
    grid = stored["resid_pre"]
    assert isinstance(grid, Grid)
    planes = {key: plane.copy() for key, plane in grid.planes.items()}
    planes["raw"][0, 0] += 0.1 * np.nanmax(np.abs(planes["raw"]))
    changed = Grid.from_parts(grid.data(), {**grid.arrays(), "planes.raw": planes["raw"]})
    done = executed(written("activation_patching", {"resid_pre": changed}), tmp_path)
    assert done.returncode != 0
    assert "resid_pre · planes.raw: DIFFERS" in done.stdout
    assert "not the numbers that were stored" in done.stderr


def test_other_weights_are_refused_before_anything_runs(tmp_path: Path) -> None:
    method = get("activation_patching")
    source = ModelSource("the demo model", "MODEL_DIR", {"model.safetensors": "0" * 64})
    done = executed(notebook(method, method.spec(), source, pairs(), {}), tmp_path)
    assert done.returncode != 0
    assert "has other weights than the run's" in done.stderr


def test_a_notebook_has_the_form_of_nbformat_4() -> None:
    found = written("activation_patching", {})
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    assert {cell["cell_type"] for cell in found["cells"]} == {"markdown", "code"}
    for cell in found["cells"]:
        assert isinstance(cell["source"], list)
        assert cell["id"]
        assert ("outputs" in cell) == (cell["cell_type"] == "code")
    assert str(MODEL_DIR) not in json.dumps(found)


def test_a_method_called_from_python_tells_its_events_and_gives_typed_results() -> None:
    said: list[Any] = []
    found = run_method("activation_patching", {"sites": ["resid_pre"]}, model(), pairs(), on_event=said.append)
    assert list(found) == ["resid_pre"]
    assert isinstance(found["resid_pre"], Grid)
    assert any(isinstance(event, Progress) for event in said)


@pytest.mark.parametrize(
    ("name", "params", "error", "words"),
    [
        ("magic", {}, SpecError, "no method named 'magic'"),
        ("activation_patching", {"colour": "red"}, SpecError, "colour: Extra inputs are not permitted"),
        ("activation_patching", {"dtype": "float64"}, SpecError, "dtype float64, but the model was loaded as float32"),
    ],
)
def test_a_call_that_cannot_run_is_refused(name: str, params: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        run_method(name, params, model(), pairs())


def test_a_metric_without_foils_is_refused_before_it_runs() -> None:
    bare = [pair.model_copy(update={"foil": ()}) for pair in pairs()]
    with pytest.raises((PromptError, SiteError), match="foil"):
        run_method("activation_patching", {}, model(), bare)


@pytest.mark.parametrize("found", EACH, ids=lambda found: found.FORMAT)
def test_a_result_agrees_with_itself_after_a_trip_through_json(found: TypedResult) -> None:
    packed = json.loads(json.dumps({found.name: pack(found)}))
    lines = compare({found.name: found}, packed, TOLERANCES["float64"])
    assert lines
    assert all(line.agrees for line in lines)


def test_a_large_array_is_compared_by_an_even_sample() -> None:
    raw = Quantity("raw", "Raw", "", "diverging", (-1.0, 1.0))
    axis = grid().rows
    many = np.linspace(-1, 1, 100_000, dtype=np.float32)
    ticks = type(axis)("n", "N", axis.ticks[:1] * many.size)
    found = Bars(name="many", title="Many", axis=ticks, quantities=(raw,), values={"raw": many})
    packed = {"many": pack(found)}
    assert len(json.dumps(packed)) < 120_000
    moved = Bars(name="many", title="Many", axis=ticks, quantities=(raw,), values={"raw": many + np.float32(0.01)})
    assert all(line.agrees for line in compare({"many": found}, packed, 1e-6))
    assert not all(line.agrees for line in compare({"many": moved}, packed, 1e-3))


@pytest.mark.parametrize(
    ("now", "before"),
    [
        ({}, bars()),
        ({"heads": bars(values={"raw": np.float32([1, 1]), "share": np.float32([0.25, 0.75])})}, bars()),
        ({"certificate": certificate(checks=certificate().checks[:1])}, certificate()),
        ({"texts": type(text())(name="texts", title="Texts", entries=())}, text()),
    ],
    ids=["missing", "a number where there was none", "a check less", "other texts"],
)
def test_results_that_are_not_the_same_differ(now: dict[str, TypedResult], before: TypedResult) -> None:
    lines = compare(now, {before.name: pack(before)}, 0.5)
    assert not all(line.agrees for line in lines)
    assert any("DIFFERS" in str(line) for line in lines)
