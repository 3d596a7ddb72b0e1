"""The documentation builds without a warning, and the site loads nothing from other hosts."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.unit.project import ROOT

LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|data)=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*?href=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|url\(\s*[\"']?(?:https?:)?//[^)]+"
    r"|@import\s+[\"'](?:https?:)?//[^\"']+",
    re.I,
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("docs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"notebooks/demo"}
    assert {page for page in pages if not (site / f"{page}.html").exists()} == set()


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in {".html", ".css"}]
    assert len(files) > 10
    assert {f"{path.name}: {hit}" for path in files for hit in LOADED.findall(path.read_text())} == set()


def test_the_check_sees_loads_and_leaves_links_alone() -> None:
    assert LOADED.search('<script src="https://elsewhere.example/x.js">')
    assert LOADED.search('<link rel="stylesheet" href="//elsewhere.example/x.css">')
    assert LOADED.search("@font-face { src: url(https://elsewhere.example/x.woff2) }")
    assert not LOADED.search('<a href="https://elsewhere.example/">')


def test_the_reference_has_the_docstrings(site: Path) -> None:
    text = (site / "api.html").read_text()
    for name in ("Model.trace", "LanguageModel", "Tracer.invoke", "Proxy.save", "NotSavedError"):
        assert name.rpartition(".")[2] in text, name
    assert "Record what the block does with the model" in text


def test_the_tools_are_not_published(site: Path) -> None:
    assert [path.name for path in site.rglob("*.py")] == []


class Links(HTMLParser):
    """The addresses that a page links to or loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            if name in ("href", "src") and value:
                self.targets.add(value)


def test_every_link_inside_the_site_leads_to_a_page_and_an_anchor(site: Path) -> None:
    pages = {path: Links(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}
    dead = []
    for path, page in pages.items():
        for target in sorted(page.targets):
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            file = file / "index.html" if file.is_dir() else file
            anchors = pages[file].anchors if file in pages else None
            if not file.exists() or (url.fragment and anchors is not None and unquote(url.fragment) not in anchors):
                dead.append(f"{path.name}: {target}")
    assert dead == []


def test_the_pages_link_to_few_other_hosts(site: Path) -> None:
    hosts = {
        urlsplit(target).hostname
        for path in site.rglob("*.html")
        for target in Links(path.read_text()).targets
        if urlsplit(target).scheme in ("http", "https")
    }
    assert hosts <= {"squidfunk.github.io", "arxiv.org"}  # the theme's own credit, and the papers of the methods
