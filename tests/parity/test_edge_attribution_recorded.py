"""EAP and EAP-IG-inputs equal the scores that the EAP-IG library and a plain-torch reference recorded.

On unmodified models to the precision of transformers' float32 pieces, to 1e-12 with those in float64; in a float32
model to 1e-4 (all as the data's README states).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.decoders import pair
from tests.float64 import widen
from tracing.circuits.attribution import edge_attribution
from tracing.models import LanguageModel

UNMODIFIED = {"gpt2": 1e-12, "gpt_neox": 1e-7, "llama": 1e-5, "llama_gqa": 1e-5, "gemma2": 1e-5}
EXACT = 1e-12
Recorded = Callable[..., tuple[LanguageModel, Any, list[Any]]]


@pytest.fixture
def recorded(parity_data: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """A model of the data, its arrays and its pairs; `exact` puts its float32 pieces into float64."""

    def load(name: str, *, exact: bool, dtype: str = "float64") -> tuple[LanguageModel, Any, list[Any]]:
        model = LanguageModel(parity_data / name, dtype=dtype)
        if exact:
            widen(model.module, monkeypatch)
        data = np.load(parity_data / f"{name}.npz", allow_pickle=False)
        columns = (data[key] for key in ("clean_ids", "corrupted_ids", "answer_ids", "foil_ids"))
        found = [
            pair(clean.tolist(), corrupted.tolist(), (int(answer),), (int(foil),), n)
            for n, (clean, corrupted, answer, foil) in enumerate(zip(*columns, strict=True), start=1)
        ]
        return model, data, found

    return load


def close(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", UNMODIFIED)
class TestRecorded:
    def test_names_and_edges_are_the_recorded_ones(self, recorded: Recorded, name: str, exact: bool) -> None:
        model, data, pairs = recorded(name, exact=exact)
        found = edge_attribution(model, pairs[:1])
        assert found.sources == tuple(data["src"])
        assert found.readers == tuple(data["dst"])
        assert np.array_equal(found.real, data["real"])

    def test_scores_of_eap(self, recorded: Recorded, name: str, exact: bool) -> None:
        model, data, pairs = recorded(name, exact=exact)
        tolerance = EXACT if exact else UNMODIFIED[name]
        found = edge_attribution(model, pairs)
        close(found.scores, data["eap"], tolerance)
        assert found.facts["clean"] == pytest.approx(float(data["metric_clean"]), abs=tolerance)
        assert found.facts["corrupted"] == pytest.approx(float(data["metric_corrupted"]), abs=tolerance)

    def test_scores_of_each_pair_and_their_absolute_mean(self, recorded: Recorded, name: str, exact: bool) -> None:
        model, data, pairs = recorded(name, exact=exact)
        tolerance = EXACT if exact else UNMODIFIED[name]
        for one, expected in zip(pairs, data["eap_per_example"], strict=True):
            close(edge_attribution(model, one).scores, expected, tolerance)
        absolute = edge_attribution(model, pairs, aggregation="absolute", batch=4)
        close(absolute.scores, np.abs(data["eap_per_example"]).mean(0), tolerance)

    def test_scores_of_each_position_add_up(self, recorded: Recorded, name: str, exact: bool) -> None:
        model, data, pairs = recorded(name, exact=exact)
        found = edge_attribution(model, pairs, spans="position", batch=4)
        assert found.spans == tuple(map(str, range(9)))
        close(found.span_scores, data["eap_per_position"], EXACT if exact else UNMODIFIED[name])
        close(np.asarray(found.span_scores).sum(0), found.scores, 1e-14)

    def test_edges_out_of_a_source_sum_to_its_attribution(self, recorded: Recorded, name: str, exact: bool) -> None:
        model, data, pairs = recorded(name, exact=exact)
        found = edge_attribution(model, pairs)
        close(found.scores.sum(1), data["node_atp"], EXACT if exact else UNMODIFIED[name])

    def test_scores_integrated_over_inputs(self, recorded: Recorded, name: str, exact: bool) -> None:
        model, data, pairs = recorded(name, exact=exact)
        if "eap_ig_inputs" not in data:
            assert name == "gemma2"  # not recorded: the library's is wrong there
            return
        found = edge_attribution(model, pairs, method="eap-ig-inputs", steps=int(data["ig_steps"]), rule="left")
        close(found.scores, data["eap_ig_inputs"], EXACT if exact else UNMODIFIED[name])


@pytest.mark.parametrize("name", UNMODIFIED)
def test_a_model_in_float32_gives_the_same_to_its_precision(recorded: Recorded, name: str) -> None:
    model, data, pairs = recorded(name, exact=False, dtype="float32")
    found = edge_attribution(model, pairs)
    assert found.scores.dtype == np.float32
    close(found.scores, data["eap"], 1e-4)


@pytest.mark.parametrize("name", UNMODIFIED)
def test_a_model_in_bfloat16_ranks_edges_the_same(recorded: Recorded, name: str) -> None:
    model, data, pairs = recorded(name, exact=False, dtype="bfloat16")
    found = edge_attribution(model, pairs)
    real = data["real"]
    assert found.scores.dtype == np.float32
    assert np.corrcoef(found.scores[real], data["eap"][real])[0, 1] > 0.98


@pytest.mark.parametrize("name", ["llama_gqa", "gemma2"])
def test_native_key_value_edges_are_sums_over_the_groups_query_heads(recorded: Recorded, name: str) -> None:
    """The library gives each query head a key and a value reader of its own."""
    model, data, pairs = recorded(name, exact=True)
    found = edge_attribution(model, pairs)
    names = list(data["dst_ungrouped"])
    rows = [n for n, source in enumerate(found.sources) if ".h" not in source or name != "gemma2"]
    for column, reader in enumerate(found.readers):
        if "kv" not in reader:
            continue
        layer, group, letter = reader[1], int(reader[5]), reader[7]
        members = [names.index(f"a{layer}.h{2 * group + n}<{letter}>") for n in range(2)]
        expected = data["eap_eapig_ungrouped"][:, members].sum(1)
        close(found.scores[rows, column], expected[rows], EXACT)
