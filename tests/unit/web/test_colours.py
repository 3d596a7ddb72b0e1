"""Every pair of colours the pages use is readable, in the light and in the dark theme (WCAG 2.2: 1.4.3 and 1.4.11)."""

import re
from pathlib import Path

import pytest
from django.conf import settings

STYLES = Path(settings.BASE_DIR / "frontend" / "src" / "styles")
CSS = "".join((STYLES / name).read_text() for name in ("colours.css", "tables.css"))
TEXT_ON = ("bg", "surface", "raised", "hover")
INKS = ("text", "muted", "accent", "running", "done", "queued", "failed", "cancelled")
PAIRS = [
    *((ink, ground) for ink in INKS for ground in ("bg", "surface")),
    *(("text", ground) for ground in (*TEXT_ON, "accent-soft", "failed-soft", "done-soft", "cancelled-soft", "mark")),
    *(("text", ground) for ground in ("token-a", "token-b")),
    *(("muted", ground) for ground in ("token-a", "token-b", "raised", "hover")),
    ("on-accent", "accent"),
    ("on-accent", "accent-strong"),
    ("accent", "accent-soft"),
    ("accent-strong", "bg"),
    ("failed", "failed-soft"),
]
EDGES = [("line-strong", "bg"), ("line-strong", "raised"), ("accent", "bg"), ("mark-line", "bg")]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def theme(selector: str) -> dict[str, str]:
    block = CSS.split(selector, 1)[1].split("}", 1)[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


LIGHT = theme("\n:root {")
DARK = theme('\n:root[data-theme="dark"] {')
DARK_OF_THE_SYSTEM = theme(':root:not([data-theme="light"]) {')


@pytest.mark.parametrize(("ink", "ground"), PAIRS)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_is_readable(colours: dict[str, str], ink: str, ground: str) -> None:
    assert contrast(colours[ink], colours[ground]) >= 4.5


@pytest.mark.parametrize(("edge", "ground"), EDGES)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_edges_of_controls_are_visible(colours: dict[str, str], edge: str, ground: str) -> None:
    assert contrast(colours[edge], colours[ground]) >= 3


def test_the_dark_theme_is_the_same_chosen_or_from_the_system() -> None:
    assert DARK == DARK_OF_THE_SYSTEM
    assert DARK.keys() == LIGHT.keys()


def test_values_on_the_colour_map_are_readable() -> None:
    steps = re.findall(r"\.v\d+ \{ background: light-dark\((#\w+), (#\w+)\); color: light-dark\((#\w+), (#\w+)\)", CSS)
    assert len(steps) == 11
    for light_ground, dark_ground, light_ink, dark_ink in steps:
        assert contrast(light_ground, light_ink) >= 4.5
        assert contrast(dark_ground, dark_ink) >= 4.5
