"""One leg of a conversation: push messages in a window, take replies as they come, mind the
deadline.

Flower's ``send_and_receive`` keeps every reply until the last one and says nothing of the missing
ones. Here each reply is handed over once and dropped, a missing one is reported by name, and at
most ``in_flight`` messages are out at a time, which bounds what the server has to hold.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

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
