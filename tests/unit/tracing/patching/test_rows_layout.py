"""How rows are laid side by side: every token once, seeing exactly its own row and the positions before it."""

import pytest
import torch

from tracing.patching.layout import packed, whole

TOKEN, KEY = 14e6, 3072.0
"""What a token and a key cost in GPT-2 small."""

STARTS = [(0,), (4,), tuple(range(8)), (3,) * 5, (0, 7, 7, 2, 5, 5, 1), (7,) * 3, tuple(range(8)) * 4]


@pytest.mark.parametrize("starts", STARTS, ids=str)
def test_every_row_has_each_of_its_positions_once(starts: tuple[int, ...]) -> None:
    layout = packed(starts, 7, TOKEN, KEY, 4096)
    for row, start in enumerate(starts):
        assert layout.positions[layout.rows == row].tolist() == list(range(start, 8))
        assert (int(layout.rows[layout.answers[row]]), int(layout.positions[layout.answers[row]])) == (row, 7)


@pytest.mark.parametrize("starts", STARTS, ids=str)
def test_a_place_sees_the_prefix_of_its_row_and_the_row_itself(starts: tuple[int, ...]) -> None:
    layout = packed(starts, 7, TOKEN, KEY, 4096)
    for place, (row, position) in enumerate(zip(layout.rows.tolist(), layout.positions.tolist(), strict=True)):
        number, inside = divmod(place, layout.width)
        seen = layout.seen[number, inside].nonzero()[:, 0].tolist()
        before = [key for key in seen if key < layout.prefix]
        own = [number * layout.width + key - layout.prefix for key in seen if key >= layout.prefix]
        if row < 0:
            assert (before, own) == ([], [place])
            continue
        assert all(int(layout.rows[one]) == row for one in own)
        assert before + [int(layout.positions[one]) for one in own] == list(range(position + 1))


@pytest.mark.parametrize("tokens", [2, 5, 16, 33, 64])
def test_the_rows_of_a_position_map_leave_no_gap(tokens: int) -> None:
    layout = packed(tuple(range(tokens)), tokens - 1, TOKEN, KEY, 4096)
    assert len(layout.rows) == tokens * (tokens + 1) // 2


def test_rows_of_equal_length_are_sequences_of_their_own() -> None:
    layout = packed((3,) * 12, 15, TOKEN, KEY, 4096)
    assert (layout.bins, layout.width, layout.prefix) == (12, 13, 3)


def test_patched_places_are_those_of_the_rows_and_positions() -> None:
    layout = packed((2, 0, 5), 7, TOKEN, KEY, 4096)
    patched = torch.zeros(3, 8, dtype=torch.bool)
    patched[0, 2] = patched[0, 6] = patched[2, 5] = True
    places = layout.places(patched)
    found = list(zip(layout.rows[places].tolist(), layout.positions[places].tolist(), strict=True))
    assert sorted(found) == [(0, 2), (0, 6), (2, 5)]


def test_whole_rows_keep_every_position() -> None:
    layout = whole(3, 5, 2)
    assert layout.answers.tolist() == [2, 7, 12]
    assert (layout.bins, layout.width, layout.prefix) == (3, 5, 0)
