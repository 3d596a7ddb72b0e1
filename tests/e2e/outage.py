"""A line between browser and server that can be cut: a TCP relay whose connections drop, and come back later.

A browser's own offline switch leaves open sockets alone; a cut line does not.
"""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator
from typing import Final

CHUNK: Final = 65536


class Line:
    """Relays every connection to `target` until `cut`, and refuses new ones until `mend`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_cut = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Drop every connection; new ones are dropped as they come."""
        self._is_cut.set()
        with self._lock:
            for end in self._open:
                _drop(end)
            self._open.clear()

    def mend(self) -> None:
        self._is_cut.clear()

    def end(self) -> None:
        self._ended.set()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut.is_set():
                _drop(near)
                continue
            threading.Thread(target=self._relay, args=(near,), daemon=True).start()

    def _relay(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._target)
        except OSError:
            _drop(near)
            return
        with self._lock:
            self._open |= {near, far}
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(CHUNK)  # type: ignore[union-attr]
                    if not data:
                        raise ValueError("one end closed")
                    key.data.sendall(data)
        with self._lock:
            self._open -= {near, far}
        _drop(near)
        _drop(far)


def _drop(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextlib.contextmanager
def line_to(host: str, port: int) -> Iterator[Line]:
    """A line that ends with the block."""
    line = Line((host, port))
    try:
        yield line
    finally:
        line.end()
