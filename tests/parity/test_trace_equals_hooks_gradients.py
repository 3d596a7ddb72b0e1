"""Gradients of a trace are those of plain torch autograd with hooks, on every architecture: 1e-12."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity import hooks
from tests.parity.subjects import NAMES, UNPADDED, Subject, error, subject

TOLERANCE = 1e-12


def loss_of(logits: Any) -> Any:
    """A number that depends on every logit, in the same words for proxies and tensors."""
    return (logits.sin() * 3.0).sum() + logits[:, -1].pow(2).mean()


def other_loss(logits: Any) -> Any:
    return logits[:, 0].cos().sum()


def sites(one: Subject) -> list[tuple[str, int | None, hooks.Place]]:
    return [found for found in one.places() if found[0] != "logits" and found[1] in (None, one.middle)]


def expected(one: Subject, prompt: dict[str, Tensor], places: list[hooks.Place], *losses: Callable[[Any], Any],
             edits: Any = ()) -> list[list[Tensor]]:  # fmt: skip
    starts = [place for site, _, place in one.places() if site.endswith("embed")]
    return hooks.gradients(one.module, one.plain(prompt), places, losses or (loss_of,), starts, edits)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_every_site_alone(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(0)
    for site, layer, place in sites(one):
        with one.model.trace(*one.arguments(prompt)):
            gradient = one.site(site, layer).grad.save()
            loss_of(one.model.output).backward()
        ((value,),) = expected(one, prompt, [place])
        assert error(gradient, value) < TOLERANCE, (site, layer)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_all_sites_of_all_layers_in_one_trace(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(0)
    chosen = [found for found in one.places() if found[0] != "logits"]
    with one.model.trace(*one.arguments(prompt)):
        kept = []
        for site, layer, _ in reversed(chosen):
            proxy = one.site(site, layer)
            proxy.retain_grad()
            kept.append(proxy)
        loss_of(one.model.output).backward()
        unedited = one.model.output.save()
    for (site, layer, place), proxy in zip(reversed(chosen), kept, strict=True):
        ((value,),) = expected(one, prompt, [place])
        assert error(proxy.grad, value) < TOLERANCE, (site, layer)
    assert error(unedited, hooks.logits(one.module, one.plain(prompt)).detach()) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_each_prompt_has_its_own_loss_and_gradient(name: str) -> None:
    one = subject(name)
    prompts, place = one.two(), one.where.place("resid_post", 0)
    found = []
    with one.model.trace() as tracer:
        for prompt in prompts:
            with tracer.invoke(*one.arguments(prompt)):
                hidden = one.model.sites.resid_post[0]
                with loss_of(one.model.output).backward():
                    found.append(hidden.grad.save())
    for prompt, gradient in zip(prompts, found, strict=True):
        ((value,),) = expected(one, prompt, [place])
        assert error(gradient, value) < TOLERANCE, name


@pytest.mark.parametrize("name", NAMES)
def test_two_backwards_accumulate_or_stand_alone(name: str) -> None:
    one = subject(name)
    prompt, place = one.prompt(0), one.where.place("resid_post", 0)
    first, second = expected(one, prompt, [place], loss_of, other_loss) if name != "vit" else (
        expected(one, prompt, [place], loss_of, lambda logits: logits[:, 0].cos().sum()))  # fmt: skip
    with one.model.trace(*one.arguments(prompt)):
        hidden, logits = one.model.sites.resid_post[0], one.model.output
        loss_of(logits).backward(retain_graph=True)
        once = hidden.grad.save()
        other_loss(logits).backward()
        both = hidden.grad.save()
    assert error(once, first[0]) < TOLERANCE
    assert error(both, first[0] + second[0]) < TOLERANCE
    with one.model.trace(*one.arguments(prompt)):
        hidden, logits = one.model.sites.resid_post[0], one.model.output
        with loss_of(logits).backward(retain_graph=True):
            mine = hidden.grad.save()
        with other_loss(logits).backward():
            theirs = hidden.grad.save()
    assert error(mine, first[0]) < TOLERANCE
    assert error(theirs, second[0]) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_an_edited_gradient_flows_on(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(0)
    last = one.layers - 1
    early, late = one.where.place("embed", None), one.where.place("resid_post", last)
    for assign in (False, True):
        with one.model.trace(*one.arguments(prompt)):
            source, hidden = one.model.sites.embed, one.model.sites.resid_post[last]
            if assign:
                hidden.grad = hidden.grad * 0.5
            else:
                hidden.grad[:, 0] = 0.0
                hidden.grad[:, 1:] *= 2.0
            gradient = source.grad.save()
            loss_of(one.model.output).backward()

        def edit(part: Tensor, assign: bool = assign) -> None:
            if assign:
                part *= 0.5
            else:
                part[:, 0] = 0.0
                part[:, 1:] *= 2.0

        ((value, _),) = expected(one, prompt, [early, late], edits=[(late, edit)])
        assert error(gradient, value) < TOLERANCE, assign


@pytest.mark.parametrize("name", NAMES)
def test_gradients_through_a_write(name: str) -> None:
    """A value of one layer, scaled and put into a later one: gradients flow through the write, too."""
    one = subject(name)
    prompt, last = one.prompt(0), one.layers - 1
    early, late = one.where.place("resid_pre", 0), one.where.place("resid_post", last)
    with one.model.trace(*one.arguments(prompt)):
        source = one.model.sites.resid_pre[0]
        one.model.sites.resid_post[last][:, -1] = source[:, 0] * 0.7
        gradient = source.grad.save()
        loss_of(one.model.output).backward()
    seen: list[Tensor] = []

    def reading(tensor: Tensor) -> Tensor | None:
        seen.append(tensor if tensor.requires_grad else tensor.detach().clone().requires_grad_())
        return seen[0]

    def writing(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[:, -1] = seen[0][:, 0] * 0.7
        return tensor

    with torch.enable_grad(), hooks.hooks(one.module, [(early, reading), (late, writing)]):
        loss = loss_of(hooks.logits(one.module, one.plain(prompt)))
        (value,) = torch.autograd.grad(loss, seen[0])
    assert error(gradient, value) < TOLERANCE


@pytest.mark.parametrize("name", ["gpt2", "llama", "olmo2", "opt", "falcon_sequential", "vit", "tracr_reverse"])
def test_gradients_through_a_write_to_the_stream(name: str) -> None:
    """resid_mid is a tensor that the block reads twice: what is written there flows to both."""
    one = subject(name)
    prompt, layer = one.prompt(0), one.middle
    early, attn = one.where.place("embed", None), one.where.place("attn_out", layer)
    with one.model.trace(*one.arguments(prompt)):
        before = one.model.sites.resid_mid[layer].pow(2).sum()
        one.model.sites.resid_mid[layer] *= 0.5
        middle = one.model.sites.resid_mid[layer].grad.save()
        gradient = one.model.sites.embed.grad.save()
        (loss_of(one.model.output) + before).backward()
    mid = one.where.place("resid_mid", layer)
    seen: dict[str, Tensor] = {}

    def start(tensor: Tensor) -> Tensor:
        return seen.setdefault("embed", tensor.detach().clone().requires_grad_())

    def arriving(tensor: Tensor) -> None:
        seen["pre"] = tensor

    def halving(tensor: Tensor) -> Tensor:
        stream = hooks._rows(seen["pre"], prompt) + tensor
        seen["before"], seen["mid"] = stream, stream * 0.5
        return seen["mid"] - seen["pre"]

    visits = [(early, start), (one.where.place("resid_pre", layer), arriving), (attn, halving)]
    with torch.enable_grad(), hooks.hooks(one.module, visits):  # type: ignore[arg-type]
        loss = loss_of(hooks.logits(one.module, one.plain(prompt))) + seen_square(seen)
        values = torch.autograd.grad(loss, [seen["embed"], seen["mid"]])
    assert mid.path
    assert error(gradient, values[0]) < TOLERANCE
    assert error(middle, values[1]) < TOLERANCE


def seen_square(seen: dict[str, Tensor]) -> Tensor:
    return seen["before"].pow(2).sum()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNPADDED])
def test_the_loss_of_one_prompt_is_nothing_to_the_other(name: str) -> None:
    one = subject(name)
    first, second = one.two()
    with one.model.trace() as tracer:
        with tracer.invoke(*one.arguments(first)):
            loss_of(one.model.output).backward()
        with tracer.invoke(*one.arguments(second)):
            gradient = one.model.sites.resid_post[0].grad.save()
    assert not gradient.value.any()
