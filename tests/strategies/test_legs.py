"""Windows of a leg: how many messages are out, and how far the last one is ahead of the first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error, Message, RecordDict

from sim.inprocess import server_identity
from strategies.flower.legs import exchange
from strategies.flower.rounds import content_of
from tasks.errors import ReplyError


class Counting:
    """Answers everything but message ``silent`` at the next pull."""

    def __init__(self, silent: int = -1, serial: bool = False) -> None:
        self.silent = silent
        self.serial = serial
        self.out: set[int] = set()
        self.most = 0
        self.furthest = 0

    def push_messages(self, messages: list[int]) -> list[str]:
        self.out |= set(messages)
        self.most = max(self.most, len(self.out))
        self.furthest = max(messages)
        return [str(messages[0])]

    def pull_messages(self, identifiers: list[str]) -> list[Any]:
        ready = [name for name in identifiers if int(name) != self.silent]
        self.out -= {int(name) for name in ready}
        return [SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=n)) for n in ready]


@pytest.mark.parametrize(("serial", "most"), [(False, 5), (True, 1)])
def test_a_grid_that_works_while_it_is_asked_gets_one_message_at_a_time(
    serial: bool, most: int
) -> None:
    grid = Counting(serial=serial)
    order = [index for index, _ in exchange(grid, list(range(12)), 5.0, 5)]  # type: ignore[arg-type]
    assert order == list(range(12)) and grid.most == most


def test_a_straggler_holds_up_nobody_within_four_windows() -> None:
    """Window 3, message 0 never answers: up to message 11 all are sent before it is given up."""
    grid, before = Counting(silent=0), []
    for index, reply in exchange(grid, list(range(40)), 0.3, 3):  # type: ignore[arg-type]
        if reply is None:
            assert index == 0 and grid.furthest == 11
            break
        before.append(index)
    assert before == list(range(1, 12))


# ---------------------------------------------------------------- what a reply says
def replied(content: RecordDict | Error) -> Message:
    with server_identity(1):
        return Message(content, reply_to=Message(RecordDict({}), 1000, "query.test"))


def test_an_error_is_told_in_its_last_line_with_the_innermost_place() -> None:
    trace = (
        'Traceback (most recent call last):\n  File "/outer.py", line 3, in call\n    run()\n'
        '  File "/inner.py", line 7, in run\n    raise ValueError("no")\nValueError: no\n\n'
    )
    for reason, told in (
        (trace, r'ValueError: no \(File "/inner.py", line 7, in run\)'),
        ("first\nlast\n", "last"),
        ("", "Flower error code 2"),
    ):
        with pytest.raises(ReplyError, match=f"^{told}$"):
            content_of(replied(Error(2, reason)), 5.0)


def test_silence_is_told_apart_and_a_reply_is_what_it_says() -> None:
    with pytest.raises(ReplyError, match=r"^no answer within 2.5 s$"):
        content_of(None, 2.5)
    assert content_of(replied(RecordDict({})), 5.0) == RecordDict({})
