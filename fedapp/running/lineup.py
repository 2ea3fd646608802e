"""Inputs of a workflow's server half, and the arms it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedapp.config.pieces import Pieces
from fedapp.running.protection import Protection
from fedapp.store.runfolder import RunFolder
from strategies.flower.workflow import Judged, Workflow


@dataclass
class Run:
    """A run as its workflow sees it.

    Attributes:
        pieces: what the configuration names.
        folder: where the run lives.
        protection: ledger, keys and draws of a private release; inert under a plain one.
        fingerprint: of the code that is running; nodes with other code refuse.
        root: where that code is, for the refusal's text.
        pins: config values the server found out and nodes must agree with.
        session: name of this server process.
    """

    pieces: Pieces
    folder: RunFolder
    protection: Protection
    fingerprint: str
    root: str
    session: str
    pins: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineup:
    """The arms of a run, in the order they take their turns.

    ``baselines`` are evaluated once, before the first turn.
    """

    arms: list[Workflow]
    baselines: list[Judged]
