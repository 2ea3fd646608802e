"""Combinations that cannot work, refused before anything starts, each with its reason and what would work.

Everything not refused here runs a round in ``tests/test_compositions.py``.
"""

from __future__ import annotations

from sim.settings import RuntimeSettings
from strategies.settings import ClientsSettings, LearnerSettings
from tasks.errors import InputError


def refuse(methods: list[str], clients: ClientsSettings, learner: LearnerSettings, runtime: RuntimeSettings) -> None:
    """Raise :class:`InputError` for the first combination that does not compose."""
    if clients.per_round > clients.total:
        raise InputError(
            "clients.per-round", clients.per_round, f"more than clients.total = {clients.total}", "0 means all"
        )
    if clients.min > (clients.per_round or clients.total):
        raise InputError(
            "clients.min",
            clients.min,
            f"a round has only {clients.per_round or clients.total} clients",
            f"set clients.min to {clients.per_round or clients.total} or fewer",
        )
    if "reptile" in methods and learner.inner_steps < 1:
        raise InputError(
            "learner.inner-steps",
            learner.inner_steps,
            "Reptile's step is the way back from K inner steps; with K = 0 it stands still",
            "set learner.inner-steps to 1 or more, or use the method erm",
        )
    gpus = runtime.gpus_per_actor
    if gpus > 1 and gpus != int(gpus):
        raise InputError(
            "runtime.gpus-per-actor", gpus, "Ray places only whole cards above one", "use 1, 2, ... or a share below 1"
        )
