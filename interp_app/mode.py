"""The one switch between the ways to run: PATCHBAY_MODE names the settings. Never guessed, never fallen back."""

import os
from typing import Final

MODES: Final = ("embedded", "services", "test")


def configure() -> None:
    """Point DJANGO_SETTINGS_MODULE at the settings of PATCHBAY_MODE (default: embedded)."""
    mode = os.environ.get("PATCHBAY_MODE", "embedded")
    if mode not in MODES:
        raise SystemExit(f"PATCHBAY_MODE is {mode!r}; it must be one of {', '.join(MODES)}.")
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", f"interp_app.settings.{mode}")
