"""A scan shows, on every architecture, the shapes that a run has, and leaves the model as it was."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tests import zoo
from tracing import LanguageModel, Model, VisionModel
from tracing.errors import TraceError

SCANNED = [name for name in zoo.ZOO if name != "mixtral"]  # which chooses experts by numbers
PADDED = ["gpt2", "gpt_neox", "llama", "qwen3", "gemma3_text", "opt", "falcon", "bert", "t5"]


def wrapped(module: nn.Module, name: str) -> Any:
    return VisionModel(module) if name.startswith("vit") else LanguageModel(module, verify=False)


def sites(model: Any) -> Iterator[tuple[str, Any]]:
    """Every standard site of the model's first layer."""
    for name in dir(model.sites):
        site = getattr(model.sites, name)
        yield name, site[0] if model.adapter.layers_of(name, model.facts) else site


def tensors_of(module: nn.Module) -> list[Any]:
    """What the modules hold, also in lists and dicts of theirs."""
    found: list[Any] = []
    for part in module.modules():
        for value in (*vars(part).values(), *part._buffers.values(), *part._parameters.values()):
            found += value if isinstance(value, list) else value.values() if isinstance(value, dict) else [value]
    return [value for value in found if isinstance(value, Tensor)]


def state(module: nn.Module) -> list[tuple[int, int]]:
    return [(id(value), value._version) for value in tensors_of(module)]


@pytest.mark.parametrize("name", SCANNED)
def test_modules_and_sites_have_the_shapes_of_a_run(name: str) -> None:
    module = zoo.model(name)
    model, given = wrapped(module, name), zoo.example_inputs(name)
    with model.trace(**given) as tracer:
        cache = tracer.cache()
    with model.trace(**given):
        expected = {site: value.save() for site, value in sites(model)}
    outputs = {path: entry.output for path, entry in cache.items() if isinstance(entry.output, Tensor)}
    assert len(outputs) > 15
    before = state(module)
    with model.scan(**given):
        for path, output in outputs.items():
            found = model.get(path).output
            assert (found.shape, found.dtype) == (output.shape, output.dtype), path
        for site, value in sites(model):
            assert value.shape == expected[site].value.shape, site
    assert state(module) == before
    assert not any(isinstance(value, FakeTensor) for value in tensors_of(module))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize("name", SCANNED)
def test_no_weights_are_needed(name: str) -> None:
    with torch.device("meta"):
        module = zoo.ZOO[name]()
    model = wrapped(module, name)
    with model.scan(**zoo.example_inputs(name)):
        block = model.sites.resid_post[1]
        assert block.ndim == 3
        assert (block + torch.ones(zoo.WIDTH)).shape == block.shape
        with pytest.raises(RuntimeError):
            _ = block + torch.ones(zoo.WIDTH - 1)
    assert all(parameter.is_meta for parameter in module.parameters())


@pytest.mark.parametrize("name", PADDED)
def test_prompts_of_unequal_lengths_have_the_shapes_of_a_run(name: str) -> None:
    model = wrapped(zoo.model(name), name)
    prompts = ([5, 6, 7], [[9, 8, 7, 6, 5, 4, 3], [3, 4, 5, 6, 7, 8, 9]])
    shapes: list[list[torch.Size]] = []
    for scanning in (True, False):
        values = []
        with model.scan() if scanning else model.trace() as tracer:
            for prompt in prompts:
                with tracer.invoke(prompt):
                    values += [value.save() for _, value in sites(model)]
        shapes.append([value.value.shape for value in values])
    assert shapes[0] == shapes[1]
    assert len({shape[1] for shape in shapes[0]}) > 1 or name == "t5"  # whose decoder starts with one token


@pytest.mark.parametrize("name", ["gpt2", "llama", "falcon", "mamba", "t5"])
def test_the_first_step_of_a_generation_has_the_shapes_of_a_run(name: str) -> None:
    # transformers' cache of a T5 has as many layers as the encoder.
    model = wrapped(zoo.model(name, num_decoder_layers=2) if name == "t5" else zoo.model(name), name)
    with model.generate(zoo.ids(), max_new_tokens=2, validate=True):
        known = {site: value.shape for site, value in sites(model)}
        saved = {site: value.save() for site, value in sites(model)}
        later = model.sites.resid_post[0].save()
    assert all(isinstance(shape, torch.Size) for shape in known.values())
    assert {site: value.value.shape for site, value in saved.items()} == known
    assert later.value.ndim == 3


def test_later_steps_are_not_known_and_still_run() -> None:
    model = wrapped(zoo.model("gpt2"), "gpt2")
    with model.generate(zoo.ids(), max_new_tokens=3, validate=True) as tracer:
        for step in tracer.iter[0:2]:
            logits = model.output.save()
            if step:
                assert not isinstance(logits.shape, torch.Size)
    assert logits.value.shape == (2, 1, zoo.VOCABULARY)


def test_bad_writes_in_a_generation_are_errors_on_their_line() -> None:
    model = wrapped(zoo.model("gpt2"), "gpt2")
    with model.generate(zoo.ids(), max_new_tokens=2, validate=True):
        with pytest.raises(RuntimeError):
            model.transformer.h[0].output[:, 0] = torch.zeros(5)
        model.output.save()


class Keeper(nn.Module):
    """Keeps what it computes, in an attribute, a list and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.last: Any = None
        self.history: list[Tensor] = []
        self.named: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.layer(x)
        self.history.append(self.last)
        self.named["last"] = self.last
        found: Tensor = self.last * 2
        return found


def test_what_a_module_keeps_of_its_forward_is_not_of_a_scan() -> None:
    module = Keeper()
    model: Any = Model(module)
    with model.trace(torch.ones(2, 3)):
        model.layer.output.save()
    kept, before = module.last, list(module.history)
    with model.scan(torch.ones(4, 3)):
        assert model.layer.output.shape == (4, 3)
    assert module.last is kept
    assert len(module.history) == len(before)
    assert not any(isinstance(value, FakeTensor) for value in tensors_of(module))


class Picky(nn.Module):
    """Looks at its numbers in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x) if x.sum() > 0 else x
        return found


def test_a_module_of_ones_own_that_looks_at_numbers_is_named() -> None:
    model: Any = Model(Picky())
    with pytest.raises(TraceError, match=r"Picky.*without validate"), model.scan(torch.ones(2, 3)):
        model.layer.output.mean()


def test_an_input_that_the_model_refuses_is_said_to_be_of_the_scan() -> None:
    model: Any = Model(Keeper())
    with pytest.raises(RuntimeError) as caught, model.scan(torch.ones(2, 5)):
        model.layer.output.mean()
    assert "without numbers" in "".join(caught.value.__notes__)


def test_prompts_after_the_whole_batch_are_refused() -> None:
    model: Any = Model(Keeper())
    with pytest.raises(TraceError, match="after all prompts"), model.scan() as tracer:
        with tracer.invoke(torch.ones(1, 3)):
            pass
        with tracer.invoke():
            assert model.layer.output.shape == (1, 3)
        with tracer.invoke(torch.ones(2, 3)):
            pass


def test_a_trace_of_a_session_after_a_checked_one_is_not_checked() -> None:
    model: Any = Model(Keeper())
    with model.session():
        with model.trace(torch.ones(1, 3), validate=True):
            first = model.layer.output
            assert first.shape == (1, 3)
        with model.trace(torch.ones(2, 3)):
            shape = (model.layer.output + first).shape
            assert not isinstance(shape, torch.Size)
            shape.save()
