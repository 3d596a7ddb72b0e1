"""What goes over the socket, byte for byte: text frames (JSON) and the binary tile frame. Pure; no Django, no I/O.

A tile frame is a 32-byte little-endian header and then float32 values `[planes, nr, nc]`, row-major:

    u16 magic 0x4854 · u8 version 1 · u8 dtype (0 = float32) · u32 handle · u64 seq · u16 panel · u16 planes
    u16 r0 · u16 c0 · u16 nr · u16 nc · u32 flags (bit 0: snapshot, the whole panel)

Two kinds of not-a-number are told apart by their bits: `UNKNOWN` is a cell that is not computed yet, `COMPUTED_NAN` is
a cell whose value is not a number. A frame is encoded once a run; only the handle differs between subscriptions, so it
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

UNKNOWN: Final = 0x7FC00000
COMPUTED_NAN: Final = 0x7FC00001

Values = NDArray[np.float32]


def unknown_panel(planes: int, rows: int, columns: int) -> Values:
    """A panel `[planes, rows, columns]` in which nothing is computed yet."""
    return np.full((planes, rows, columns), UNKNOWN, dtype="<u4").view("<f4")


def mark_computed(values: Values) -> Values:
    """`values` with every NaN, whatever its bits, turned into `COMPUTED_NAN`; other bits stay as they are."""
    nan = np.isnan(values)
    if not nan.any():
        return values
    bits = values.astype("<f4", copy=True).view("<u4")
    bits[nan] = COMPUTED_NAN
    return bits.view("<f4")


def tile_values(blob: bytes, *, planes: int, nr: int, nc: int) -> Values:
    """The stored bytes of a tile as `[planes, nr, nc]`. Raises `ValueError` where the size does not fit."""
    return np.frombuffer(blob, dtype="<f4").reshape(planes, nr, nc)


def tile_frame(*, seq: int, panel: int, r0: int, c0: int, values: Values, flags: int = 0) -> bytes:
    """The binary frame of one rectangle `[planes, nr, nc]`, with handle 0."""
    planes, nr, nc = values.shape
    header = HEADER.pack(MAGIC, VERSION, DTYPE_F32, 0, seq, panel, planes, r0, c0, nr, nc, flags)
    return header + np.ascontiguousarray(values, dtype="<f4").tobytes()


def panel_frame(*, seq: int, panel: int, values: Values) -> bytes:
    """The binary frame of a whole panel as it stands at `seq`: unknown cells are `UNKNOWN`."""
    return tile_frame(seq=seq, panel=panel, r0=0, c0=0, values=values, flags=FLAG_SNAPSHOT)


def with_handle(frame: bytes | str, handle: int) -> bytes | str:
    """The frame addressed to one subscription. Text frames come from `addressed`."""
    if isinstance(frame, str):
        return f'{{"handle":{handle},{frame[1:]}'
    return b"".join((frame[:HANDLE_OFFSET], HANDLE.pack(handle), frame[HANDLE_OFFSET + HANDLE.size :]))


def text(message: dict[str, Any]) -> str:
    """A text frame: compact ASCII JSON. Raises `ValueError` on NaN, which JSON does not have."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False, default=str)


def addressed(message: dict[str, Any]) -> str:
    """A text frame without its handle, ready for `with_handle`. `message` is never empty: it has a type."""
    return text(message)


def event_frame(*, seq: int, kind: str, at: str, data: dict[str, Any]) -> str:
    """An entry of the log that is not a tile."""
    return addressed({"type": "event", "seq": seq, "kind": kind, "at": at, "data": data})
