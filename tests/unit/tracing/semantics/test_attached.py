"""Modules and tensors of the user's own: attached ones in batches, and the gradients of what learns."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.tracing.seed import support
from tests.unit.tracing.seed.support import close, ids, run
from tracing import LanguageModel, Model
from tracing.errors import ModelError, RecordError

PROMPTS = ("The Eiffel Tower is in", "Hello world")
PATH = "transformer.h.1"


@pytest.fixture
def coded() -> tuple[LanguageModel, nn.Sequential]:
    """A model with a sparse autoencoder beside layer 1."""
    model = LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        coder = nn.Sequential(nn.Linear(32, 33), nn.ReLU(), nn.Linear(33, 32)).double()
    model.transformer.h[1].coder = coder
    return model, coder


def coding(coder: nn.Sequential, without: int | None, seen: list[Tensor] | None = None) -> Any:
    """What a block's output becomes by hand."""

    def change(value: Tensor) -> Tensor:
        features = coder[1](coder[0](value)).clone()
        if without is not None:
            features[..., without] = 0
        if seen is not None:
            seen.append(features)
        decoded: Tensor = coder[2](features)
        return decoded

    return change


def test_prompts_of_a_batch_write_features_each_for_itself(coded: tuple[LanguageModel, nn.Sequential]) -> None:
    """33 features: as many as the padded batch of 32 positions would have positions."""
    model, coder = coded
    results = []
    with model.trace() as tracer:
        for number, prompt in enumerate(PROMPTS):
            with tracer.invoke(prompt):
                block = model.transformer.h[1]
                block.output = block.coder(block.output)
                block.coder[1].output[..., number] = 0
                results.append((block.coder[1].output.save(), model.output.save()))
    for number, (prompt, (features, logits)) in enumerate(zip(PROMPTS, results, strict=True)):
        seen: list[Tensor] = []
        with torch.no_grad():
            expected = run(model._model, ids(prompt), writes={PATH: coding(coder, number, seen)})[0]
        close(features, seen[0])
        close(logits, expected)


def test_a_call_for_its_insides_alone_takes_any_number_of_rows(coded: tuple[LanguageModel, nn.Sequential]) -> None:
    model, coder = coded
    with model.trace() as tracer:
        with tracer.invoke(PROMPTS[0]):
            value = model.transformer.h[1].output
            model.transformer.h[1].coder(torch.cat([value, value * 2]))
            features = model.transformer.h[1].coder[0].output.save()
        with tracer.invoke(PROMPTS[1]):
            model.transformer.h[1].coder(model.transformer.h[1].output)
            other = model.transformer.h[1].coder[0].output.save()
    first, second = (run(model._model, ids(prompt), reads=[PATH])[1][PATH] for prompt in PROMPTS)
    close(features, coder[0](torch.cat([first, first * 2])).detach())
    close(other, coder[0](second).detach())


def test_features_at_each_step_of_a_generation(coded: tuple[LanguageModel, nn.Sequential]) -> None:
    model, coder = coded
    options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = []
    with model.generate(**options) as tracer:
        for prompt in PROMPTS:
            with tracer.invoke(prompt):
                for _ in tracer.iter[:]:
                    block = model.transformer.h[1]
                    block.output = block.coder(block.output)
                    block.coder[1].output[..., 2] = 0
                found.append(tracer.result.save())
    for prompt, result in zip(PROMPTS, found, strict=True):
        change, tokens = coding(coder, 2), ids(prompt)
        module: Any = model._model
        with module.get_submodule(PATH).register_forward_hook(lambda _, __, out, change=change: change(out)):
            expected = module.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
        assert torch.equal(result.value, expected)


# -- learning ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("watched", [False, True], ids=["alone", "beside a gradient that is read"])
def test_a_steering_vector_learns(gpt2: LanguageModel, watched: bool) -> None:
    vector = torch.zeros(32, dtype=torch.float64, requires_grad=True)
    gradient: Any = None
    with gpt2.trace(PROMPTS[0]):
        late = gpt2.transformer.h[2].output
        gpt2.transformer.h[1].output[:, -1] += vector * 2 if watched else vector
        gpt2.output[0, -1, 3].backward()
        if watched:
            gradient = late.grad.save()
    found = vector.grad
    assert found is not None
    vector.grad = None
    logits, seen = run_with(gpt2, vector, 2.0 if watched else 1.0)
    expected = torch.autograd.grad(logits[0, -1, 3], [vector, seen])
    close(found, expected[0])
    if watched:
        close(gradient, expected[1])


