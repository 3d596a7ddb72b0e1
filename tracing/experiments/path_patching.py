"""Path patching as an experiment: what every head changes through given receivers alone, row by row.

effect = (patched − unpatched) / (other run − unpatched), means over the pairs taken before the ratio.
Sources: Wang et al. 2022 (arXiv 2211.00593), section 3.1; Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, field_validator

from tracing.circuits.layout import Layout
from tracing.errors import PromptError, SpecError, Stopped
from tracing.events import Event, Log, PanelOpened, Progress, Tile
from tracing.experiments.registry import Cost, Method, MethodSpec, ModelFacts, PromptFacts, RunContext, register
from tracing.experiments.watching import DType, MetricName, call_text
from tracing.families.registry import adapter_of
from tracing.metric_facts import metric_facts
from tracing.patching.footprint import ITEM_BYTES
from tracing.patching.path_costs import path_cost
from tracing.prompts import PromptPair, require_for_metric

if TYPE_CHECKING:
    from tracing.models import LanguageModel

ADVANCED: Final[dict[str, Any]] = {"advanced": True}
HELP: Final = """\
Two runs of the model: a clean prompt with the behaviour, a corrupted one without it. One head's output of the other run
is put in, but only the receivers hear of it: every other head is held where it was. Then the receivers are given what
they make of it, and the rest of the model follows. One cell of the map is one sender, through all the receivers.

effect = (patched − unpatched) / (other run − unpatched)

0 is no effect, 1 as much as changing the whole prompt. With noising the clean prompt runs and the sender comes from the
corrupted one, with denoising the reverse. Direct paths run along the residual stream alone; for a single receiver the
effect is that of the edge between the two. With live MLPs a path may also pass through MLPs on its way; heads are held
either way. Senders that come after all receivers have no path, and their cells say 0.

Receivers are a head's query, key or value (a9.h6<q>; a9.kv1<k> where several heads share a key), an MLP (m9), or the
logits, which read every head. To trace a circuit, begin at the logits, then take the strongest heads as receivers.

When not to trust it:

- The two runs hardly differ in the metric. The effect then divides by almost nothing: look at the baselines.
- Several receivers stand behind one another. Each is given what it hears of the sender; what one of them passes on to
  the next does not count.
- The direct map is empty, but the head matters. Its path may lead through MLPs, or through other heads.
- Paths are many. Effects of single paths do not add up, and a path that does little alone may do much with another.
- The patched model is in a state that no prompt produces: a receiver hears two prompts at once.

Sources: Wang et al. 2022 (arXiv 2211.00593), section 3.1; Goldowsky-Dill et al. 2023 (arXiv 2304.05969).
"""


class PathPatchingSpec(MethodSpec):
    """Parameters of path patching."""

    receivers: tuple[str, ...] = Field(
        default=("logits",),
        min_length=1,
        title="Receivers",
        description="Through which the effect goes: logits, or parts such as a9.h6<q>, a9.h6<v>, m9.",
    )
    senders: Literal["heads", "mlps", "heads and mlps"] = Field(
        default="heads", title="Senders", description="Whose output is changed; MLPs get a column of their own."
    )
    mlps: Literal["direct", "live"] = Field(
        default="direct",
        title="Paths",
        description="Direct: along the residual stream alone. Live: MLPs between sender and receivers run on.",
    )
    direction: Literal["noising", "denoising"] = Field(
        default="noising",
        title="Direction",
        description="Noising puts corrupted outputs into the clean run; denoising the reverse.",
    )
    ablation: Literal["interchange", "zero", "mean", "resample"] = Field(
        default="interchange",
        title="What is put in",
        description="The other prompt's output; or, in its place, another pair's, a mean over the prompts, or nothing.",
    )
    metric: MetricName = Field(default="logit_diff", title="Metric", description="Read where the model answers.")
    positions: tuple[int, ...] = Field(
        default=(),
        title="Positions",
        description="Where senders are changed; negative ones count from the end. Empty means everywhere.",
        json_schema_extra=ADVANCED,
    )
    dtype: DType = Field(default="float32", title="Precision", json_schema_extra=ADVANCED)
    batch_rows: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        title="Senders a batch",
        description="How many senders run together; empty chooses by the prompts' size.",
        json_schema_extra=ADVANCED,
    )

    @field_validator("receivers", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    def check_model(self, facts: ModelFacts) -> None:
        """Raises `SiteError` where the family has no edges, or the model no such receiver."""
        layout = Layout.of(facts, adapter_of(facts.family))
        for name in self.receivers:
            layout.reader_index(name)
        if len(self.receivers) > 1 and "logits" in self.receivers:
            raise SpecError(
                "The logits read what every other receiver writes, so they are a receiver alone.",
                remedy="Take logits out, or patch paths into them in a run of their own.",
                where={"parameter": "receivers"},
            )

    def check_pairs(self, pairs: Sequence[PromptPair]) -> None:
        """Raises `PromptError` where a pair lacks the foil that the metric needs, or resampling a second pair."""
        require_for_metric(pairs, self.metric)
        if self.ablation == "resample" and len(pairs) < 2:
            raise PromptError("Resampling takes values from another pair.", remedy="Add a second pair.")


def senders_of(spec: PathPatchingSpec, layout: Layout) -> list[str]:
    """The senders' names."""
    kinds = {"heads": ("head",), "mlps": ("mlp",), "heads and mlps": ("head", "mlp")}[spec.senders]
    return [place.name for place in layout.source_places if place.kind in kinds]


