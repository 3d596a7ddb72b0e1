"""`python -m docs.tools`: write generated pages, outputs and the notebook anew; `… errors tutorial` only those."""

import sys
from collections.abc import Sequence

from docs.tools import errors, families, notebook, pages


def main(names: Sequence[str]) -> None:
    """Write what differs and say what was written."""
    wanted = set(names)
    for name, generated in (("errors", errors), ("families", families)):
        if not wanted or name in wanted:
            _say(name, _write_generated(generated))
    for path in pages.prose_pages():
        if path != families.PAGE and (not wanted or path.stem in wanted):
            _say(path.stem, pages.write(path, pages.fresh(path)))
    if not wanted or "notebook" in wanted:
        _say("notebook", notebook.write())


def _write_generated(module: object) -> bool:
    page = module.page()  # type: ignore[attr-defined]
    path = module.PAGE  # type: ignore[attr-defined]
    return pages.write(path, pages.fresh(path, text=page))


def _say(name: str, written: bool) -> None:
    print(f"{name}: {'written' if written else 'as before'}")


if __name__ == "__main__":
    main(sys.argv[1:])
