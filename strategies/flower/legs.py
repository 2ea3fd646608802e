"""One leg of a conversation: push messages in a window, take replies as they come, mind the
deadline.

Flower's ``send_and_receive`` keeps every reply until the last one and says nothing of the missing
ones. Here each reply is handed over once and dropped, a missing one is reported by name, and at
most ``in_flight`` messages are out at a time, which bounds what the server has to hold.
:func:`exchange` is a leg with a barrier at its end; :func:`converse` holds several conversations at
once, each at its own pace.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import TypeAlias, TypeVar

from flwr.app import Message
from flwr.serverapp import Grid

AHEAD = 4
POLL_SHARE = 1 / 20  # poll often enough to add at most this share to a leg's own duration
POLL_RANGE = (0.002, 0.2)  # seconds


def lifetime(timeout: float, messages: int, in_flight: int) -> float:
    """Seconds for which the messages of a leg and their replies are good.

    Flower counts from a message's creation, and the last one waits until the windows before it are
    through.
    """
    return timeout * -(-max(messages, 1) // in_flight)


def exchange(
    grid: Grid, messages: Sequence[Message], timeout: float, in_flight: int
) -> Iterator[tuple[int, Message | None]]:
    """Yield ``(index of the message, its reply)`` as replies arrive; ``None`` for one that missed
    its deadline.

    ``timeout`` is in seconds and counts from the moment a message was pushed. No message is pushed
    that is further than ``AHEAD`` windows from the oldest one out: what is kept in order meanwhile
    stays bounded. A grid that works while it is asked for replies (``serial``) is given one message
    at a time, or the second one's time would run with the first.
    """
    queue = deque(enumerate(messages))
    waiting: dict[str, tuple[int, float]] = {}
    started = last = time.monotonic()
    window = 1 if getattr(grid, "serial", False) else in_flight
    while queue or waiting:
        oldest = min((index for index, _ in waiting.values()), default=queue[0][0] if queue else 0)
        while queue and len(waiting) < window and queue[0][0] < oldest + AHEAD * window:
            index, message = queue.popleft()
            identifiers = [identifier for identifier in grid.push_messages([message]) if identifier]
            if not identifiers:
                yield index, None
                continue
            waiting[identifiers[0]] = (index, time.monotonic() + timeout)
        replies = list(grid.pull_messages(list(waiting))) if waiting else []
        for reply in replies:
            entry = waiting.pop(reply.metadata.reply_to_message_id, None)
            if entry is not None:
                yield entry[0], reply
        now = time.monotonic()
        for identifier in [key for key, (_, deadline) in waiting.items() if now > deadline]:
            yield waiting.pop(identifier)[0], None
        if replies:
            last = now
        elif waiting:
            low, high = POLL_RANGE
            time.sleep(min(max((now - max(started, last)) * POLL_SHARE, low), high))


T = TypeVar("T")
Part: TypeAlias = Generator[Message, Message | None, T]  # yields messages, is sent their replies
Talk: TypeAlias = Generator[Message, Message | None, None]


def converse(grid: Grid, talks: Sequence[Talk], timeout: float, in_flight: int) -> None:
    """Hold a conversation with each of several partners at once.

    While one partner computes, the server answers another: what it does between two messages of a
    talk hides behind the others' work (a single talk cannot overlap with itself). Replies are taken
    in the order in which they come; talks share no state, so the order changes no result.

    Args:
        grid: of the nodes.
        talks: each yields its next message when it is sent the reply to the one before (``None``:
            it missed its deadline), and ends when it has nothing more to say.
        timeout: seconds that a partner has for one message, from when it was pushed.
        in_flight: messages out at a time.
    """
    ready: deque[tuple[Talk, Message | None]] = deque((talk, None) for talk in talks)
    waiting: dict[str, tuple[Talk, float]] = {}
    window = 1 if getattr(grid, "serial", False) else in_flight
    quiet = time.monotonic()
    while ready or waiting:
        while ready and len(waiting) < window:
            talk, reply = ready.popleft()
            try:
                message = talk.send(reply)
            except StopIteration:
                continue
            identifiers = [found for found in grid.push_messages([message]) if found]
            if identifiers:
                waiting[identifiers[0]] = (talk, time.monotonic() + timeout)
            else:
                ready.append((talk, None))
        found = list(grid.pull_messages(list(waiting))) if waiting else []
        for answer in found:
            entry = waiting.pop(answer.metadata.reply_to_message_id, None)
            if entry is not None:
                ready.append((entry[0], answer))
        now = time.monotonic()
        for identifier in [key for key, (_, deadline) in waiting.items() if now > deadline]:
            ready.append((waiting.pop(identifier)[0], None))
        if found:
            quiet = now
        elif waiting and not ready:
            low, high = POLL_RANGE
            time.sleep(min(max((now - quiet) * POLL_SHARE, low), high))
