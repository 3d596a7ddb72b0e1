"""Metrics of unpatched runs equal those another library recorded on the same tiny decoders."""

from pathlib import Path

import numpy as np
import pytest

from tests.decoders import pair
from tracing.models import LanguageModel
from tracing.patching.sweeps import prepare

TOLERANCE = {"gpt2": 1e-12, "llama": 1e-5, "llama_gqa": 1e-5}
"""Llama's norms run in float32 inside transformers, the recorded ones do not."""


@pytest.mark.parametrize("name", TOLERANCE)
def test_logit_differences_equal_the_recorded_ones(parity_data: Path, name: str) -> None:
    model = LanguageModel(parity_data / name, dtype="float64")
    data = np.load(parity_data / f"{name}.npz", allow_pickle=False)
    pairs = [
        pair(clean.tolist(), corrupted.tolist(), (int(answer),), (int(foil),), n)
        for n, (clean, corrupted, answer, foil) in enumerate(
            zip(data["clean_ids"], data["corrupted_ids"], data["answer_ids"], data["foil_ids"], strict=True), start=1
        )
    ]
    baselines = prepare(model, pairs).baselines
    for found, key in ((baselines.clean, "metric_clean"), (baselines.corrupted, "metric_corrupted")):
        np.testing.assert_allclose(found, data[f"{key}_per_example"], atol=TOLERANCE[name], rtol=0)
