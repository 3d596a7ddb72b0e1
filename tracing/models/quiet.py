"""`QUIET`: transformers' progress bars left out while a folder is loaded, and as they were after it."""

from collections.abc import Callable
from threading import Lock
from typing import Any, Final

from transformers.utils import logging


class Quiet:
    """A block in which transformers shows no progress bar. Threads may be in it together; the last puts back."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._before: Callable[..., Any] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = logging.set_tqdm_hook(_disabled)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                logging.set_tqdm_hook(self._before)


def _disabled(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return factory(*args, **{**kwargs, "disable": True})


QUIET: Final = Quiet()
