"""Tags and filters of the pages: icons, statuses, numbers and times as people read them. None of them makes markup."""

import math
from datetime import datetime
from typing import Any

from django import template
from django.template.loader import get_template
from django.utils import timezone
from django.utils.timesince import timesince

from interp_app.runs.shapes import HIDDEN_PROMPTS, audience
from interp_app.web.tokens import Piece, pieces

register = template.Library()
ICON_OF_LEVEL = {"debug": "info", "info": "info", "success": "success", "warning": "warning", "error": "error"}
WORDS = {
    "queued": "Queued",
    "running": "Running",
    "cancelling": "Cancelling",
    "succeeded": "Succeeded",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "online": "Online",
    "offline": "Offline",
    "warm": "Warm",
    "cold": "Cold",
    "aligned": "Aligned",
    "misaligned": "Problem",
}


@register.simple_tag
def icon(name: str, prefix: str = "") -> str:
    """The SVG of `templates/icons/<prefix><name>.svg`; message levels map to their icon."""
    name = ICON_OF_LEVEL.get(name, name) if not prefix else name
    rendered: str = get_template(f"icons/{prefix}{name}.svg").render({})
    return rendered


@register.inclusion_tag("parts/status.html")
def status(name: str, word: str = "") -> dict[str, str]:
    """A status as icon, word and colour."""
    return {"name": name, "word": word or WORDS.get(name, name.capitalize()), "icon": f"icons/status-{name}.svg"}


@register.filter
def prompts_title(run: Any, viewer: Any) -> str:
    """The title of the prompt set a run is on, for whoever may see that."""
    return str(run.prompts.prompt_set.title) if audience(run, viewer).prompts else HIDDEN_PROMPTS


@register.inclusion_tag("parts/token.html")
def token(chip: Any) -> dict[str, Any]:
    """One token of a prompt."""
    return {"chip": chip}


@register.inclusion_tag("parts/word.html")
def word(text: str, id_: int | None = None) -> dict[str, Any]:
    """An answer or a foil as a token with its id."""
    return {"pieces": pieces(text) or (Piece("empty", glyph=True),), "id": id_, "text": text}


@register.simple_tag(takes_context=True)
def query(context: Any, **changes: Any) -> str:
    """The page's query string with some parameters changed; None removes one."""
    found = context["request"].GET.copy()
    for name, changed in changes.items():
        if changed is None:
            found.pop(name, None)
        else:
            found[name] = str(changed)
    encoded: str = found.urlencode()
    return encoded


@register.filter
def run_state(run: Any) -> str:
    """The status shown for a run: `cancelling` while a running run was asked to stop."""
    if run.status == "running" and run.cancel_requested_at is not None:
        return "cancelling"
    return str(run.status)


@register.filter
def size(value: Any) -> str:
    """Bytes with a binary unit."""
    amount = float(value or 0)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    return ""


@register.filter
def count(value: Any) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{int(value or 0):,}".replace(",", "\u2009")


@register.filter
def amount(value: Any) -> str:
    """A large number, short: 124 M, 1.3 B."""
    number = float(value or 0)
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {unit}"
    return f"{number:.0f}"


@register.filter
def flops(value: Any) -> str:
    """Floating-point operations with SI prefixes: 4.2 GFLOP."""
    number = float(value or 0)
    for limit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= limit:
            return f"{number / limit:.3g} {prefix}FLOP"
    return f"{number:.3g} FLOP"


@register.filter
def value(number: Any) -> str:
    """A measured number with three significant digits and a true minus sign."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return str(number)
    if math.isnan(number):
        return "not a number"
    shown = f"{number:.3g}" if isinstance(number, float) else str(number)
    return shown.replace("-", "\u2212")


@register.filter
def summary(found: Any) -> str:
    """A summary's value in one line: numbers rounded, `{"clean": 4.2, …}` as `clean 4.20, …`, names in order."""
    if isinstance(found, dict):
        return ", ".join(f"{name} {summary(inner)}" for name, inner in found.items() if name != "site")
    if isinstance(found, list | tuple):
        return ", ".join(summary(inner) for inner in found)
    return "".join(piece.text for piece in pieces(found)) if isinstance(found, str) else value(found)


@register.filter
def duration(seconds: Any) -> str:
    """Seconds as `under 1 s`, `4.2 s`, `42 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return ""
    total = float(seconds)
    if total < 1:
        return "under 1 s"
    if total < 10:
        return f"{total:.1f} s"
    if total < 60:
        return f"{total:.0f} s"
    minutes, rest = divmod(round(total), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@register.filter
def about(seconds: Any) -> str:
    """An estimate: `about 42 s`, or `under 1 s`."""
    text = duration(seconds)
    return text if not text or text.startswith("under") else f"about {text}"


@register.filter
def ago(moment: datetime | None) -> str:
    """How long ago, in the largest unit: `3 minutes ago`."""
    if moment is None:
        return "never"
    if (timezone.now() - moment).total_seconds() < 60:
        return "just now"
    return f"{timesince(moment, depth=1)} ago".replace("\xa0", " ")


@register.filter
def heartbeat_age(moment: datetime) -> str:
    """The age of a heartbeat, in seconds while it is young."""
    seconds = (timezone.now() - moment).total_seconds()
    return f"{max(seconds, 0):.0f} s ago" if seconds < 120 else ago(moment)


@register.filter
def spent(run: Any) -> str:
    """How long a run computed, or has been computing."""
    if run.started_at is None:
        return ""
    end = run.finished_at or timezone.now()
    return duration(max((end - run.started_at).total_seconds(), 0))
