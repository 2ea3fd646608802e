"""Audit of a finished run's noise: canary clients through its release, and the norms of what the
run itself released."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedapp.config.pieces import Pieces
from fedapp.store.runfolder import RunFolder
from privacy.audit import verdict
from privacy.audit.canary import judge, run_canaries
from privacy.audit.floor import Released, judge_floor
from privacy.releases.lattice import LatticeRelease
from tasks.atomic import write_json
from tasks.errors import InputError

AUDIT_FILE = "audit.json"
CANARY_NUMBERS = 400_000_000  # canaries times numbers times rounds: what is spent by default
ABOUT = (
    "The canaries test the release as the code makes it, at this run's settings, not what the "
    "run's nodes did; the run's own sums are tested by their norms, which counts on members that "
    "keep to their clip (one that does not can make up for noise that is missing)."
)


def audit_run(
    folder: RunFolder, canaries: int = 0, progress: Callable[[int, int], None] = lambda *_: None
) -> dict[str, Any]:
    """Audit a run and write ``audit.json``; returns what it holds.

    Args:
        folder: of a run whose release adds noise.
        canaries: how many; 0: as many as a few minutes allow.
        progress: told rounds of canaries done, and of how many.
    """
    pieces = Pieces.of(folder)
    experiment = pieces.experiment
    privacy = pieces.privacy
    if pieces.release_type.placement == "none":
        raise InputError(
            "release",
            experiment.release,
            "claims no epsilon: there is nothing to audit",
            "try quickstart-dp",
        )
    release: Any = pieces.release
    clients = experiment.clients
    size = pieces.rule.size(pieces.task.layout.size)
    count = canaries or max(50, min(1000, CANARY_NUMBERS // (size * experiment.rounds)))
    found = run_canaries(
        release,
        privacy.sampling,
        (clients.per_round or clients.total) / clients.total,
        experiment.rounds,
        size,
        count,
        min(experiment.runtime.nodes, clients.per_round or clients.total),
        progress=lambda done: progress(done, experiment.rounds),
    )
    rows = judge(found, privacy.noise_multiplier, privacy.delta)
    noise = [
        judge_floor("sums of canaries", found.released),
        judge_floor("the run's own sums", own_sums(folder, pieces)),
    ]
    result = {
        "run": str(folder.path),
        "verdict": verdict([*rows, *noise]),
        "about": ABOUT,
        "rows": rows,
        "noise": noise,
    }
    write_json(folder.path / AUDIT_FILE, result)
    return result


def own_sums(folder: RunFolder, pieces: Pieces) -> list[Released]:
    """The norm of what each round of a run released, beside the noise it claims."""
    release: Any = pieces.release
    size = pieces.rule.size(pieces.task.layout.size)
    expected = pieces.sampler(0).expected
    return [
        released_mean(release, event["metrics"], size, expected, event["clients"]["ok"])
        for event in folder.events()
        if event["event"] == "round" and event["metrics"].get("update_norm") is not None
    ]


def released_mean(
    release: LatticeRelease,
    metrics: Mapping[str, float],
    size: int,
    expected: float,
    clients: int,
) -> Released:
    """A round's mean as its event tells it.

    Args:
        release: the run's.
        metrics: ``update_norm`` and ``clip`` among them.
        size: V, numbers in the mean.
        expected: clients per round on average, by which the sum was divided.
        clients: that were in it.
    """
    clip = float(metrics["clip"])
    deviation = release.least_deviation(clip, expected)
    return Released(float(metrics["update_norm"]), deviation, size, clip * clients / expected)
