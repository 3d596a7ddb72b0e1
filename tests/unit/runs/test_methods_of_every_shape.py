"""Runs of methods that are not one map: no panels, several of different shapes, tiles sent again, many results."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from interp_app.runs import artifacts, claims, executor, panels, services
from interp_app.runs.control import Control, Stop
from interp_app.runs.models import Run, RunArtifact, Status, Tile, Worker
from interp_app.runs.warm_models import WarmModels
from tests.factories import WorkerFactory
from tests.unit.tracing.results.test_types import EACH, bars
from tracing import results
from tracing.experiments import registry
from tracing.experiments.events import Axis, Panel, PanelOpened, Progress, Quantity, Tick
from tracing.experiments.events import Tile as SaidTile
from tracing.experiments.registry import Cost

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def worker(db) -> Worker:
    return WorkerFactory(models_available=["tiny"])


@pytest.fixture(scope="module")
def warm() -> WarmModels:
    return WarmModels("cpu")


@pytest.fixture
def compute(member, tiny_model, prompts, worker, warm, monkeypatch) -> Callable[..., Run]:
    """Submit and execute a run of a method that has `cells` and yields what `run(context)` yields."""

    def computed(run: Callable[[Any], Iterator], cells: int = 0, control: Control | None = None) -> Run:
        found = registry.get("activation_patching")
        fields = {name: getattr(found, name) for name in registry.Method.__slots__}
        fields["run"] = lambda spec, model, pairs, context: run(context)
        fields["cost"] = lambda *_: Cost(cells, 1e6, 1e6, launches=10)
        monkeypatch.setitem(registry._METHODS, found.name, registry.Method(**fields))
        if not Run.objects.exists():
            services.submit_run(owner=member, model=tiny_model, prompts=prompts, method=found.name, params={})
        claim = claims.claim_next(worker)
        assert claim is not None
        executor.execute(claim, worker, warm, control or Control())
        return Run.objects.get(pk=claim.run_id)

    return computed


def panel(index: int, rows: int, columns: int, quantities: int = 1) -> PanelOpened:
    def axis(name: str, size: int) -> Axis:
        return Axis(name, name, tuple(Tick(str(n)) for n in range(size)))

    planes = tuple(Quantity(f"q{n}", f"Q{n}", "", "diverging", (-1.0, 1.0)) for n in range(quantities))
    return PanelOpened(index, Panel(f"panel-{index}", "Panel", axis("layer", rows), axis("head", columns), planes))


def tile(index: int, rows: int, columns: int, value: float, planes: int = 1) -> SaidTile:
    return SaidTile(index, 0, 0, np.full((planes, rows, columns), value, np.float32))


def test_a_method_without_panels_succeeds_with_its_results_of_every_type(compute):
    def run(context):
        yield Progress(1, 2, "gradients", "First half")
        yield Progress(2, 2, "gradients")
        for found in EACH:
            yield found.result({"type": found.FORMAT})

    done = compute(run)
    assert (done.status, done.cells_done, done.cells_total, done.steps_total) == (Status.SUCCEEDED, 0, 0, 0)
    assert done.summary == {found.name: {"type": found.FORMAT} for found in EACH}
    told = {event.payload["name"]: event.payload for event in done.events.filter(kind="result")}
    for found in EACH:
        payload = told[found.name]
        assert payload["type"] == found.FORMAT
        assert payload["title"] == found.title
        assert payload["numbers"] == sum(array.size for array in found.arrays().values())
        stored, arrays = artifacts.decode(artifacts.path_of(payload["artifact"]["sha256"]).read_bytes())
        again = results.from_parts(stored["data"], arrays)
        assert again.data() == found.data()
        assert again.to_csv() == found.to_csv()
    assert {event.payload["unit"] for event in done.events.filter(kind="progress")} == {"steps"}


def test_a_method_that_gives_nothing_has_not_succeeded(compute):
    done = compute(lambda context: iter([Progress(1, 1, "computing")]))
    assert (done.status, done.failure_code) == (Status.FAILED, "result_incomplete")
    assert "it gave no result" in done.failure_text


def test_several_panels_of_different_shapes_are_each_whole(compute):
    def run(context):
        yield panel(0, 2, 3)
        yield panel(1, 4, 1, quantities=2)
        yield tile(0, 2, 3, 0.5)
        yield tile(1, 4, 1, 0.25, planes=2)
        yield bars().result({})

    done = compute(run, cells=10)
    assert (done.status, done.cells_done, done.cells_total) == (Status.SUCCEEDED, 10, 10)
    assert [found.values.shape for found in panels.all_values(done.pk)] == [(1, 2, 3), (2, 4, 1)]


def test_a_panel_with_cells_left_out_has_not_succeeded(compute):
    def run(context):
        yield panel(0, 2, 3)
        yield panel(1, 4, 1)
        yield tile(0, 2, 3, 0.5)

    done = compute(run, cells=10)
    assert (done.status, done.failure_code) == (Status.FAILED, "result_incomplete")
    assert "4 of 10 cells" in done.failure_text


def test_the_newest_tile_of_a_rectangle_is_what_everybody_reads(compute):
    def run(context):
        yield panel(0, 2, 3)
        for step, value in enumerate((0.1, 0.2, 0.3), start=1):
            yield tile(0, 2, 3, value)
            yield Progress(step, 3, "refining")
        yield bars().result({})

    done = compute(run, cells=6)
    assert (done.status, done.cells_done) == (Status.SUCCEEDED, 6)
    assert panels.panel_values(done.pk, 0).values.ravel().tolist() == [np.float32(0.3)] * 6
    assert Tile.objects.filter(run=done).count() == 1


def test_a_resumed_run_is_given_the_newest_tiles(compute, member):
    control = Control()

    def first(context):
        yield panel(0, 2, 3)
        yield tile(0, 2, 3, 0.1)
        yield tile(0, 2, 3, 0.2)
        control.stop(Stop.CANCEL)
        yield Progress(1, 2, "refining")

    stopped = compute(first, cells=6, control=control)
    assert stopped.status == Status.CANCELLED
    services.resume_run(run=stopped, actor=member)
    given = []

    def second(context):
        given.extend(context.stored_tiles(0))
        yield panel(0, 2, 3)
        yield tile(0, 2, 3, 0.4)
        yield bars().result({})

    done = compute(second, cells=6)
    assert [one.values.ravel()[0] for one in given] == [np.float32(0.2)]
    assert (done.status, done.attempt, done.events.filter(kind="panel").count()) == (Status.SUCCEEDED, 2, 1)
    assert panels.panel_values(done.pk, 0).values[0, 0, 0] == np.float32(0.4)


@pytest.mark.parametrize("end", ["fails", "stops"])
def test_a_run_that_ends_half_way_through_its_results_has_none(compute, end):
    control = Control()

    def run(context):
        yield bars().result({"best": 1})
        context.save_array("extra", np.zeros(2))
        if end == "fails":
            raise RuntimeError("in the middle")
        control.stop(Stop.CANCEL)
        yield Progress(0, 0, "saving")

    done = compute(run, control=control)
    assert done.status == (Status.FAILED if end == "fails" else Status.CANCELLED)
    assert not done.events.filter(kind="result").exists()
    assert not RunArtifact.objects.filter(run=done).exists()
    assert done.summary == {}


def test_results_whose_names_make_one_file_name_keep_a_file_each(compute):
    def run(context):
        yield bars(name="pair 1").result({})
        yield bars(name="pair/1", facts={"other": True}).result({})

    done = compute(run)
    assert sorted(row.name for row in done.artifacts.all()) == ["pair-1-2.safetensors", "pair-1.safetensors"]