def run_with(model: LanguageModel, vector: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Logits and layer 2 of a forward with autograd in which a hook adds a vector."""
    seen: list[Tensor] = []

    def add(_: Any, __: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, -1] += factor * vector
        return output

    module: Any = model._model
    blocks = module.transformer.h
    with blocks[1].register_forward_hook(add), blocks[2].register_forward_hook(lambda _, __, out: seen.append(out)):
        logits = module(input_ids=ids(PROMPTS[0]), use_cache=False).logits
    return logits, seen[0]


@pytest.mark.parametrize("watched", [False, True], ids=["alone", "beside a gradient that is read"])
def test_an_attached_module_learns(coded: tuple[LanguageModel, nn.Sequential], watched: bool) -> None:
    model, coder = coded
    gradient: Any = None
    with model.trace(PROMPTS[0]):
        block = model.transformer.h[1]
        block.output = block.coder(block.output)
        features = block.coder[1].output
        model.output[0, -1, 3].backward()
        if watched:
            gradient = features.grad.save()
    found = [weight.grad for weight in coder.parameters()]
    coder.zero_grad()
    seen: list[Tensor] = []
    logits, _ = run(model._model, ids(PROMPTS[0]), writes={PATH: coding(coder, None, seen)}, grad=True)
    expected = torch.autograd.grad(logits[0, -1, 3], [*coder.parameters(), seen[0]])
    for one, other in zip(found, expected[:-1], strict=True):
        assert one is not None
        close(one, other)
    if watched:
        close(gradient, expected[-1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_gradient_inside_code_that_takes_none(gpt2: LanguageModel, mode: Any) -> None:
    def gradient() -> Tensor:
        with gpt2.trace(PROMPTS[0]):
            value = gpt2.transformer.h[1].output
            gpt2.transformer.h[0].output[:, -1] += torch.ones(32, dtype=torch.float64)
            gpt2.output[0, -1, 3].backward()
            found = value.grad.save()
        return found.value  # type: ignore[no-any-return]

    with mode():
        inside = gradient()
    assert torch.equal(inside, gradient())


# -- modules with a state ---------------------------------------------------------------------------------------------
def test_finding_the_order_of_a_module_in_training_counts_nothing_and_draws_nothing() -> None:
    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 6)).double()

    rows = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    traced, plain = net(), net()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        with Model(traced).trace(rows) as tracer:
            model = tracer.model
            model[1].output = model[0].output * 2  # needs the order
            out = model.output.save()
        torch.manual_seed(2)
        with plain[1].register_forward_hook(lambda _, args, __: args[0] * 2):
            expected = plain(rows).detach()
    assert torch.equal(out.value, expected)
    for one, other in zip(traced.buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:Dynamo does not know")
def test_a_compiled_module_is_traced(net: Model) -> None:
    compiled = Model(torch.compile(support.Net(), backend="eager"))  # type: ignore[arg-type]
    found: Any = None
    for _ in range(2):
        with compiled.trace(support.rows()):
            compiled._orig_mod.first.output[:, 0] = 0
            found = compiled.output.save()
    with net.trace(support.rows()):
        net.first.output[:, 0] = 0
        expected = net.output.save()
    close(found, expected.value)


def test_a_compiled_language_model_is_traced_as_what_it_was_made_from(gpt2: LanguageModel) -> None:
    compiled = LanguageModel(torch.compile(gpt2._model, backend="eager"), tokenizer=support.TOKENIZER)  # type: ignore[arg-type]
    with compiled.trace(PROMPTS[0]):
        compiled.transformer.h[1].output[:, 0] = 0
        found = compiled.output.save()
    with gpt2.trace(PROMPTS[0]):
        gpt2.transformer.h[1].output[:, 0] = 0
        expected = gpt2.output.save()
    assert torch.equal(found.value, expected.value)


def test_a_forward_compiled_in_place_is_refused() -> None:
    module: Any = support.gpt2()
    module.forward = torch.compile(module.forward, backend="eager")
    with pytest.raises(ModelError, match=r"compiled in place.*before it is compiled"):
        LanguageModel(module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_module_is_refused() -> None:
    script = torch.jit.trace(support.Net(), support.rows())  # type: ignore[no-untyped-call]
    with pytest.raises(ModelError, match=r"TorchScript.*Wrap the module"):
        Model(script)


def test_an_input_by_name_of_a_plain_module_is_an_invokes(net: Model) -> None:
    with pytest.raises(RecordError, match=r"tracer\.invoke\(x=\.\.\.\)"), net.trace(x=support.rows()):
        net.first.output.save()
    with net.trace() as tracer, tracer.invoke(x=support.rows()):
        found = net.output.save()
    close(found, net._model(support.rows()).detach())
