"""What a viewer of a live run knows. Nothing of Django here: it is the other end of the line.

The replica reads frames by the published layout with code of its own, and fails on the first gap or unknown byte.
"""

import json
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

UNKNOWN: Final = 0x7FC00000
HEADER: Final = struct.Struct("<HBBIQHHHHHHI")
Words = NDArray[np.uint32]


class Replica:
    """A viewer's picture of one run, from whatever its socket receives. `seq` is what it knows without gaps."""

    def __init__(self, since: int = 0) -> None:
        self.seq = since
        self.panels: dict[int, Words] = {}
        self.events: list[dict[str, Any]] = []
        self.run: dict[str, Any] = {}
        self.modes: list[str] = []
        self.snapshots = 0
        self.handle = 0
        self.errors: list[dict[str, Any]] = []
        self._awaited: tuple[int, set[int]] | None = None

    def receive(self, frame: str | bytes) -> None:
        """Apply one frame."""
        if isinstance(frame, bytes):
            self._binary(frame)
            return
        message = json.loads(frame)
        match message["type"]:
            case "subscribed":
                self.handle = message["handle"]
                self.modes.append(message["mode"])
                self._awaited = None
            case "run":
                self.run = message["run"]
            case "event":
                assert message["handle"] == self.handle
                if self._next(message["seq"]):
                    self.events.append(message)
                    if message["kind"] == "panel":
                        self._open(message["data"])
            case "snapshot":
                self.snapshots += 1
                self.panels = {}
                for panel in message["panels"]:
                    self._open(panel)
                self._awaited = (message["seq"], set(self.panels))
                self._settle()
            case "error":
                self.errors.append(message)
            case other:
                assert other in ("hello", "pong"), other

    def _binary(self, frame: bytes) -> None:
        magic, version, dtype, handle, seq, panel, planes, r0, c0, nr, nc, flags = HEADER.unpack_from(frame)
        assert (magic, version, dtype, handle) == (0x4854, 1, 0, self.handle)
        words = np.frombuffer(frame, dtype="<u4", offset=HEADER.size).reshape(planes, nr, nc)
        if flags & 1:
            assert self._awaited is not None
            assert self._awaited[0] == seq
            self.panels[panel][...] = words
            self._awaited[1].discard(panel)
            self._settle()
        elif self._next(seq):
            self.panels[panel][:, r0 : r0 + nr, c0 : c0 + nc] = words

    def _next(self, seq: int) -> bool:
        assert self._awaited is None, f"event {seq} came in the middle of a snapshot"
        if seq <= self.seq:
            return False
        assert seq == self.seq + 1, f"a gap: {seq} after {self.seq}"
        self.seq = seq
        return True

    def _settle(self) -> None:
        if self._awaited is not None and not self._awaited[1]:
            assert self._awaited[0] >= self.seq, "a snapshot older than what was known"
            self.seq = self._awaited[0]
            self._awaited = None

    def _open(self, payload: dict[str, Any]) -> None:
        shape = (len(payload["quantities"]), len(payload["rows"]["ticks"]), len(payload["columns"]["ticks"]))
        self.panels.setdefault(payload["index"], np.full(shape, UNKNOWN, dtype=np.uint32))


def assert_same(seen: dict[int, Words], expected: dict[int, Words]) -> None:
    """Bit for bit, unknown cells included."""
    assert seen.keys() == expected.keys()
    for index, words in expected.items():
        assert np.array_equal(seen[index], words), f"panel {index} differs in {(seen[index] != words).sum()} cells"
