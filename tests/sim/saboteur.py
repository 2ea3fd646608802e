"""A task and a learner for secure rounds whose right answer is known, in which chosen node
processes are killed.

Not a test module: ``test_secure_on_ray.py`` names it in a config, so it is imported wherever
clients are.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from privacy.secagg.client import SecAggClient
from sim.bench.toy import ToyTask
from strategies.learner import WholeFit
from strategies.rule import Rule
from strategies.settings import LearnerSettings
from strategies.types import Broadcast, LocalResult, Memory
from tasks.randomness import Key

LEGS = ("share", "mask", "confirm", "unmask")  # killed in rounds 1, 2, 3, 4


class Known(NamedTuple):
    """Client that knows its number."""

    client: int
    name: str = "known"
    examples: int = 1


class KnownTask(ToyTask):
    """Clients whose update is known; nothing to evaluate."""

    def client_data(self, client: int) -> Known:  # type: ignore[override]
        return Known(client)


def known_update(client: int, size: int) -> Tensor:
    """Norm 0.5, different for each client."""
    pattern = torch.sin(torch.arange(size, dtype=torch.float64) * (client + 1) * 0.37)
    return (pattern / pattern.norm() * 0.5).float()


class KnownUpdate(WholeFit):
    """A :class:`strategies.types.WholeFit` that returns :func:`known_update`."""

    inner_steps = 0

    def __init__(self, settings: LearnerSettings) -> None:
        self.settings = settings

    def fit(
        self,
        task: ToyTask,
        rule: Rule,
        received: Broadcast,
        cohort: Sequence[Known],
        memory: Memory,
        keys: Sequence[Key],
        settings: LearnerSettings,
    ) -> LocalResult:
        delta = torch.stack([known_update(data.client, received.model.numel()) for data in cohort])
        return LocalResult(delta, torch.ones(len(cohort)), 1.0, torch.ones(len(cohort)))


def victims(round: int) -> tuple[int, ...]:
    """Two nodes in each of the first four rounds."""
    return (2 * (round - 1), 2 * (round - 1) + 1) if 1 <= round <= len(LEGS) else ()


def sabotage(graves: Path) -> None:
    """Kill the process of a victim when it reaches its leg; a repeated message finds the node dead
    as well."""
    for number, leg in enumerate(LEGS, start=1):
        setattr(SecAggClient, leg, _deadly(getattr(SecAggClient, leg), number, graves))


def _deadly(method: Callable[..., Any], number: int, graves: Path) -> Callable[..., Any]:
    def wrapped(self: SecAggClient, *arguments: Any, **named: Mapping[str, Any]) -> Any:
        if method.__name__ == "share":
            round = arguments[0].number
        else:
            with self.vault.open() as state:
                round = state["latest"][1]
        if round == number and self.member in victims(round):
            grave = graves / f"{method.__name__}-{round}-{self.member}"
            if not grave.exists():
                grave.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("this node is dead")
        return method(self, *arguments, **named)

    return wrapped


if "FEDAPP_TEST_GRAVES" in os.environ:
    sabotage(Path(os.environ["FEDAPP_TEST_GRAVES"]))
