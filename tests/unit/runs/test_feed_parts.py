"""The bounded ring of a feed and the acknowledgement window of a viewer."""

import pytest

from interp_app.runs import feed, subscriptions
from interp_app.runs.feed import Ring
from interp_app.runs.feed_reads import Entry
from interp_app.runs.subscriptions import WINDOW_BYTES, Window


def entries(first: int, last: int, size: int = 10) -> list[Entry]:
    return [Entry(seq, "x" * size) for seq in range(first, last + 1)]


def test_a_ring_gives_what_follows_a_number() -> None:
    ring = Ring(100)
    ring.extend(entries(101, 110))
    assert [entry.seq for entry in ring.after(105, 3)] == [106, 107, 108]
    assert ring.after(110, 3) == []


def test_a_ring_refuses_a_gap() -> None:
    ring = Ring(5)
    with pytest.raises(ValueError, match="gap after 5"):
        ring.extend(entries(7, 8))


def test_a_ring_forgets_the_oldest_beyond_its_count() -> None:
    ring = Ring(0)
    for first in range(1, 3001, 500):
        ring.extend(entries(first, first + 499))
    assert (ring.base, ring.last) == (3000 - feed.RING_EVENTS, 3000)
    assert ring.after(ring.base, 1)[0].seq == ring.base + 1


def test_a_ring_forgets_the_oldest_beyond_its_bytes() -> None:
    ring = Ring(0)
    ring.extend(entries(1, 20, size=feed.RING_BYTES // 10))
    assert (ring.base, ring.last) == (10, 20)


def test_older_entries_are_put_in_front_while_there_is_room() -> None:
    ring = Ring(100)
    ring.extend(entries(101, 110))
    ring.prepend(entries(51, 100))
    assert ring.base == 50
    ring.prepend(entries(1, 50, size=feed.RING_BYTES))
    assert ring.base == 50


def test_older_entries_that_do_not_fit_together_are_left_out() -> None:
    ring = Ring(100)
    ring.prepend(entries(41, 90))
    assert ring.base == 100


def test_a_window_is_full_at_a_megabyte_and_opens_with_an_acknowledgement() -> None:
    window = Window()
    for seq in range(1, 5):
        assert window.admits(WINDOW_BYTES // 4)
        window.sent(seq, WINDOW_BYTES // 4)
    assert not window.admits(1)
    window.acknowledge(2)
    assert window.unacked_bytes == WINDOW_BYTES // 2
    assert window.admits(WINDOW_BYTES // 2)


def test_a_frame_larger_than_the_window_goes_alone() -> None:
    window = Window()
    assert window.admits(3 * WINDOW_BYTES)
    window.sent(1, 3 * WINDOW_BYTES)
    assert not window.admits(1)
    window.acknowledge(1)
    assert window.admits(1)


def test_a_message_with_an_acknowledged_number_takes_no_room() -> None:
    window = Window()
    window.sent(1, 10)
    window.acknowledge(1)
    window.sent(1, 10)
    assert window.unacked_bytes == 0


def test_an_acknowledgement_of_the_past_changes_nothing() -> None:
    window = Window()
    window.sent(5, 10)
    window.acknowledge(3)
    assert window.unacked_bytes == 10
    assert subscriptions.BATCH_EVENTS < feed.RING_EVENTS
