"""Privacy settings that a release, its clients and its nodes cannot work with, refused before
anything starts."""

from __future__ import annotations

import json
import math
from typing import Any

from privacy.sampling import Sampler
from privacy.secagg.graph import default_threshold
from privacy.secagg.identity import Policy
from privacy.settings import PrivacySettings
from sim.settings import RuntimeSettings
from strategies.release import ROUND_METRICS
from strategies.settings import ClientsSettings
from tasks.errors import InputError


def refuse_private(
    release: Any,
    name: str,
    privacy: PrivacySettings,
    clients: ClientsSettings,
    runtime: RuntimeSettings,
    uploads: bool,
) -> None:
    """The same for what a private release does not go together with."""
    sampled = privacy.sampling != "fixed"
    if release.placement == "none":
        _refuse_idle(name, privacy)
    if not release.private:
        if privacy.population:
            raise InputError(
                "privacy.population",
                privacy.population,
                f"release {name} would not be charged to it",
                "leave it empty, or use a private release",
            )
        if sampled:
            raise InputError(
                "privacy.sampling",
                privacy.sampling,
                f"release {name} is not charged to a budget",
                "use fixed, or a release with noise such as central-dp",
            )
        return
    if uploads:
        raise InputError(
            "evaluation.uploads",
            True,
            f"numbers about single uploads would leave the clients beside release {name}",
            "set evaluation.uploads to false; `fedapp attack` shows what the server could do",
        )
    smallest = Sampler(privacy.sampling, 0, clients.total, clients.per_round).smallest
    least, nodes = (
        Policy().min_nodes,
        min(runtime.nodes, smallest or clients.per_round or clients.total),
    )
    if release.masked and nodes < least:
        raise InputError(
            "runtime.nodes",
            runtime.nodes,
            f"a secure sum hides a node among {least} or more, {nodes} would take part",
            f"set runtime.nodes (and clients) to {least} or more",
        )
    if release.masked:
        _check_threshold(privacy, nodes)
    _check_metrics(privacy)
    noised = release.placement != "none"
    if sampled and not noised:
        raise InputError(
            "privacy.sampling",
            privacy.sampling,
            f"release {name} has no noise to amplify or account",
            "use fixed",
        )
    if sampled and not 0 < clients.per_round < clients.total:
        raise InputError(
            "clients.per-round",
            clients.per_round,
            f"{privacy.sampling} sampling draws some of the clients",
            f"set it between 1 and {clients.total - 1}",
        )
    if privacy.sampling == "round-robin" and smallest < clients.min:
        raise InputError(
            "clients.min",
            clients.min,
            f"a group has only {smallest} clients when {clients.total} take turns",
            f"set it to {smallest} or fewer, or clients.per-round higher",
        )
    if release.masked and privacy.graph == "harary" and release.placement == "distributed":
        raise InputError(
            "privacy.graph",
            "harary",
            "distributed noise is counted over one connected sum",
            "use auto or complete",
        )
    if noised:
        _check_budget(privacy)


def _refuse_idle(name: str, privacy: PrivacySettings) -> None:
    """A wanted epsilon, a moving clip: nothing of the kind happens without noise, and whoever sets
    them believes that it does. (Noise and clip themselves are what `fedapp attack` holds such a
    run against; a limit may stand, and is said to limit nothing.)"""
    for key, value in (
        ("privacy.target-epsilon", privacy.target_epsilon),
        ("privacy.adaptive-clip", privacy.adaptive_clip),
    ):
        if value:
            raise InputError(
                key,
                value,
                f"release {name} adds no noise and spends no budget",
                "leave it out, or use a release with noise such as distributed-dp",
            )


def _check_threshold(privacy: PrivacySettings, nodes: int) -> None:
    """A threshold that nodes would refuse, or that nobody could meet."""
    members = min(nodes, privacy.group_size or nodes)
    least = default_threshold(members)
    if privacy.threshold and not least <= privacy.threshold <= members:
        raise InputError(
            "privacy.threshold",
            privacy.threshold,
            f"of {members} nodes in a sum at least {least} must be asked for, and no more than "
            "there are",
            f"use 0 ({least}), or {least} to {members}",
        )


def _check_budget(privacy: PrivacySettings) -> None:
    if privacy.epsilon_max == 0:
        raise InputError(
            "privacy.epsilon-max",
            0.0,
            "a noised run needs a limit at which it stops",
            "`fedapp budget plan` shows what a run costs",
        )
    if (privacy.noise_multiplier == 0) == (privacy.target_epsilon == 0):
        raise InputError(
            "privacy.noise-multiplier",
            privacy.noise_multiplier,
            f"exactly one of it and privacy.target-epsilon ({privacy.target_epsilon:g}) sets "
            "the noise",
            "set the other one to 0",
        )


def _check_metrics(privacy: PrivacySettings) -> None:
    for name, bounds in json.loads(privacy.metrics).items():
        sound = (
            isinstance(bounds, list)
            and len(bounds) == 2
            and all(isinstance(b, int | float) and math.isfinite(b) for b in bounds)
            and math.isfinite(bounds[1] - bounds[0])
        )
        if not sound or not bounds[0] < bounds[1]:
            raise InputError(
                "privacy.metrics",
                f"{name}: {bounds}",
                "each metric needs the range it is bounded to",
                'for example {"objective_min": [0, 1]}',
            )
        if name in ROUND_METRICS:
            raise InputError(
                "privacy.metrics",
                name,
                "every private sum has a value of this name",
                "call the learner's metric something else",
            )
