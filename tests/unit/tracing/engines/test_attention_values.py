"""What taps show and what writing them does, for every family, against references written here and by transformers."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.engines.attention_models import (
    FAMILIES,
    attention,
    build,
    inputs,
    merged_z,
    patterns,
    softmax,
    weighted,
)
from tracing.engines.attention import KINDS, Taps, tapped

SDPA = [name for name, family in FAMILIES.items() if family.sdpa]
BOTH = [(name, "eager") for name in FAMILIES] + [(name, "sdpa") for name in SDPA]
LEAST = torch.finfo(torch.float32).min


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterable[None]:
    with torch.no_grad():
        yield


def reading(model: nn.Module, module: nn.Module, into: dict[str, Tensor]) -> AbstractContextManager[None]:
    """A context that puts what is seen of the module into a dictionary."""

    def visit(kind: str, tensor: Tensor) -> Tensor:
        assert kind not in into, "a kind is visited once a forward"
        into[kind] = tensor
        return tensor

    return tapped(model, {module: Taps(visit, frozenset(KINDS), frozenset())})


def writing(
    model: nn.Module, module: nn.Module, kind: str, edit: Callable[[Tensor], Tensor]
) -> AbstractContextManager[None]:
    """A context that edits one kind."""
    return tapped(model, {module: Taps(lambda _kind, tensor: edit(tensor), frozenset(), frozenset({kind}))})


def seen(name: str, model: nn.Module, layer: int = 0, **more: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with reading(model, attention(model, name, layer), found):
        model(**inputs(name), **more)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_is_visited_once_and_in_order(name: str) -> None:
    model = build(name)
    found = seen(name, model)
    assert tuple(found) == KINDS
    batch, heads, queries, keys = found["pattern"].shape
    assert found["scores"].shape == found["pattern"].shape
    assert found["q_rot"].shape[:3] == (batch, heads, queries)
    assert found["k_rot"].shape == (batch, found["v"].shape[1], keys, found["q_rot"].shape[-1])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_pattern_is_the_one_the_model_returns_when_it_runs_eager(name: str) -> None:
    eager = build(name, "eager")
    expected = patterns(eager, name, **inputs(name))
    for layer in (0, 1):
        assert torch.equal(seen(name, eager, layer)["pattern"], expected[layer])


@pytest.mark.parametrize("name", [name for name in SDPA if name != "falcon_alibi"])
def test_the_pattern_of_an_sdpa_model_is_the_eager_one(name: str) -> None:
    # The second layer's input went through sdpa in the one model and through a float32 softmax in the other.
    expected = patterns(build(name, "eager"), name, **inputs(name))
    model = build(name)
    torch.testing.assert_close(seen(name, model)["pattern"], expected[0], rtol=0, atol=1e-12)
    tolerance = 1e-6 if FAMILIES[name].float32 else 1e-12
    torch.testing.assert_close(seen(name, model, 1)["pattern"], expected[1], rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "implementation"), BOTH)
def test_pattern_times_v_is_z(name: str, implementation: str) -> None:
    model, found = build(name, implementation), {}
    with reading(model, attention(model, name), found):
        z = merged_z(lambda: model(**inputs(name)), model, name)
    # sdpa keeps float64 throughout, where the eager path of most families takes its softmax in float32.
    tolerance = 1e-6 if FAMILIES[name].float32 and implementation == "sdpa" else 1e-12
    torch.testing.assert_close(weighted(name, found["pattern"], found["v"]), z, rtol=0, atol=tolerance)
    torch.testing.assert_close(softmax(name, found["scores"]), found["pattern"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "implementation"), BOTH)
def test_reading_leaves_the_output_bit_equal(name: str, implementation: str, dtype: torch.dtype) -> None:
    model = build(name, implementation, dtype)
    given = inputs(name, dtype)
    plain = model(**given)[0]
    taps = {attention(model, name, n): Taps(lambda _kind, x: x, frozenset(KINDS), frozenset()) for n in (0, 1)}
    with torch.inference_mode(), tapped(model, taps):
        assert torch.equal(model(**given)[0], plain)
    assert torch.equal(model(**given)[0], plain)


@pytest.mark.parametrize(("name", "implementation"), BOTH)
def test_writing_the_pattern_puts_it_before_v(name: str, implementation: str) -> None:
    model = build(name, implementation)
    found = seen(name, model)
    other = torch.rand_like(found["pattern"])
    with writing(model, attention(model, name), "pattern", lambda _x: other):
        z = merged_z(lambda: model(**inputs(name)), model, name)
    torch.testing.assert_close(z, weighted(name, other, found["v"]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "implementation"), BOTH)
def test_writing_the_scores_puts_them_before_the_softmax(name: str, implementation: str) -> None:
    model = build(name, implementation)
    found = seen(name, model)
    other = torch.randn_like(found["scores"])
    with writing(model, attention(model, name), "scores", lambda _x: other):
        z = merged_z(lambda: model(**inputs(name)), model, name)
    torch.testing.assert_close(z, weighted(name, softmax(name, other), found["v"]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "implementation"), BOTH)
def test_writing_v_scales_z(name: str, implementation: str) -> None:
    model = build(name, implementation)
    plain = merged_z(lambda: model(**inputs(name)), model, name)
    with writing(model, attention(model, name), "v", lambda x: x * 2):
        z = merged_z(lambda: model(**inputs(name)), model, name)
    torch.testing.assert_close(z, plain * 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["q_rot", "k_rot"])
@pytest.mark.parametrize(("name", "implementation"), BOTH)
def test_writing_q_or_k_changes_the_product_under_bias_and_softcap(name: str, implementation: str, kind: str) -> None:
    model, family = build(name, implementation), FAMILIES[name]
    module, found, without = attention(model, name), seen(name, model), {}

    def without_product(kind: str, tensor: Tensor) -> Tensor:
        return torch.zeros_like(tensor) if kind == "q_rot" else without.setdefault(kind, tensor)

    # With q = 0 the scores are what they are besides the product: relative bias, alibi, mask.
    with tapped(model, {module: Taps(without_product, frozenset({"scores"}), frozenset({"q_rot"}))}):
        model(**inputs(name))
    open_ = found["scores"] > LEAST / 2
    assert family.bias == bool((without["scores"][open_] != 0).any())
    product = found["scores"] - without["scores"]
    if family.softcap:
        product = torch.atanh(product / family.softcap) * family.softcap * 2
        product = torch.tanh(product / family.softcap) * family.softcap
    else:
        product = product * 2
    expected = torch.where(open_, product + without["scores"], found["scores"])
    with writing(model, module, kind, lambda x: x * 2):
        z = merged_z(lambda: model(**inputs(name)), model, name)
    tolerance = 1e-6 if family.float32 or name in ("gptj", "codegen", "gpt_neo") else 1e-10
    torch.testing.assert_close(z, weighted(name, softmax(name, expected), found["v"]), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].inputs == "ids" and name != "bert"])
def test_masked_entries_hold_the_least_number(name: str) -> None:
    found = seen(name, build(name, "eager"))
    upper = torch.ones_like(found["scores"], dtype=torch.bool).triu(1)
    assert bool((found["scores"][upper] <= LEAST).all())
    assert bool((found["pattern"][upper] == 0).all())
