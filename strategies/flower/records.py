"""Records of messages, without torch: what every leg needs to read another side's words."""

from __future__ import annotations

from typing import TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from tasks.errors import ReplyError

FAILURE = "failure"
LONGEST = 600  # letters of a node's words
# Whatever a reply of another shape or type raises where it is read
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, IndexError)
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


def record(content: RecordDict, name: str, kind: type[R]) -> R:
    """A record of a message by name; raises ``KeyError`` if there is none of that kind.

    Flower's own ``content.config_records`` copies all records at every access, which costs more
    than a small round.
    """
    found = content[name]
    if not isinstance(found, kind):
        raise KeyError(name)
    return found


def content_of(reply: Message | None, timeout: float) -> RecordDict:
    """The content of a reply; raises :class:`ReplyError` if there is none, an error instead, or a
    node's own failure."""
    if reply is None:
        raise ReplyError(f"no answer within {timeout:g} s")
    if reply.has_error():
        raise ReplyError(error_of(reply))
    content_of_failure(reply.content)
    return reply.content


def error_of(reply: Message) -> str:
    """Flower's own error in a reply, as a line."""
    if reply.error.code == ErrorCode.INVALID_FAB:  # of `fedapp device`, or --trusted-entities
        return (
            "it runs no code but its own, and what was submitted differs (its log names the file): "
            "install the same version on both sides"
        )
    return plain(_last_line(reply.error.reason)) or f"Flower error code {reply.error.code}"


def content_of_failure(content: RecordDict) -> None:
    """Raise :class:`ReplyError` with a node's own words where it says that it failed."""
    if FAILURE not in content:
        return
    failure = content[FAILURE]
    reason = failure.get("reason", "") if isinstance(failure, ConfigRecord) else ""
    raise ReplyError(plain(str(reason)) or "it failed, and does not say why")


def plain(text: str) -> str:
    """A node's words as one line of limited length, without what a terminal would obey."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[: 4 * LONGEST])
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def bytes_of(content: RecordDict) -> int:
    """Bytes of all records of a message: serialised arrays, texts, numbers of 8, and keys.

    (Flower's own count of a ``ConfigRecord`` fails on an empty text or list.)
    """
    total = 0
    for part in content.values():
        if isinstance(part, ArrayRecord):
            total += part.count_bytes()
            continue
        for key, value in part.items():
            values = value if isinstance(value, list) else [value]
            total += len(key) + sum(
                len(each) if isinstance(each, str | bytes) else 8 for each in values
            )
    return int(total)


def _last_line(reason: str | None) -> str:
    """The line of a remote traceback that names the exception, after the place it happened."""
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    places = [line for line in lines if line.startswith("File ")]
    return f"{lines[-1]} ({places[-1]})" if places and lines else (lines[-1] if lines else "")
