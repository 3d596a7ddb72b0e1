"""The bytes of the socket: the layout that browsers read, and not-a-number in its two meanings."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from interp_app.runs import frames, panels

HEADER_BYTES = 32


def test_a_tile_frame_is_laid_out_as_documented() -> None:
    words = np.array([[[1.0, 2.0, 3.0]], [[-1.0, -2.0, -3.0]]], dtype=np.float32).view(np.uint32)
    frame = frames.with_handle(frames.tile_frame(seq=2**40, panel=7, r0=300, c0=65535, words=words), 0xDEADBEEF)
    assert isinstance(frame, bytes)
    assert frame[:4] == b"\x54\x48\x01\x00"
    assert struct.unpack_from("<I", frame, 4) == (0xDEADBEEF,)
    assert struct.unpack_from("<Q", frame, 8) == (2**40,)
    assert struct.unpack_from("<6HI", frame, 16) == (7, 2, 300, 65535, 1, 3, 0)
    assert struct.unpack_from("<6f", frame, HEADER_BYTES) == (1.0, 2.0, 3.0, -1.0, -2.0, -3.0)
    assert len(frame) == HEADER_BYTES + 6 * 4


def test_a_whole_panel_carries_the_snapshot_flag() -> None:
    words = np.full((1, 2, 2), panels.UNKNOWN, dtype=np.uint32)
    frame = frames.panel_frame(seq=5, panel=0, words=words)
    assert struct.unpack_from("<I", frame, 28) == (1,)
    assert struct.unpack_from("<4I", frame, HEADER_BYTES) == (0x7FC00000,) * 4


def test_the_two_meanings_of_nan_are_the_same_everywhere() -> None:
    assert int(panels.NOT_A_NUMBER) == frames.COMPUTED_NAN == 0x7FC00001
    assert int(panels.UNKNOWN) == 0x7FC00000


@given(arrays.arrays(np.uint32, (2, 3, 4), elements=st.integers(0, 2**32 - 1)))
def test_computed_words_keep_every_bit_but_those_of_nan(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    words = frames.computed_words(values)
    nan = np.isnan(values)
    assert np.array_equal(words[~nan], bits[~nan])
    assert (words[nan] == 0x7FC00001).all()


@given(st.integers(0, 2**32 - 1), st.text())
def test_the_handle_changes_nothing_else(handle: int, word: str) -> None:
    text = frames.text({"type": "event", "data": {"message": word}})
    assert json.loads(frames.with_handle(text, handle)) == {
        "handle": handle,
        "type": "event",
        "data": {"message": word},
    }
    words = np.zeros((1, 1, 1), dtype=np.uint32)
    tile = frames.tile_frame(seq=1, panel=2, r0=3, c0=4, words=words)
    addressed = frames.with_handle(tile, handle)
    assert isinstance(addressed, bytes)
    assert addressed[:4] + addressed[8:] == tile[:4] + tile[8:]


def test_half_a_surrogate_pair_can_be_sent() -> None:
    assert frames.text({"token": "\ud83d"}).encode() == b'{"token":"\\ud83d"}'


def test_json_without_nan_is_kept_to() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        frames.text({"value": float("nan")})