def cost(spec: PathPatchingSpec, model: ModelFacts, prompts: PromptFacts) -> Cost:
    """Cells of the map, FLOPs of the blocks that run for them and of two whole forwards a cell, kept bytes.

    Raises `SpecError` for a position that not every prompt has. Edges are those of the family's usual layout.
    """
    shortest = min(prompts.lengths, default=0)
    if any(not -shortest <= position < shortest for position in spec.positions):
        raise SpecError(
            f"The positions {list(spec.positions)} are not all in every prompt: the shortest prompt has {shortest} "
            "tokens.",
            remedy=f"Use {-shortest} to {shortest - 1}; negative ones count from the end.",
            where={"parameter": "positions"},
        )
    layout = Layout.of(model, adapter_of(model.family))
    found = path_cost(
        model, layout, [layout.source_index(name) for name in senders_of(spec, layout)],
        [layout.reader_index(name) for name in spec.receivers], prompts.lengths,
        live=spec.mlps == "live", batch=spec.batch_rows,
        targets_only=metric_facts(spec.metric).targets_only,
    )  # fmt: skip
    columns = {"heads": model.n_heads, "mlps": 1, "heads and mlps": model.n_heads + 1}[spec.senders]
    return Cost(
        cells=columns * model.n_layers, flops=found.flops, naive_flops=found.naive_flops,
        bytes=found.numbers * ITEM_BYTES[spec.dtype], launches=found.launches,
    )  # fmt: skip


def call(spec: PathPatchingSpec) -> str:
    """The same as Python lines."""
    senders = {
        "heads": "None",
        "mlps": '[f"m{layer}" for layer in range(model.facts.n_layers)]',
        "heads and mlps": "Layout.of(model.facts, model.adapter).sources[1:]",
    }[spec.senders]
    imports = "from tracing.patching.paths import path_patching"
    if spec.senders == "heads and mlps":
        imports = f"from tracing.circuits.layout import Layout\n{imports}"
    text = call_text(
        imports,
        "path_patching",
        [
            ("", "pairs"), ("", repr(spec.metric)), ("senders", senders), ("receivers", repr(spec.receivers)),
            ("mlps", repr(spec.mlps)), ("direction", repr(spec.direction)), ("ablation", repr(spec.ablation)),
            ("positions", repr(spec.positions or None)), ("batch", repr(spec.batch_rows or "auto")),
            ("seed", repr(spec.seed)),
        ],
    )  # fmt: skip
    return text + "results = {found.name: found}\n"


def run(
    spec: PathPatchingSpec, model: "LanguageModel", pairs: Sequence[PromptPair], context: RunContext
) -> Iterator[Event]:
    """Open the map, fill it row by row, a spread of layers first, then the grid.

    Rows that an earlier attempt stored are not computed again. Ends without results once `context.should_stop()`.
    """
    # Path patching loads torch; this module is imported by web processes, which must not.
    from tracing.patching.paths import path_grid, path_tiles, prepare_paths

    yield Progress(0, 0, "baselines", "Running clean and corrupted prompts")
    try:
        prepared = prepare_paths(
            model, list(pairs), spec.metric, senders_of(spec, Layout.of(model.facts, model.adapter)), spec.receivers,
            mlps=spec.mlps, direction=spec.direction, positions=spec.positions or None, ablation=spec.ablation,
            batch=spec.batch_rows or "auto", seed=spec.seed, should_stop=context.should_stop,
        )  # fmt: skip
        yield PanelOpened(0, prepared.panel)
        width = len(prepared.columns)
        found: list[Tile] = [
            tile
            for tile in context.stored_tiles(0)
            if tile.examples is not None and tile.values.shape[1:] == (1, width)
        ]
        if found:
            yield Log("info", f"Resumed: {len(found)} of {len(prepared.panel.rows)} rows were computed before.")
        total = width * len(prepared.panel.rows)
        for tile in path_tiles(prepared, done={tile.r0 for tile in found}):
            found.append(tile)
            yield tile
            yield Progress(len(found) * width, total, "computing")
    except Stopped:
        return
    grid = path_grid(prepared, found)
    yield grid.result({"clean": grid.facts["clean"], "corrupted": grid.facts["corrupted"], "best": grid.best("effect")})


register(
    Method(
        name="path_patching",
        title="Path patching",
        summary="What a head changes in the answer through chosen receivers alone.",
        help=HELP,
        group="patching",
        spec=PathPatchingSpec,
        run=run,
        cost=cost,
        call=call,
    )
)
