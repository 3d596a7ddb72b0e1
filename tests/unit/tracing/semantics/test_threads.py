"""Semantics 12: traces of one model from several threads give what they give one after another, bit for bit."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.tracing.seed.support import close, ids, rows, run
from tracing import LanguageModel, Model
from tracing.errors import TracingError

PROMPTS = ("The capital of France is", "Hello world", "The quick brown fox", "The Eiffel Tower is in")
THREADS, TRACES = 4, 50


def in_threads(function: Any, count: int) -> list[Any]:
    """`function(n)` for every n, in four threads that start together."""
    gate = threading.Barrier(THREADS)
    started = threading.local()

    def call(n: int) -> Any:
        if not getattr(started, "yes", False):
            started.yes = True
            gate.wait(30)
        return function(n)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, range(count)))


def test_four_threads_of_fifty_traces_are_bit_equal_to_one_after_another(gpt2: LanguageModel) -> None:
    def trace(n: int) -> Tensor:
        layer, position = n % 4, n % 2
        with gpt2.trace(PROMPTS[n // 4 % 4]):
            gpt2.transformer.h[layer].output[:, position] *= 1 + n % 3
            hidden = gpt2.transformer.h[3].output.save()
            logits = gpt2.output[:, -1].save()
        return torch.cat([hidden.value.flatten(), logits.value.flatten()])

    expected = [trace(n) for n in range(48)]
    found = in_threads(lambda n: trace(n % 48), THREADS * TRACES)
    assert all(torch.equal(value, expected[n % 48]) for n, value in enumerate(found))


def test_gradients_from_several_threads(gpt2: LanguageModel) -> None:
    def trace(n: int) -> Tensor:
        with gpt2.trace(PROMPTS[n % 4]):
            hidden = gpt2.transformer.h[n % 3].output
            gpt2.output[0, -1, n].backward()
            grad = hidden.grad.save()
        return grad.value  # type: ignore[no-any-return]

    expected = [trace(n) for n in range(12)]
    found = in_threads(lambda n: trace(n % 12), 48)
    assert all(torch.equal(value, expected[n % 12]) for n, value in enumerate(found))


def test_generation_and_invokes_from_several_threads(gpt2: LanguageModel) -> None:
    def trace(n: int) -> Any:
        if n % 2:
            with gpt2.generate(PROMPTS[n % 4], max_new_tokens=3, do_sample=False, pad_token_id=0) as tracer:
                for _ in tracer.all():
                    gpt2.transformer.h[n % 4].output[:, -1] *= 2
                result = tracer.result.save()
        else:
            with gpt2.trace() as tracer:
                with tracer.invoke(PROMPTS[n % 4]):
                    last = gpt2.transformer.h[1].output[:, -1]
                with tracer.invoke(PROMPTS[(n + 1) % 4]):
                    gpt2.transformer.h[1].output[:, -1] = last
                    result = gpt2.output.save()
        return result.value

    expected = [trace(n) for n in range(8)]
    found = in_threads(lambda n: trace(n % 8), 40)
    assert all(torch.equal(value, expected[n % 8]) for n, value in enumerate(found))


def test_attention_patterns_from_several_threads(gpt2: LanguageModel) -> None:
    def trace(n: int) -> Tensor:
        with gpt2.trace(PROMPTS[n % 4]):
            if n % 2:
                gpt2.sites.pattern[1][:, n % 4] = 0
            pattern = gpt2.sites.pattern[2].save()
            logits = gpt2.output.save()
        return torch.cat([pattern.value.flatten(), logits.value.flatten()])

    expected = [trace(n) for n in range(8)]
    found = in_threads(lambda n: trace(n % 8), 40)
    assert all(torch.equal(value, expected[n % 8]) for n, value in enumerate(found))


def test_a_plain_forward_in_another_thread_is_not_touched_by_a_trace(gpt2: LanguageModel) -> None:
    tokens = ids(PROMPTS[0])
    clean = run(gpt2._model, tokens)[0]
    stop = threading.Event()
    wrong: list[float] = []

    def forward() -> None:
        while not stop.is_set():
            with torch.no_grad():
                wrong.append((gpt2._model(input_ids=tokens, use_cache=False).logits - clean).abs().max().item())

    thread = threading.Thread(target=forward)
    thread.start()
    try:
        for _ in range(20):
            with gpt2.trace(PROMPTS[0]):
                gpt2.transformer.h[0].output[:] = 0
                zeroed = gpt2.output.save()
    finally:
        stop.set()
        thread.join()
    assert wrong
    assert max(wrong) < 1e-12
    close(zeroed, run(gpt2._model, tokens, writes={"transformer.h.0": torch.zeros_like})[0])


def test_an_error_in_one_thread_leaves_the_others_alone(net: Model) -> None:
    with net.trace(rows()):
        clean = net.output.save()

    def trace(n: int) -> Any:
        if n % 3 == 0:
            with pytest.raises(RuntimeError), net.trace(rows()):
                net.first.output.view(5, 5).save()
            return clean.value
        if n % 3 == 1:
            with pytest.raises(TracingError), net.trace(rows()):
                net.unused.output.save()
            return clean.value
        with net.trace(rows()):
            out = net.output.save()
        return out.value

    assert all(torch.equal(value, clean.value) for value in in_threads(trace, 120))


def test_a_thread_does_not_record_into_the_trace_of_another(net: Model) -> None:
    errors: list[BaseException] = []

    def other() -> None:
        try:
            net.first.output.save()
        except TracingError as error:
            errors.append(error)

    with net.trace(rows()):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        net.output.save()
    assert len(errors) == 1
