"""How things are filed: checks of titles and visibilities that every app makes alike."""

from interp_app.core.errors import ServiceError
from interp_app.core.visibility import Visibility


def title(text: str, *, at_most: int, required: bool = True) -> str:
    """The title without spaces around it. Raises `ServiceError` where it is too long, or empty but required."""
    text = text.strip()
    message = ""
    if required and not text:
        message = "The title is empty."
    elif len(text) > at_most:
        message = f"The title is longer than {at_most} characters."
    elif "\x00" in text:
        message = "The title has a zero byte."
    if message:
        raise ServiceError("title_invalid", message, fields={"title": [message]})
    return text


def visibility(value: str) -> str:
    """A value of `Visibility`. Raises `ServiceError`."""
    if value not in Visibility.values:
        message = f"{value!r} is no visibility: use private, lab or public."
        raise ServiceError("visibility_invalid", message, fields={"visibility": [message]})
    return value
