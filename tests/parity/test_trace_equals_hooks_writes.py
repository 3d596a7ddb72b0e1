"""What a trace writes has the effect of the plain hook that writes the same, on every architecture: 1e-12."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity import hooks
from tests.parity.subjects import NAMES, UNPADDED, WITH_HEADS, Subject, error, subject

TOLERANCE = 1e-12
HEADS = ("q", "k", "v", "z")


def vector(size: int, seed: int = 0) -> Tensor:
    """A fixed direction in float64."""
    return torch.sin(torch.arange(size, dtype=torch.float64) * 1.7 + seed)


# Each edit changes a proxy or a tensor in place, in the same words.
def add_at_a_position(part: Any) -> None:
    part[:, -1] += vector(part_width(part))


def scale(part: Any) -> None:
    part *= 1.5


def overwrite_a_corner(part: Any) -> None:
    part[..., 1:3, 2:5] = part[..., 0:2, 3:6] * 2.0 - 1.0


def in_the_transposed_view(part: Any) -> None:
    part.transpose(-1, -2)[..., 0, 1:] = 0.25


WIDTH: dict[str, int] = {}


def part_width(part: Any) -> int:
    """The size of the last dimension, which a proxy does not know while it is recorded."""
    return part.shape[-1] if isinstance(part, Tensor) else WIDTH["now"]


EDITS: tuple[Callable[[Any], None], ...] = (add_at_a_position, scale, overwrite_a_corner, in_the_transposed_view)


def writable(one: Subject) -> list[tuple[str, int | None, hooks.Place]]:
    """Sites to write: all of the middle layer, the embedding and the logits."""
    return [(site, layer, place) for site, layer, place in one.places() if layer in (None, one.middle)]


def expected_logits(
    one: Subject,
    prompt: dict[str, Tensor],
    edits: list[tuple[str, int | None, hooks.Place, Callable[[Any], Tensor | None]]],
) -> Tensor:
    """A plain forward with the edits as hooks. A write to resid_mid is one to what attention adds to the stream."""
    inputs, visits = one.plain(prompt), []
    for site, layer, place, edit in edits:
        if site != "resid_mid" or place.side == "out":
            visits.append((place, edit))
            continue
        ((before,), _) = hooks.reads(one.module, inputs, [place])
        after = before.clone()
        changed = edit(after)
        visits.append((one.where.place("attn_out", layer), adding((after if changed is None else changed) - before)))
    return hooks.writes(one.module, inputs, visits)[0]


def adding(delta: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda part: part + delta


def assert_same(found: Any, expected: Tensor, what: Any) -> None:
    assert error(found, expected) < TOLERANCE, what


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_an_edit_in_place_at_every_site(name: str, edit: Callable[[Any], None]) -> None:
    one = subject(name)
    prompt = one.prompt(0)
    plain = hooks.logits(one.module, one.plain(prompt)).detach()
    changed = 0
    for site, layer, place in writable(one):
        ((before,), _) = hooks.reads(one.module, one.plain(prompt), [place])
        if edit is overwrite_a_corner and (before.shape[-2] < 3 or before.shape[-1] < 6):
            continue
        if site == "logits" and before.dim() == 2 and edit is add_at_a_position:
            continue  # a classifier's logits have no position
        WIDTH["now"] = before.shape[-1]
        with one.model.trace(*one.arguments(prompt)):
            proxy = one.site(site, layer)
            edit(proxy)
            after = one.site(site, layer).save()
            found = one.model.output.save()
        assert_same(found, expected_logits(one, prompt, [(site, layer, place, edit)]), (site, layer))
        edit(before)
        assert_same(after, before, (site, layer))
        changed += not torch.equal(found.value, plain)
    if not name.startswith("tracr"):  # a compiled program ignores most of its stream
        assert changed >= 4


@pytest.mark.parametrize("name", NAMES)
def test_another_prompts_value_by_assignment_at_every_site(name: str) -> None:
    one = subject(name)
    source, prompt = one.prompt(1), one.prompt(2)
    for site, layer, place in writable(one):
        with one.model.trace(*one.arguments(source)):
            value = one.site(site, layer).save()
        with one.model.trace(*one.arguments(prompt)):
            if layer is None:
                setattr(one.model.sites, site, value.value)
            else:
                getattr(one.model.sites, site)[layer] = value.value
            found = one.model.output.save()
        ((given,), _) = hooks.reads(one.module, one.plain(source), [place])
        expected = expected_logits(one, prompt, [(site, layer, place, lambda _, given=given: given)])
        assert_same(found, expected, (site, layer))


@pytest.mark.parametrize("name", WITH_HEADS)
def test_single_heads_write_back_into_every_layout(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(0)
    for site in HEADS:
        count = one.where.heads if site in ("q", "z") else one.where.kv
        for head in range(count):
            new = vector(one.where.d, head)

            def edit(part: Tensor, head: int = head, new: Tensor = new) -> None:
                part[:, 1:, head] = part[:, :-1, head] * 0.5 + new

            with one.model.trace(*one.arguments(prompt)):
                heads = getattr(one.model.sites, site)[one.middle]
                heads[:, :, head][:, 1:] = heads[:, :-1, head] * 0.5 + new  # through a view of a view
                after = heads.save()
                found = one.model.output.save()
            place = one.where.place(site, one.middle)
            assert_same(found, expected_logits(one, prompt, [(site, one.middle, place, edit)]), (site, head))
            ((before,), _) = hooks.reads(one.module, one.plain(prompt), [place])
            edit(before)
            assert_same(after, before, (site, head))


@pytest.mark.parametrize("name", NAMES)
def test_writes_at_every_site_of_one_trace(name: str) -> None:
    one = subject(name)
    prompt = one.prompt(0)
    chosen = [place for place in one.places() if place[0] not in ("resid_mid", "logits")]
    with one.model.trace(*one.arguments(prompt)):
        for site, layer, _ in reversed(chosen):  # in any order
            one.site(site, layer)[:, -1] *= 0.75
            one.site(site, layer)[:, 0] += 0.125
        found = one.model.output.save()

    def edit(part: Tensor) -> None:
        part[:, -1] *= 0.75
        part[:, 0] += 0.125

    edits = [(place, edit) for *_, place in reversed(chosen)]
    assert_same(found, hooks.writes(one.module, one.plain(prompt), edits)[0], name)


WAYS = ("output", "assigned output", "input", "assigned input", "inputs")


def write_a_way(envoy: Any, way: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
    """Write to a module, of which it is known what it was given and has returned."""
    is_tuple = isinstance(output, (tuple, list))
    if way == "output":
        (envoy.output[0] if is_tuple else envoy.output)[..., 1:3] *= -1.0
    elif way == "assigned output" and is_tuple:
        envoy.output = (envoy.output[0] * 0.5, *(envoy.output[n] for n in range(1, len(output))))
    elif way == "assigned output":
        envoy.output = envoy.output * 0.5
    elif way == "input":
        envoy.input[..., 1:3] *= -1.0
    elif way == "assigned input":
        envoy.input = envoy.input * 0.5
    elif args:
        given = envoy.inputs[0]
        envoy.inputs = ((given[0] * 0.5, *(given[n] for n in range(1, len(args)))), envoy.inputs[1])
    else:
        name = next(iter(kwargs))
        envoy.inputs[1][name] = envoy.inputs[1][name] * 0.5


@pytest.mark.parametrize("name", NAMES)
def test_every_way_to_write_to_a_module(name: str) -> None:
    """Inputs and outputs of the modules of a block, in place and assigned, where a module returns a tuple too."""
    one = subject(name)
    prompt, block = one.prompt(0), f"{one.where.blocks}.{one.middle}"
    tops = {path.partition(".")[0] for path in (one.where.attn_out, one.where.mlp_out, one.where.out) if path}
    called: dict[str, Any] = {}
    handles = [
        one.module.get_submodule(f"{block}.{top}").register_forward_hook(
            lambda _, args, kwargs, output, top=top: called.update({f"{block}.{top}": (args, kwargs, output)}),
            with_kwargs=True,
        )
        for top in tops
    ]
    hooks.logits(one.module, one.plain(prompt))
    for handle in handles:
        handle.remove()
    for path, call in called.items():
        for way in WAYS:
            with one.model.trace(*one.arguments(prompt)):
                write_a_way(one.model.get(path), way, *call)
                found = one.model.output.save()

            def edit(part: Tensor, way: str = way) -> Tensor:
                if way in ("output", "input"):
                    part[..., 1:3] *= -1.0
                    return part
                return part * 0.5

            place = hooks.Place(path, "out" if "output" in way else "in")
            expected = hooks.writes(one.module, one.plain(prompt), [(place, edit)])[0]
            assert_same(found, expected, (path, way))


@pytest.mark.parametrize("name", NAMES)
def test_a_write_to_one_prompt_leaves_the_other_as_it_is(name: str) -> None:
    one = subject(name)
    first, second = one.two()
    untouched, edited = [], []
    sites = [place for place in writable(one) if place[0] != "logits"]

    def edit(part: Any) -> None:
        part[:, 1:] *= -0.5

    for site, layer, place in [("", None, hooks.Place("", "out")), *sites]:
        with one.model.trace() as tracer:
            with tracer.invoke(*one.arguments(first)):
                if site:
                    edit(one.site(site, layer))
                edited.append(one.model.output.save())
            with tracer.invoke(*one.arguments(second)):
                untouched.append(one.model.output.save())
        if not site:
            continue
        expected = expected_logits(one, first, [(site, layer, place, edit)])
        assert_same(edited[-1], expected, (site, layer))
        if not routed(one):
            assert torch.equal(untouched[-1].value, untouched[0].value), (site, layer)
        else:
            assert_same(untouched[-1], untouched[0].value, (site, layer))


def routed(one: Subject) -> bool:
    """Mixtures of experts compute the tokens of an expert together: one row's routing moves others' last bits."""
    return one.name == "mixtral"


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_across_prompts_of_one_trace(name: str) -> None:
    """At the same layer, and from a later layer to an earlier one, which takes a second forward."""
    one = subject(name)
    first, second = one.two()
    last = one.layers - 1
    for source_layer, layer in ((last, last), (0, last), (last, 0)):
        with one.model.trace() as tracer:
            with tracer.invoke(*one.arguments(first)):
                given = one.model.sites.resid_post[source_layer][:, -1]
                kept = one.model.output.save()
            with tracer.invoke(*one.arguments(second)):
                one.model.sites.resid_post[layer][:, -1] = given
                found = one.model.output.save()
        place = one.where.place("resid_post", source_layer)
        ((source,), plain) = hooks.reads(one.module, one.plain(first), [place])

        def edit(part: Tensor, source: Tensor = source) -> None:
            part[:, -1] = source[:, -1]

        expected = expected_logits(one, second, [("resid_post", layer, one.where.place("resid_post", layer), edit)])
        assert_same(found, expected, (source_layer, layer))
        assert_same(kept, plain, (source_layer, layer))


@pytest.mark.parametrize("name", NAMES)
def test_prompts_swap_their_values_at_one_layer(name: str) -> None:
    one = subject(name)
    prompts = one.two()
    place = one.where.place("resid_post", 0)
    with one.model.trace() as tracer:
        with tracer.invoke(*one.arguments(prompts[0])):
            ours = one.model.sites.resid_post[0][:, 1].clone()
        with tracer.invoke(*one.arguments(prompts[1])):
            theirs = one.model.sites.resid_post[0][:, 1].clone()
            one.model.sites.resid_post[0][:, 1] = ours
            second = one.model.output.save()
        with tracer.invoke(*one.arguments(prompts[0])):
            one.model.sites.resid_post[0][:, 1] = theirs
            first = one.model.output.save()
    values = [hooks.reads(one.module, one.plain(prompt), [place])[0][0] for prompt in prompts]
    for prompt, other, found in ((prompts[0], values[1], first), (prompts[1], values[0], second)):

        def edit(part: Tensor, other: Tensor = other) -> None:
            part[:, 1] = other[:, 1]

        assert_same(found, hooks.writes(one.module, one.plain(prompt), [(place, edit)])[0], name)


@pytest.mark.parametrize("name", NAMES)
def test_a_skipped_module_gives_what_stands_for_it(name: str) -> None:
    """An MLP (or mixer) that is not run, and gives its input halved, as a hook would."""
    one = subject(name)
    prompt = one.prompt(0)
    relative = {
        "mamba": "mixer",
        "bert": "output.dense",
        "t5": "layer.2.DenseReluDense",
        "t5_gated": "layer.2.DenseReluDense",
    }
    path = f"{one.where.blocks}.{one.middle}.{relative.get(name, 'fc2' if name == 'opt' else 'mlp')}"
    zero = name in ("bert", "opt")  # whose output has another width than the input
    envoy = one.model.get(path)
    ((width,), _) = hooks.reads(one.module, one.plain(prompt), [hooks.Place(path, "out")])
    with one.model.trace(*one.arguments(prompt)):
        envoy.skip(torch.zeros_like(width).reshape(-1, width.shape[-1]) if name == "opt" and flat(one, path) else
                   torch.zeros_like(width) if zero else envoy.input * 0.5)  # fmt: skip
        found = one.model.output.save()
    seen: list[Tensor] = []
    visits: list[Any] = [
        (hooks.Place(path, "in"), lambda tensor: seen.append(tensor.clone())),
        (hooks.Place(path, "out"), lambda tensor: torch.zeros_like(tensor) if zero else seen[-1] * 0.5),
    ]
    with torch.no_grad(), hooks.hooks(one.module, visits):
        expected = hooks.logits(one.module, one.plain(prompt))
    assert_same(found, expected, path)


def flat(one: Subject, path: str) -> bool:
    """Whether a module is called on `[row · position, width]`."""
    dims: list[int] = []
    with hooks.hooks(one.module, [(hooks.Place(path, "in"), lambda tensor: dims.append(tensor.dim()))]):
        hooks.logits(one.module, one.plain(one.prompt(0)))
    return dims[0] == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_condition_chooses_the_write(name: str) -> None:
    one = subject(name)
    prompt, place = one.prompt(0), one.where.place("resid_post", one.middle)
    for above in (True, False):
        with one.model.trace(*one.arguments(prompt)) as tracer:
            norm = one.model.sites.resid_pre[0].norm()
            branch = tracer.cond(norm > 0 if above else norm < 0)
            with branch:
                one.model.sites.resid_post[one.middle][:, 0] = 0.5
            with branch.otherwise():
                one.model.sites.resid_post[one.middle] *= 2.0
            found = one.model.output.save()

        def edit(part: Tensor, above: bool = above) -> None:
            if above:
                part[:, 0] = 0.5
            else:
                part *= 2.0

        expected = hooks.writes(one.module, one.plain(prompt), [(place, edit)])[0]
        assert_same(found, expected, above)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in UNPADDED])
def test_a_write_to_the_whole_batch_reaches_every_prompt(name: str) -> None:
    one = subject(name)
    prompts, place = one.two(), one.where.place("resid_post", one.middle)
    with one.model.trace() as tracer:
        found = []
        for prompt in prompts:
            with tracer.invoke(*one.arguments(prompt)):
                found.append(one.model.output.save())
        with tracer.invoke():
            one.model.sites.resid_post[one.middle] *= 0.5
    for prompt, value in zip(prompts, found, strict=True):
        expected = hooks.writes(one.module, one.plain(prompt), [(place, lambda part: part * 0.5)])[0]
        assert_same(value, expected, name)
