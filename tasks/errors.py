"""Every error the project raises on purpose.

FedappError                  base; a fault of ours unless a subclass says otherwise (exit status 1)
├── InputError               config, data, files or arguments are wrong (exit status 2)
├── StoppedError             a run ended early for a stated reason (exit status 3)
├── EmptySumError            nobody added anything to a masked sum; the round is skipped
└── ReplyError               one client's answer cannot be used; the round goes on without it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

MOST_SHOWN = 20  # faults that one error lists


class FedappError(Exception):
    """Base of all deliberate errors. ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class InputError(FedappError):
    """Bad input: names the key (or file), the value, the reason and the remedy, in that order."""

    exit_code = 2

    def __init__(self, key: str, value: object, reason: str, remedy: str = "") -> None:
        self.key = key
        self.value = value
        self.reason = reason
        self.remedy = remedy
        super().__init__(f"{key} = {value!r}: {reason}" + (f"\n  → {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, object, str, str]]:
        """From one process to another it goes by its four parts, not by its text."""
        return type(self), (self.key, self.value, self.reason, self.remedy)


def together(errors: Sequence[InputError]) -> InputError:
    """One error of several, so that a person mends all of them before the next start; one alone is
    itself."""
    if len(errors) == 1:
        return errors[0]
    shown = [f"{one.value}: {one.reason}" for one in errors[:MOST_SHOWN]]
    more = len(errors) - len(shown)
    listed = "".join(f"\n  {line}" for line in [*shown, *([f"and {more} more"] if more else [])])
    remedies = "; ".join(dict.fromkeys(one.remedy for one in errors if one.remedy))
    return InputError(errors[0].key, f"{len(errors)} faults", f"all of them:{listed}", remedies)


class StoppedError(FedappError):
    """The run stopped before its last round; everything computed so far is on disk."""

    exit_code = 3


class UnusableDataError(FedappError):
    """A client's own data cannot be used: it is left out, the others go on."""


class EmptySumError(FedappError):
    """A masked sum of nothing but zeros: there is no mean, and the model stays."""


class ReplyError(FedappError):
    """A reply that must be left out of the round, with the reason a person can act on."""


def nearest(name: str, choices: Iterable[str]) -> str:
    """A remedy sentence: the closest valid choice, or the list of all of them."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(choices)}"
