"""The plain engine: one full forward of the whole model a patch, with hooks at the site.

This is the definition of a patch that the fast engine (`tracing.patching.rows`) must agree with; it is what a sweep
without `suffix` runs, and what patches several layers at once. It is at home on every family, since it follows the
adapter's own site paths:
- what a module is given or returns is changed there, in a copy, with the heads' layout undone and done again;
- resid_mid of blocks that add to that very tensor again is changed in place;
- head_out is no tensor of the model: W_O's output gets what the source's heads add less what the live heads add;
- a pattern is what weights the values: the patched queries' z become pattern · v of the live run.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tracing.engines.hooks import Hooks, first_argument, hooks, main_output, with_first_argument, with_main_output
from tracing.families.identities import head_writes
from tracing.families.sites import SitePath, Step
from tracing.graph.heads import get_heads, put_heads
from tracing.models import LanguageModel
from tracing.patching.rows import Rows, Source

Joint = Sequence[Rows]
"""Rows of several layers that are patched at once."""


def run_hooked(
    model: LanguageModel,
    inputs: Mapping[str, Tensor],
    source: Source,
    entries: Sequence[Rows | Joint],
    pairs: slice,
    *,
    answer: int = -1,
) -> Tensor:
    """The residual stream behind the last block at the answer position, `[entry, pair, row, d_model]`.

    `inputs` are the destination's arguments of a forward by name, each with an entry for every pair of the group;
    `source`, `entries` and `pairs` are as in `rows.run_rows`, but that an entry may be the rows of several layers.
    """
    together = [(one,) if isinstance(one, Rows) else tuple(one) for one in entries]
    return torch.stack([_run(model, inputs, source, one, pairs, answer) for one in together])


def _run(
    model: LanguageModel, inputs: Mapping[str, Tensor], source: Source, patches: Joint, pairs: slice, answer: int
) -> Tensor:
    copies = len(patches[0].positions)
    batch = {name: value[pairs].repeat_interleave(copies, 0) for name, value in inputs.items()}
    count = len(next(iter(batch.values())))
    final: list[Tensor] = []
    with hooks() as registered:
        for one in patches:
            new = source[one.site][one.layer][pairs].repeat_interleave(copies, 0)
            _patch(registered, model, one, new, count)
        registered.after(model.block_modules[-1], lambda output: final.append(main_output(output)[:, answer].clone()))
        forward(model, batch)
    return final[0].reshape(count // copies, copies, -1)


def forward(model: LanguageModel, batch: Mapping[str, Tensor]) -> None:
    """Run the blocks of the model on inputs by name."""
    backbone: Any = model.part(model.adapter.backbone)
    switch = {"use_cache": False} if getattr(getattr(model.module, "config", None), "use_cache", None) else {}
    if model.adapter.input_name:
        backbone(**batch, **switch)
    else:
        backbone(*batch.values())


def chosen(rows: Rows, count: int, units: int | None) -> Tensor:
    """Where `count` runs (pairs × rows) are patched: bool `[run, position]`, with units `[run, position, unit]`."""
    where = rows.positions.repeat(count // len(rows.positions), 1)
    if units is None:
        return where
    if rows.units is None:
        return where[..., None].expand(*where.shape, units)
    mine = rows.units[:, None] == torch.arange(units)
    return where[..., None] & mine.repeat(count // len(rows.units), 1)[:, None]


def mixed(site: str, live: Tensor, new: Tensor, rows: Rows) -> Tensor:
    """The live activation with the source's where the rows are patched; both in the site's own shape."""
    count, units = len(live), None if live.dim() == 3 else live.shape[2]
    if site == "neurons":
        return torch.where(chosen(rows, count, live.shape[-1]).to(live.device), new, live)
    return torch.where(chosen(rows, count, units)[..., None].to(live.device), new, live)


# -- one site of one layer --------------------------------------------------------------------------------------------
def _patch(registered: Hooks, model: LanguageModel, rows: Rows, new: Tensor, count: int) -> None:
    if rows.site == "neurons":
        block = f"{model.adapter.blocks}.{rows.layer}"
        path = SitePath(f"{block}.{model.adapter.neurons}", "inputs", (("first",),))
    elif rows.site == "pattern":
        _patch_pattern(registered, model, rows, new, count)
        return
    else:
        path = model.adapter.site(rows.site, rows.layer, model.facts)
    module = model.module.get_submodule(path.path)
    if path.kind == "head_out":
        _patch_head_out(registered, module, path.steps, rows, new)
        return

    def patched(live: Tensor) -> Tensor:
        steps = path.steps[1:]
        flat = (bool(steps) and steps[0] == ("rows",)) or (rows.site == "neurons" and live.dim() == 2)
        whole = live.reshape(count, -1, live.shape[-1]) if flat else live
        whole = put(whole, tuple(step for step in steps if step != ("rows",)), partial(_mix, rows, new))
        return whole.flatten(0, 1) if flat else whole

    if path.kind == "output":
        registered.after(module, lambda output: with_main_output(output, patched(main_output(output))))
    elif path.in_place:
        registered.before(module, lambda args, kwargs: _in_place(args, kwargs, patched))
    else:
        registered.before(
            module, lambda args, kwargs: with_first_argument(args, kwargs, patched(first_argument(args, kwargs)))
        )


def _mix(rows: Rows, new: Tensor, live: Tensor) -> Tensor:
    return mixed(rows.site, live, new.to(live.dtype), rows)


def _in_place(args: Any, kwargs: Any, patched: Any) -> None:
    # The block adds to this very tensor once more, so it must be changed itself, not replaced for the norm alone.
    hidden = first_argument(args, kwargs)
    hidden.copy_(patched(hidden))


def put(value: Tensor, steps: tuple[Step, ...], change: Any) -> Tensor:
    """A copy of `value` in which the part that the steps lead to is `change(part)`."""
    if not steps:
        found: Tensor = change(value)
        return found
    value = value.clone()
    part = value
    for step in steps[:-1]:
        part = follow(part, step)
    last = steps[-1]
    new = change(follow(part, last))
    if last[0] in ("index", "view"):
        follow(part, last).copy_(new)
    else:
        put_heads(part, last, new)
    return value


def follow(value: Tensor, step: Step) -> Tensor:
    """The part of a tensor that one step of a site leads to."""
    if step[0] == "index":
        return value[step[1]]
    if step[0] == "view":
        found: Tensor = getattr(torch, step[1])(value, *step[2])
        return found
    return get_heads(value, step)


def _patch_head_out(registered: Hooks, out_proj: nn.Module, steps: tuple[Step, ...], rows: Rows, new: Tensor) -> None:
    added: list[Tensor] = []

    def before(args: Any, kwargs: Any) -> None:
        z = first_argument(args, kwargs)
        for step in steps:
            z = get_heads(z, step)
        live = head_writes(out_proj, z)
        added.append((mixed("head_out", live, new.to(live.dtype), rows) - live).sum(2))

    def after(output: Any) -> Any:
        return with_main_output(output, main_output(output) + added.pop())

    registered.before(out_proj, before)
    registered.after(out_proj, after)


def _patch_pattern(registered: Hooks, model: LanguageModel, rows: Rows, new: Tensor, count: int) -> None:
    """z of patched queries: pattern · v, with the values of this very run."""
    facts = model.facts
    of_v = model.adapter.site("v", rows.layer, facts)
    of_z = model.adapter.site("z", rows.layer, facts)
    values: list[Tensor] = []

    def see(output: Any) -> None:
        v = main_output(output)
        for step in of_v.steps[1:]:
            v = follow(v, step)
        values.append(v.repeat_interleave(facts.n_heads // v.shape[2], 2))

    def weigh(live: Tensor) -> Tensor:
        z = torch.einsum("bhqk,bkhd->bqhd", new.to(live.dtype), values.pop())
        return mixed("z", live, z, rows)

    def patched(args: Any, kwargs: Any) -> Any:
        live = first_argument(args, kwargs)
        return with_first_argument(args, kwargs, put(live, of_z.steps[1:], weigh))

    registered.after(model.module.get_submodule(of_v.path), see)
    registered.before(model.module.get_submodule(of_z.path), patched)
