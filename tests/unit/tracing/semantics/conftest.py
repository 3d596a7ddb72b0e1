"""The models of these tests, in float64, with their references made by plain torch."""

from typing import Any

import pytest
import torch

from tests.unit.tracing.seed import support
from tracing import LanguageModel, Model


@pytest.fixture(scope="session")
def gpt2() -> LanguageModel:
    """Four layers, four heads, width 32."""
    return LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER, dtype=torch.float64)


@pytest.fixture(scope="session")
def llama() -> LanguageModel:
    """Three layers, grouped-query attention."""
    return LanguageModel(support.llama(), tokenizer=support.TOKENIZER, dtype=torch.float64)


@pytest.fixture
def net() -> Model:
    """`support.Net`, an ordinary module."""
    return Model(support.Net())


@pytest.fixture(autouse=True)
def _no_hook_is_left(request: pytest.FixtureRequest) -> Any:
    """Whatever a test does, its models have no hooks afterwards."""
    models = [request.getfixturevalue(name) for name in ("gpt2", "llama", "net") if name in request.fixturenames]
    yield
    assert not any(support.hooks_in(model._model) for model in models)
