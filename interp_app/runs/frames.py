"""What goes over the socket, byte for byte: text frames (JSON) and the binary tile frame. Pure; no Django, no I/O.

A tile frame is a 32-byte little-endian header and then float32 values `[planes, nr, nc]`, row-major:

    u16 magic 0x4854 · u8 version 1 · u8 dtype (0 = float32) · u32 handle · u64 seq · u16 panel · u16 planes
    u16 r0 · u16 c0 · u16 nr · u16 nc · u32 flags (bit 0: snapshot, the whole panel)

Two kinds of not-a-number are told apart by their bits: 0x7FC00000 is a cell that is not computed yet, 0x7FC00001 a cell
whose value is not a number. A frame is encoded once a run; only the handle differs between subscriptions, so it
is patched in (`with_handle`).
"""

import json
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MAGIC: Final = 0x4854
VERSION: Final = 1
DTYPE_F32: Final = 0
FLAG_SNAPSHOT: Final = 1
HEADER: Final = struct.Struct("<HBBIQHHHHHHI")
HANDLE: Final = struct.Struct("<I")
HANDLE_OFFSET: Final = 4

COMPUTED_NAN: Final = 0x7FC00001

Words = NDArray[np.uint32]
"""Float32 values as their bits, so that no operation on the way loses a NaN's payload."""


def computed_words(values: NDArray[np.float32]) -> Words:
    """The bits of computed values: every NaN becomes `COMPUTED_NAN`, all else stays as it is."""
    words = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    nan = np.isnan(values)
    return np.where(nan, np.uint32(COMPUTED_NAN), words) if nan.any() else words


def no_words(planes: int) -> Words:
    """An empty rectangle."""
    return np.empty((planes, 0, 0), dtype=np.uint32)


def tile_frame(*, seq: int, panel: int, r0: int, c0: int, words: Words, flags: int = 0) -> bytes:
    """The binary frame of one rectangle `[planes, nr, nc]`, with handle 0."""
    planes, nr, nc = words.shape
    header = HEADER.pack(MAGIC, VERSION, DTYPE_F32, 0, seq, panel, planes, r0, c0, nr, nc, flags)
    return header + words.astype("<u4", copy=False).tobytes()


def panel_frame(*, seq: int, panel: int, words: Words) -> bytes:
    """The binary frame of a whole panel as it stands at `seq` (see `panels` for its unknown cells)."""
    return tile_frame(seq=seq, panel=panel, r0=0, c0=0, words=words, flags=FLAG_SNAPSHOT)


def with_handle(frame: bytes | str, handle: int) -> bytes | str:
    """The frame addressed to one subscription. A text frame is a JSON object with at least one member."""
    if isinstance(frame, str):
        return f'{{"handle":{handle},{frame[1:]}'
    return b"".join((frame[:HANDLE_OFFSET], HANDLE.pack(handle), frame[HANDLE_OFFSET + HANDLE.size :]))


def text(message: dict[str, Any]) -> str:
    """A text frame: compact ASCII JSON. Raises `ValueError` on NaN, which JSON does not have."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False, default=str)


def event_frame(*, seq: int, kind: str, at: str, data: dict[str, Any]) -> str:
    """An entry of the log that is not a tile."""
    return text({"type": "event", "seq": seq, "kind": kind, "at": at, "data": data})
