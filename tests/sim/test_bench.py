"""What a benchmark's row says: how many times better ours is."""

from __future__ import annotations

from sim.bench import limit, missed, row


def test_a_ratio_above_one_is_better_than_the_reference() -> None:
    """Seconds or bytes: two of ours against six of theirs is three times better, and six against
    two a third."""
    better, worse = row("a", "s", 2.0, 6.0, 1.0), row("b", "s", 6.0, 2.0, 1.0)
    assert (better["ratio"], worse["ratio"]) == (3.0, 2.0 / 6.0)
    assert row("c", "s", 2.0, None, None)["ratio"] is None
    within, beyond = limit("d", "MB", 5.0, 10.0), limit("e", "MB", 20.0, 10.0)
    assert (within["ratio"], beyond["ratio"]) == (2.0, 0.5)
    assert missed([better, worse, within, beyond]) == [worse, beyond]
