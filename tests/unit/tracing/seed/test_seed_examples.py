"""Every example of the seed document runs as written, and gives the numbers of plain torch hooks."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from tests.unit.tracing.seed import document, support
from tests.unit.tracing.seed.support import close, ids, run, zeroed
from tracing import LanguageModel
from tracing.errors import GradientError, NotSavedError, RemoteError, SiteError

Example = Callable[[str], dict[str, Any]]

PATHS = {
    "gpt2": (support.gpt2, "transformer.h", "attn"),
    "llama": (support.llama, "model.layers", "self_attn"),
    "mistral": (support.mistral, "model.layers", "self_attn"),
    "gpt_neox": (support.gpt_neox, "gpt_neox.layers", "attention"),
}


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Any:
    """The precision of an example; in float64 the numbers agree to 1e-12."""
    return request.param


@pytest.fixture
def example(model_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> Example:
    """Runs an example as a script in the folder of the models; the script's names are what it returns."""
    monkeypatch.chdir(model_folders)

    def script(source: str) -> dict[str, Any]:
        if dtype != "float32":
            source = re.sub(r"(LanguageModel\(\"[^\"]+\")", rf'\1, dtype="{dtype}"', source)
        path = tmp_path / "example.py"
        path.write_text(source)
        return runpy.run_path(str(path))

    return script


@pytest.fixture
def plain(model_folders: Path, dtype: str) -> nn.Module:
    """The twelve-layer model without the library."""
    return _plain(model_folders / "gpt2", dtype, "sdpa")


def _plain(folder: Path, dtype: str, attention: str) -> nn.Module:
    module: Any = GPT2LMHeadModel.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention, local_files_only=True
    )
    return module.eval()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def gpt2() -> LanguageModel:
    """Four layers, in memory."""
    return LanguageModel(support.gpt2(), tokenizer=support.TOKENIZER)


