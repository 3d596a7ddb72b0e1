"""The registry of methods, and the events they speak in."""

import subprocess
import sys

import numpy as np
import pytest

from tracing.errors import SpecError
from tracing.experiments import get, methods
from tracing.experiments.events import Tile
from tracing.experiments.registry import register


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"no method named 'magic'.*activation_patching"):
        get("magic")


def test_a_name_can_be_taken_once() -> None:
    with pytest.raises(ValueError, match="already registered"):
        register(get("activation_patching"))


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
def test_every_field_of_a_spec_can_be_shown_in_a_form(method) -> None:
    schema = method.spec.model_json_schema()
    for name, field in schema["properties"].items():
        assert field.get("title"), name
    assert method.spec.model_validate(method.spec().model_dump(mode="json")) == method.spec()


def test_a_tile_says_where_it_lies() -> None:
    tile = Tile(1, 2, 3, np.zeros((2, 4, 5), np.float32))
    assert tile.payload() == {"panel": 1, "r0": 2, "c0": 3, "nr": 4, "nc": 5, "planes": 2}


def test_specs_prompts_plans_and_results_never_load_torch() -> None:
    code = (
        "import sys, tracing.experiments, tracing.prompts, tracing.results, tracing.families.facts, "
        "tracing.patching.plan, tracing.patching.axes, tracing.metric_facts\n"
        "from tracing.families import model_facts, sites_of_family\n"
        "assert sites_of_family('llama')\n"
        "print(sorted({'torch', 'transformers', 'django'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
