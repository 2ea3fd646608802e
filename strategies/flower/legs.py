"""One leg of a conversation: push messages in a window, take replies as they come, mind the deadline.

Flower's ``send_and_receive`` keeps every reply until the last one and says nothing of the missing ones. Here each
reply is handed over once and dropped, a missing one is reported by name, and at most ``in_flight`` messages are
out at a time, which bounds what the server has to hold.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

POLL_SHARE = 1 / 20  # poll often enough to add at most this share to a leg's own duration
POLL_RANGE = (0.002, 0.2)  # seconds


def exchange(
    grid: Grid, messages: Sequence[Message], timeout: float, in_flight: int
) -> Iterator[tuple[int, Message | None]]:
    """Yield ``(index of the message, its reply)`` as replies arrive; ``None`` for one that missed its deadline.

    ``timeout`` is in seconds and counts from the moment a message was pushed.
    """
    queue = list(enumerate(messages))
    waiting: dict[str, tuple[int, float]] = {}
    started = last = time.monotonic()
    while queue or waiting:
        while queue and len(waiting) < in_flight:
            index, message = queue.pop(0)
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
