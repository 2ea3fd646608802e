"""Canary clients through the real release: the same clip, rounding, noise, sum and decoding as a
run.

Every canary contributes as much as the clip allows, in a direction of its own; half of them, by a
coin each, do not contribute although they are drawn. Nothing else is in the sums, because an
attacker may know everybody else's update and subtract it: what an audit finds here, a run can lose
to such an attacker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privacy.accounting import gaussian_epsilon
from privacy.audit.estimators import null_bound, one_run, one_shot, one_shot_low
from privacy.audit.floor import Released
from privacy.entropy import Entropy
from privacy.releases.lattice import LatticeRelease
from privacy.sampling import Sampler
from privacy.secagg.graph import default_threshold
from strategies.types import Bounds, Contribution, Payload, Scalar

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Canaries:
    """``cosines [M]`` of each canary's direction with what was ``released`` in its rounds; who was
    ``included``; how often each was drawn (``times``)."""

    cosines: NDArray[np.float64]
    included: NDArray[np.bool_]
    times: NDArray[np.int64]
    dimension: int
    released: tuple[Released, ...] = ()


def run_canaries(
    release: LatticeRelease,
    sampling: str,
    rate: float,
    rounds: int,
    size: int,
    canaries: int,
    nodes: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Canaries:
    """Rounds of canaries alone, through the release of a run.

    Args:
        release: the run's own.
        sampling: the run's rule: fixed, poisson or round-robin.
        rate: share of the canaries that each round draws, in (0, 1].
        rounds: how many.
        size: V, numbers a rule contributes.
        canaries: M, each a direction of its own; half of them, by a coin each, take part.
        nodes: that make a sum.
        progress: told the number of rounds done.
    """
    sampler = Sampler(sampling, 0, canaries, max(1, round(rate * canaries)))
    directions = np.stack([_direction(size) for _ in range(canaries)])
    coin = Entropy()
    included = np.array([coin.chance(0.5) for _ in range(canaries)])
    drawn = np.zeros((canaries, rounds), np.float32)
    released = np.zeros((rounds, size), np.float32)
    sums = []
    for index in range(rounds):
        chosen = sampler.draw(index + 1)
        drawn[chosen, index] = 1.0
        taking_part = directions[[canary for canary in chosen if included[canary]]]
        expected = max(len(chosen), 1)
        released[index] = _round(release, taking_part, nodes, expected)
        sums.append(
            Released(
                float(np.linalg.norm(released[index])),
                release.least_deviation(1.0, expected),
                size,
                float(np.linalg.norm(taking_part.sum(axis=0))) / expected,
            )
        )
        progress(index + 1)
    seen = drawn @ released
    length = np.maximum(np.linalg.norm(seen, axis=1), 1e-30)
    cosines = np.einsum("md,md->m", directions, seen).astype(np.float64) / length
    times = drawn.sum(axis=1).astype(np.int64)
    return Canaries(cosines, included, times, size, tuple(sums))


def _direction(size: int) -> NDArray[np.float32]:
    vector = Entropy().normal(size)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _round(
    release: LatticeRelease, rows: NDArray[np.float32], nodes: int, expected: int
) -> NDArray[np.float32]:
    """Mean that the server ends up with, over the clip norm of the round; of the nodes' noise only
    as much as is counted on."""
    least = default_threshold(nodes) if release.masked else nodes
    public = release.open(max(len(rows), 1), expected, nodes, least)
    clip = float(public["clip"])
    total = None
    # As many nodes as the accountant counts on: more would add noise that it does not promise
    adding = int(public["honest"]) if release.placement == "distributed" else 1
    for share in np.array_split(rows, adding):
        vector = torch.from_numpy(share * np.float32(clip * 1e6))  # clipped to exactly C
        weight = torch.full((len(share),), 1e12)
        scalars = {
            name: Scalar(_highest(bounds, clip, len(share)), bounds)
            for name, bounds in release.joint.ranges.items()
        }
        contribution = Contribution(vector, weight, scalars)
        payload: Payload | None = release.encode(contribution, public) if len(share) else None
        closed = release.close(payload, public)
        assert closed is not None, "a private release always closes with a vector"
        if total is None:
            total = closed
        else:
            total.add(closed)
    assert total is not None, "there is at least one node"
    return (release.decode(total, public).mean / clip).numpy()


def _highest(bounds: Bounds, clip: float, count: int) -> torch.Tensor:
    """A scalar as large as it may be: canaries use all of the sensitivity."""
    return torch.full((count,), bounds.high * clip**bounds.clip_power)


def judge(
    found: Canaries, multiplier: float, delta: float
) -> list[dict[str, float | str | int | None]]:
    """One row per test.

    FAIL: a lower bound exceeds the claim (both bounds together hold with 95 % confidence). WARN:
    95 % of the estimate's bootstrap resamples exceed it; an estimate bounds nothing, so it never
    fails a run.
    """
    most = int(found.times.max(initial=0))
    claimed = gaussian_epsilon(most**0.5 / multiplier, delta)
    taken = found.included & (found.times > 0)
    inside = found.cosines[taken]
    outside = found.cosines[~taken]
    estimate = one_shot(inside, outside, delta)
    low = one_shot_low(inside, outside, delta, CONFIDENCE)
    each = 1 - (1 - CONFIDENCE) / 2
    bounds = {
        "closed-form null": null_bound(inside, found.dimension, delta, each),
        "one run": one_run(found.cosines, found.included, delta, each),
    }
    rows: list[dict[str, float | str | int | None]] = [
        {
            "test": "one-shot estimate",
            "estimate": estimate,
            "lower_bound": None,
            "claimed": claimed,
            "verdict": "WARN" if low > claimed else "PASS",
        }
    ]
    for name, bound in bounds.items():
        rows.append(
            {
                "test": name,
                "estimate": None,
                "lower_bound": bound,
                "claimed": claimed,
                "verdict": "FAIL" if bound > claimed else "PASS",
            }
        )
    for row in rows:
        row |= {
            "canaries": len(found.cosines),
            "participations": most,
            "delta": delta,
            "dimension": found.dimension,
        }
    return rows
