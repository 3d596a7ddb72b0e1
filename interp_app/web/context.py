"""What every page needs: the theme, the navigation with its current entry, and whether the browser code is built."""

from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse

from tracing import __version__

THEMES: Final = (("auto", "Theme of the system"), ("light", "Light theme"), ("dark", "Dark theme"))
THEME_COOKIE: Final = "theme"

_NAV: Final = (
    ("start", "web:start", "Start"),
    ("models", "web:models", "Models"),
    ("prompts", "web:prompts", "Prompts"),
    ("runs", "web:runs", "Runs"),
    ("queue", "web:queue", "Queue"),
    ("help", "web:help", "Help"),
)


def page(request: HttpRequest) -> dict[str, Any]:
    """Context of `base.html`."""
    theme = request.COOKIES.get(THEME_COOKIE, "auto")
    return {
        "theme": theme if theme in dict(THEMES) else "auto",
        "themes": THEMES,
        "nav": [_entry(request.path, *item) for item in _NAV],
        "frontend_built": Path(str(settings.DJANGO_VITE["default"]["manifest_path"])).is_file(),
        "app_version": __version__,
    }


def _entry(path: str, icon: str, name: str, label: str) -> dict[str, str]:
    url = reverse(name)
    current = ""
    if path == url:
        current = "page"
    elif url != "/" and path.startswith(url):
        current = "true"
    return {"icon": icon, "url": url, "label": label, "current": current}
