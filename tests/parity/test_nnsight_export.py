"""Exported scripts, run by nnsight 0.8.1, save what our traces save: fp64 to 1e-12."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import zoo
from tests.parity import export_cases, export_cases_runs
from tests.parity.exporting import Scripts, recorded, start
from tests.parity.peers import host
from tests.parity.peers.comparison import GIVEN, TOLERANCE, Peers, assert_equal, shared_folder
from tests.parity.peers.layout import Layout
from tests.unit.tracing.graph.op_examples import examples_of
from tests.unit.tracing.seed import document, support
from tracing import LanguageModel
from tracing.graph import codec, ops
from tracing.graph.proxy import Proxy
from tracing.graph.recorder import Base

FAMILIES = ("gpt2", "llama")
CASES = {**dict(host.cases_of(export_cases)), **dict(host.cases_of(export_cases_runs))}
EXAMPLES = {
    name: source
    for name, source in vars(document).items()
    if name.isupper() and isinstance(source, str) and name not in ("REMOTE", "PATCHING_SWEEP")
}
"""Of the seed document: all that trace on this machine and are whole programs."""
OTHER_FAMILIES = ("gpt_neox", "falcon_new", "gemma3_text", "mamba", "bert")
SITES = {
    "read": export_cases.sites_read,
    "written": export_cases.sites_written,
    "differentiated": export_cases.sites_differentiated,
}
NO_TENSOR = ("dtype", "device")
"""Operations whose result is no tensor and no number."""


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Peers:
    """Saved models."""
    return Peers(shared_folder(tmp_path_factory.getbasetemp()))


def cases_of(peers: Peers, family: str) -> Scripts:
    """The scripts of all cases on one model, run by one process of nnsight."""

    def fill(scripts: Scripts) -> None:
        for name, case in CASES.items():
            # Other attention gives the pattern beside its own output, in the precision of the eager softmax.
            model = peers.model(family, "eager" if name == "patterns" else None)
            with recorded() as runs:
                case(model, Layout(model, family), GIVEN)
            scripts.add(f"{family}_{name}", runs, peers.folder / family)

    return Scripts.run(peers.folder / f"exported_{family}", fill)


@pytest.fixture(scope="module")
def others(peers: Peers) -> Scripts:
    """All other scripts, run by one process of nnsight."""

    def fill(scripts: Scripts) -> None:
        _add_examples(scripts)
        _add_families(scripts)
        _add_operations(scripts, peers)

    return Scripts.run(peers.folder / "exported_others", fill)


def _add_examples(scripts: Scripts) -> None:
    """The seed document's programs, on a model of twelve layers."""
    folder = scripts.folder.parent / "twelve" / "gpt2"
    support.save(support.gpt2(layers=12), folder)
    for name, source in EXAMPLES.items():
        path = scripts.folder.parent / f"{name.lower()}.py"
        path.write_text(re.sub(r'LanguageModel\("[^"]+"', f'LanguageModel("{folder}", dtype="float64"', source))
        with recorded() as runs:
            runpy.run_path(str(path))
        scripts.add(name.lower(), runs, folder)


def _add_families(scripts: Scripts) -> None:
    """The standard sites of architectures that are built otherwise."""
    for family in OTHER_FAMILIES:
        folder = support.save(zoo.ZOO[family]().double(), scripts.folder.parent / "zoo" / family)
        model = LanguageModel(folder, dtype=torch.float64)
        for name, case in SITES.items():
            with recorded() as runs:
                case(model)
            scripts.add(f"{family}_{name}", runs, folder)


def _add_operations(scripts: Scripts, peers: Peers) -> None:
    """Every example of every operation, on constants."""
    model = peers.model("gpt2")
    with recorded() as runs, model.trace(GIVEN["clean"]) as tracer:
        recorder = tracer.recorder
        for name in ops.TABLE:
            for args, kwargs in examples_of(name) if name not in NO_TENSOR else ():
                args = tuple(arg.contiguous() if isinstance(arg, torch.Tensor) else arg for arg in args)
                Proxy(Base(recorder, recorder.add(name, recorder.encode(args), recorder.encode(kwargs)))).save()
    scripts.add("operations", runs, peers.folder / "gpt2")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_nnsight_gets_the_same_from_the_script(peers: Peers, family: str, name: str) -> None:
    results = cases_of(peers, family).results(f"{family}_{name}")
    assert results
    for found, expected in results:
        assert expected
        assert_equal(found, expected, TOLERANCE)


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("family", OTHER_FAMILIES)
def test_the_standard_sites_of_other_families(others: Scripts, family: str, name: str) -> None:
    ((found, expected),) = others.results(f"{family}_{name}")
    assert_equal(found, expected, TOLERANCE)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_documents_examples_become_scripts(others: Scripts, name: str) -> None:
    results = others.results(name.lower())
    assert len(results) == (2 if name == "ACTIVATION_PATCHING" else 1)
    for found, expected in results:
        assert_equal(found, expected, TOLERANCE)


def test_every_operation_has_words(others: Scripts) -> None:
    ((found, expected),) = others.results("operations")
    assert len(expected) > len(ops.TABLE)
    assert found.keys() == expected.keys()
    for name, value in expected.items():  # products of matrices round by how memory is aligned
        exact = value.dtype not in (torch.float32, torch.complex64)
        torch.testing.assert_close(
            found[name], value, atol=1e-12 if exact else 1e-5, rtol=1e-12 if exact else 1e-4, equal_nan=True
        )


def test_a_script_runs_by_itself_on_the_model_it_names(peers: Peers, tmp_path: Path) -> None:
    model = peers.model("llama")
    with recorded() as runs:
        CASES["a_later_layer_into_an_earlier_one"](model, Layout(model, "llama"), GIVEN)
    ((_, graph, expected),) = runs
    again = codec.load(codec.save(graph, tmp_path / "graph.json"))
    script = again.to_nnsight_source(model).save(tmp_path / "script.py")

    start(str(script))

    assert_equal(load_file(tmp_path / "script.saved.safetensors"), expected, TOLERANCE)
