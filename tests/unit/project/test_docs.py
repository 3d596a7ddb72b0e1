"""What the documentation shows is what happens: examples run, outputs are fresh, generated pages are those of today."""

import dataclasses
import importlib
import inspect
import pydoc
import re
from pathlib import Path

import pytest

from docs.tools import errors as errors_page
from docs.tools import families as families_page
from docs.tools import notebook
from docs.tools.family_notes import NOTES
from docs.tools.pages import BLOCK, DOCS, Difference, differences, fresh, prose_pages
from docs.tools.running import PageError, Session, same
from tests import zoo
from tracing.families import adapter_of, config_of, families, registry

MARKDOWN = sorted(DOCS.glob("*.md"))


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The family that an example registers is gone afterwards."""
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))
    monkeypatch.setattr(registry, "_OWN", set(registry._OWN))


@pytest.mark.parametrize("path", prose_pages(), ids=lambda path: path.stem)
def test_the_examples_of_a_page_run_and_print_what_it_shows(path: Path) -> None:
    assert [str(one) for one in differences(path)] == []


def test_the_errors_page_shows_each_error_as_it_is_now() -> None:
    assert same(errors_page.PAGE.read_text(), errors_page.page()), "Run: make docs-pages"


def test_the_architectures_page_is_made_of_the_adapters_as_they_are() -> None:
    def without_outputs(text: str) -> str:
        return BLOCK.sub(lambda match: match["code"], text)

    assert without_outputs(families_page.PAGE.read_text()) == without_outputs(families_page.page()), "make docs-pages"


def test_the_outputs_of_the_notebook_are_those_of_a_run_from_top_to_bottom() -> None:
    stored = notebook.read()
    assert notebook.is_current(stored, notebook.executed(stored)), "Run: make docs-pages"


@pytest.mark.parametrize("kind", ["stream", "execute_result"])
def test_a_stale_output_of_the_notebook_is_found(kind: str) -> None:
    stored, changed = notebook.read(), notebook.read()
    output = next(out for cell in changed["cells"] for out in cell.get("outputs", ()) if out["output_type"] == kind)
    if kind == "stream":
        output["text"] = ["something else\n"]
    else:
        output["data"]["text/plain"] = ["something else"]
    assert notebook.is_current(stored, stored)
    assert not notebook.is_current(changed, stored)


def test_the_notebook_holds_nothing_of_the_machine_that_ran_it() -> None:
    stored = notebook.read()
    assert (stored["nbformat"], stored["nbformat_minor"]) == (4, 5)
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    assert all(cell["metadata"] == {} for cell in stored["cells"])
    counts = [cell["execution_count"] for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert "0x" not in notebook.NOTEBOOK.read_text()


# -- nothing is left out ----------------------------------------------------------------------------------------------
def test_every_first_class_family_has_a_section() -> None:
    assert {config_of(zoo.model(note.zoo))["model_type"] for note in NOTES} == set(families())


def test_the_number_of_architectures_is_right_where_it_is_said() -> None:
    for path in (DOCS / "index.md", DOCS.parent / "README.md"):
        assert re.findall(r"(\d+)\s+architectures", path.read_text()) == [str(len(NOTES))], path.name


def test_every_standard_site_is_in_the_reference() -> None:
    text = (DOCS / "sites.md").read_text()
    names = {site for family in families() for site in adapter_of(family).sites}
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_every_page_is_in_the_navigation() -> None:
    navigation = (DOCS.parent / "mkdocs.yml").read_text()
    assert [path.name for path in MARKDOWN if f": {path.name}\n" not in navigation] == []


def test_python_blocks_stand_at_the_left_margin_where_they_are_run() -> None:
    indented = {path.name for path in MARKDOWN if re.search(r"^ +```python", path.read_text(), re.M)}
    assert indented == set()


# -- the reference ----------------------------------------------------------------------------------------------------
DIRECTIVE = re.compile(r"^::: (?P<name>[\w.]+)(?:\n    options:\n(?P<options>(?:      .*\n)+))?", re.M)


def documented() -> dict[str, list[str] | None]:
    """What docs/api.md documents, by path, with the members it names (None for all public ones)."""
    found: dict[str, list[str] | None] = {}
    for match in DIRECTIVE.finditer((DOCS / "api.md").read_text()):
        options = match["options"] or ""
        listed = re.search(r"members:((?: \[.*\])|(?:\n        - \w+)+)", options)
        found[match["name"]] = re.findall(r"\w+", listed[1]) if listed else None
    return found


def public(module: str) -> set[str]:
    """The classes and functions that a package offers, by the module that defines each."""
    package = importlib.import_module(module)
    offered = [getattr(package, name) for name in package.__all__]
    return {f"{one.__module__}.{one.__qualname__}" for one in offered if callable(one)}


def test_the_reference_has_every_public_name() -> None:
    packages = ("tracing", "tracing.models", "tracing.families", "tracing.patching", "tracing.experiments")
    wanted = set().union(*(public(package) for package in packages))
    assert wanted - set(documented()) == set()


def test_everything_in_the_reference_has_a_docstring() -> None:
    silent = []
    for name, members in documented().items():
        owner = pydoc.locate(name)
        assert owner is not None, name
        names = members if members is not None else [one for one in vars(owner) if not one.startswith("_")]
        functions = [
            one for one in names if inspect.isroutine(_raw(owner, one)) or isinstance(_raw(owner, one), property)
        ]
        silent += [f"{name}.{one}" for one in functions if not inspect.getdoc(getattr(owner, one))]
        silent += [] if inspect.getdoc(owner) else [name]
        assert [one for one in members or () if not hasattr(owner, one) and one not in _fields(owner)] == [], name
    assert silent == []


def _raw(owner: object, name: str) -> object:
    return inspect.getattr_static(owner, name, None)


def _fields(owner: object) -> set[str]:
    return {field.name for field in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()


# -- the tools themselves ---------------------------------------------------------------------------------------------
def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


def test_a_stale_output_is_found(tmp_path: Path) -> None:
    path = page(tmp_path, '```python\nprint("new")\n```\n\n```text title="Output"\nold\n```\n')
    assert list(differences(path)) == [Difference("page.md", 'print("new")\n', "old\n", "new\n")]


def test_an_output_that_is_missing_is_added_where_it_belongs(tmp_path: Path) -> None:
    path = page(tmp_path, "```python\nprint(1)\n```\n\ntext\n")
    assert fresh(path) == '```python\nprint(1)\n```\n\n```text title="Output"\n1\n```\n\ntext\n'


def test_blocks_share_their_names_and_errors_point_into_the_block(tmp_path: Path) -> None:
    path = page(tmp_path, "```python\nx = 1\n```\n\n<!-- raises ZeroDivisionError -->\n```python\ny = 1\nx / 0\n```\n")
    assert 'File "page.py", line 2, in <module>\n    x / 0' in fresh(path)


def test_an_error_that_was_not_announced_fails(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="expected no error"):
        fresh(page(tmp_path, "```python\n1 / 0\n```\n"))


def test_an_announced_error_that_does_not_come_fails(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="expected ValueError"):
        fresh(page(tmp_path, "<!-- raises ValueError -->\n```python\npass\n```\n"))


def test_warnings_of_a_block_are_shown_and_those_of_others_are_not() -> None:
    with Session("page.py") as session:
        printed = session.run(
            "import warnings\nwarnings.warn('mine', stacklevel=1)\nwarnings.warn('x', stacklevel=2)\n"
        )
    assert printed == "page.py:2: UserWarning: mine\n"


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ("0.123", "0.124", True),
        ("0.123", "0.126", False),
        ("[1, 7]", "[1, 8]", False),
        ("1.0e-03", "1.1e-03", True),
        ("norm 2.50", "mean 2.50", False),
        ("-0.001", "0.000", True),
    ],
)
def test_outputs_agree_up_to_the_last_digit_shown(one: str, other: str, agree: bool) -> None:
    assert same(one, other) is agree