# -- the examples -----------------------------------------------------------------------------------------------------
def test_first_trace_gives_the_hidden_states_and_logits_of_plain_hooks(
    example: Example, plain: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    names = example(document.FIRST_TRACE)

    logits, found = run(plain, ids("The capital of France is"), reads=["transformer.h.5"])
    close(names["hidden"], found["transformer.h.5"])
    close(names["logits"], logits)
    assert f"Hidden shape: torch.Size([1, 5, 32])\nLogits shape: {logits.shape}" in capsys.readouterr().out


def test_tracing_and_proxies_zeroes_layer_8_and_keeps_what_was_read_of_layer_5(
    example: Example, plain: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    names = example(document.TRACING_AND_PROXIES)

    tokens = ids("The Eiffel Tower is in")
    logits, found = run(plain, tokens, reads=["transformer.h.5"], writes={"transformer.h.8": zeroed})
    assert not torch.allclose(logits, run(plain, tokens)[0])
    close(names["logits"], logits)
    close(names["h5_saved"], found["transformer.h.5"].mean(dim=-1))
    assert capsys.readouterr().out.startswith("tensor([[")


def test_multi_layer_analysis_gives_all_layers_and_all_attention_patterns(
    example: Example, plain: nn.Module, model_folders: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = example(document.MULTI_LAYER)

    tokens = ids("The capital of France is")
    paths = [f"transformer.h.{n}" for n in range(12)]
    logits, found = run(plain, tokens, reads=paths)
    with torch.no_grad():
        eager = _plain(model_folders / "gpt2", dtype, "eager")(tokens, output_attentions=True)
    for path, output in zip(paths, names["layer_outputs"], strict=True):
        close(output, found[path])
    for pattern, expected in zip(names["attn_patterns"], eager.attentions, strict=True):
        assert tuple(pattern.shape) == (1, 4, 5, 5)
        close(pattern, expected)
    close(names["logits"], logits)
    out = capsys.readouterr().out
    assert f"Layer 11: norm={found[paths[-1]].norm().item():.3f}" in out
    assert f"  {support.TOKENIZER.decode(logits[0, -1].argmax())}: " in out


def test_activation_patching_puts_the_clean_hidden_state_into_the_corrupted_run(
    example: Example, plain: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    names = example(document.ACTIVATION_PATCHING)

    _, clean = run(plain, ids("The Eiffel Tower is in"), reads=["transformer.h.8"])
    corrupted = ids("The Colosseum is in")
    logits, _ = run(plain, corrupted, writes={"transformer.h.8": lambda _: clean["transformer.h.8"]})
    assert not torch.allclose(logits, run(plain, corrupted)[0])
    close(names["clean_hidden"], clean["transformer.h.8"])
    close(names["patched_logits"], logits)
    close(names["patched_probs"], torch.softmax(logits[0, -1], dim=-1))
    paris = support.TOKENIZER.encode(" Paris")
    assert len(paris) == 1
    assert f"Paris: {torch.softmax(logits[0, -1], -1)[paris[0]].item():.3f}" in capsys.readouterr().out


def test_patching_sweep_gives_the_probability_of_every_layer_and_position(
    example: Example, plain: nn.Module, dtype: str, model_folders: Path
) -> None:
    names = example(document.PATCHING_SWEEP)
    model = LanguageModel("gpt2", device_map="auto", dtype=dtype)
    target = model.tokenizer.encode(" Paris")[0]

    found = names["patch_sweep"](model, "The Eiffel Tower is in", "The Colosseum is in", target)

    paths = [f"transformer.h.{n}" for n in range(12)]
    _, clean = run(plain, ids("The Eiffel Tower is in"), reads=paths)
    expected = torch.zeros(12, 7)
    for layer, path in enumerate(paths):
        for position in range(7):
            logits, _ = run(plain, ids("The Colosseum is in"), writes={path: _at(position, clean[path])})
            expected[layer, position] = torch.softmax(logits[0, -1], -1)[target].item()
    assert expected.std() > 0.1 * expected.mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def _at(position: int, new: Tensor) -> Callable[[Tensor], Tensor]:
    def write(tensor: Tensor) -> Tensor:
        tensor[:, position, :] = new[:, position, :]
        return tensor

    return write


@pytest.mark.parametrize("dtype", ["float32"])
def test_remote_example_without_a_server_says_what_is_missing(example: Example) -> None:
    with pytest.raises(RemoteError, match="server"):
        example(document.REMOTE)


def test_remote_example_run_locally_reads_layer_40_of_llama(
    example: Example, capsys: pytest.CaptureFixture[str]
) -> None:
    names = example(document.REMOTE.replace(", remote=True)", ")"))

    logits, found = run(names["model"]._model, ids("The meaning of life is"), reads=["model.layers.40"])
    close(names["layer_40"], found["model.layers.40"])
    close(names["logits"], logits)
    assert "Layer 40 shape: torch.Size([1, 5, 32])" in capsys.readouterr().out


def test_cross_prompt_sharing_gives_the_second_prompt_the_hidden_state_of_the_first(
    example: Example, plain: nn.Module
) -> None:
    names = example(document.CROSS_PROMPT)

    _, cat = run(plain, ids("The cat sat on the"), reads=["transformer.h.6"])
    dog = ids("The dog ran through the")
    logits, _ = run(plain, dog, writes={"transformer.h.6": lambda _: cat["transformer.h.6"]})
    assert not torch.allclose(logits, run(plain, dog)[0])
    close(names["cat_hidden"], cat["transformer.h.6"])
    close(names["dog_with_cat"], logits)


def test_gradient_example_gives_the_gradient_of_torch(
    example: Example, plain: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    names = example(document.GRADIENTS)

    logits, found = run(plain, ids("The quick brown fox"), reads=["transformer.h.5"], grad=True)
    expected = found["transformer.h.5"]
    (gradient,) = torch.autograd.grad(-logits[0, -1, support.TOKENIZER.encode(" jumps")[0]], expected)
    assert gradient.abs().sum() > 0
    close(names["hidden"], expected.detach())
    close(names["grad"], gradient)
    close(names["hidden"].grad, gradient)
    assert f"Gradient norm: {gradient.norm().item():.3f}" in capsys.readouterr().out


# -- its tables -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", PATHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers_and_attention_are_where_the_path_table_says(family: str, dtype: str) -> None:
    build, layers, attention = PATHS[family]
    model = LanguageModel(build(), tokenizer=support.TOKENIZER, dtype=dtype)
    steps = layers.split(".")

    with model.trace("The capital of France is"):
        place = getattr(getattr(model, steps[0]), steps[1])
        layer = place[1].output[0].save()
        heads = getattr(place[2], attention).output[0].save()
        place[0].output[0][:, 2] = 0
        logits = model.output.save()

    def zero_one_position(tensor: Tensor) -> Tensor:
        tensor[:, 2] = 0
        return tensor

    expected, found = run(
        model._model,
        ids("The capital of France is"),
        reads=[f"{layers}.1", f"{layers}.2.{attention}"],
        writes={f"{layers}.0": zero_one_position},
    )
    close(layer, found[f"{layers}.1"])
    close(heads, found[f"{layers}.2.{attention}"])
    close(logits, expected)


def test_generate_gives_the_tokens_of_transformers_and_takes_interventions(gpt2: LanguageModel) -> None:
    tokens = ids("The capital of France is")
    module: Any = gpt2._model
    expected = module.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=4, do_sample=False)

    with gpt2.generate("The capital of France is", max_new_tokens=4, do_sample=False) as tracer:
        first = gpt2.transformer.h[1].output[0].save()
        result = tracer.result.save()

    assert result.tolist() == expected.tolist()
    close(first, run(module, tokens, reads=["transformer.h.1"])[1]["transformer.h.1"])


def test_model_and_underscore_model_show_the_module_tree(gpt2: LanguageModel) -> None:
    assert isinstance(gpt2._model, GPT2LMHeadModel)
    assert "(transformer): GPT2Model" in repr(gpt2._model)
    for name in ("transformer", "lm_head", "attn_dropout", "c_attn"):
        assert name in str(gpt2)


def test_the_last_position_alone_can_be_saved(gpt2: LanguageModel) -> None:
    with gpt2.trace("The capital of France is"):
        last = gpt2.transformer.h[2].output[0][:, -1, :].save()

    _, found = run(gpt2._model, ids("The capital of France is"), reads=["transformer.h.2"])
    assert tuple(last.shape) == (1, 32)
    close(last, found["transformer.h.2"][:, -1, :])
    assert last.value.untyped_storage().nbytes() == 32 * 4


def test_a_saved_value_is_an_array_for_numpy(gpt2: LanguageModel) -> None:
    with gpt2.trace("The capital of France is"):
        last = gpt2.transformer.h[2].output[0][:, -1, :].save()

    assert np.array_equal(np.asarray(last), last.value.numpy())


# -- its troubleshooting ----------------------------------------------------------------------------------------------
def test_a_value_that_was_not_saved_names_the_line_that_made_it(gpt2: LanguageModel) -> None:
    with gpt2.trace("The capital of France is"):
        kept = gpt2.transformer.h[0].output.save()
        forgotten = gpt2.transformer.h[1].output[0]  # this line
    line = support.line_of(__file__, "this line")

    assert kept.shape == (1, 5, 32)
    for use in (lambda: forgotten.shape, lambda: forgotten + 1, lambda: torch.sum(forgotten), lambda: forgotten.value):
        with pytest.raises(NotSavedError, match=rf"test_seed_examples\.py:{line}\b") as raised:
            use()
        assert ".save()" in str(raised.value)


def test_an_unknown_module_path_names_near_names_and_print_model(gpt2: LanguageModel) -> None:
    with pytest.raises(SiteError, match="transformer") as raised, gpt2.trace("The capital of France is"):
        gpt2.model.layers[1].output.save()
    assert "print(model" in str(raised.value)
    with pytest.raises(SiteError, match=r"\battn\b") as raised, gpt2.trace("The capital of France is"):
        gpt2.transformer.h[1].atn.output.save()
    assert "print(model" in str(raised.value)
    assert isinstance(raised.value, AttributeError)


def test_a_layer_that_does_not_exist_says_how_many_there_are(gpt2: LanguageModel) -> None:
    with pytest.raises(IndexError, match=r"4 ") as raised, gpt2.trace("The capital of France is"):
        gpt2.transformer.h[12].output.save()
    assert "12" in str(raised.value)


def test_a_gradient_is_there_without_retain_grad(gpt2: LanguageModel) -> None:
    with gpt2.trace("The quick brown fox"):
        hidden = gpt2.transformer.h[1].output[0]
        gpt2.output[0, -1, 3].backward()
        grad = hidden.grad.save()

    logits, found = run(support.gpt2(), ids("The quick brown fox"), reads=["transformer.h.1"], grad=True)
    close(grad, torch.autograd.grad(logits[0, -1, 3], found["transformer.h.1"])[0])


def test_a_gradient_that_no_backward_reaches_is_an_error_and_never_none(gpt2: LanguageModel) -> None:
    with pytest.raises(GradientError), gpt2.trace("The quick brown fox"):
        gpt2.transformer.h[1].output[0].grad.save()


def test_remote_takes_a_timeout(gpt2: LanguageModel) -> None:
    with (
        pytest.raises(RemoteError, match="server"),
        gpt2.trace("The capital of France is", remote=True, timeout=300),
    ):
        gpt2.output.save()


def test_a_misspelt_option_of_the_document_is_not_silently_local(gpt2: LanguageModel) -> None:
    with pytest.raises(TypeError, match="remote"), gpt2.trace("The capital of France is", remot=True):
        gpt2.output.save()


def test_the_plan_says_how_many_bytes_saved_activations_take(gpt2: LanguageModel) -> None:
    with gpt2.trace("The capital of France is") as tracer:
        for block in gpt2.transformer.h:
            block.output.save()
        plan = str(tracer.plan())

    assert re.search(r"\d[\d.,]*\s*([KMG]i?)?B\b|bytes", plan)
