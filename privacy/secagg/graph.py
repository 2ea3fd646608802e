"""Mask graphs: the neighbours each member masks with, and how many must remain.

Up to 100 nodes everybody masks with everybody. Above, a k-regular Harary graph on a permutation
that follows from the session (nobody picks neighbours, but by trying many sessions), with k and the
threshold t from the union bounds of Bell et al. (CCS 2020, https://eprint.iacr.org/2020/704):
security 2^-40, correctness 2^-20.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

COMPLETE_UP_TO = 100
DROPOUT_SHARE = 0.1  # of nodes a k-regular graph is built to lose


def neighbours(members: Sequence[int], degree: int, session: bytes) -> dict[int, tuple[int, ...]]:
    """Each member's neighbours, sorted; ``degree`` = n - 1 is the complete graph."""
    count = len(members)
    if degree >= count - 1:
        return {
            member: tuple(other for other in sorted(members) if other != member)
            for member in members
        }
    ring = sorted(
        members, key=lambda member: sha256(session + b"graph" + member.to_bytes(8, "big")).digest()
    )
    offsets = [step for half in range(1, degree // 2 + 1) for step in (half, -half)]
    if degree % 2:
        if count % 2:
            raise ValueError(
                f"no {degree}-regular graph on {count} nodes: one of both must be even"
            )
        offsets.append(count // 2)
    return {
        member: tuple(sorted({ring[(place + step) % count] for step in offsets}))
        for place, member in enumerate(ring)
    }


def default_threshold(nodes: int) -> int:
    """floor(2n/3) + 1: holds against the server together with fewer than a third of the nodes."""
    return 2 * nodes // 3 + 1


def dropouts(nodes: int) -> int:
    """Number of nodes a k-regular graph is built to lose."""
    return math.ceil(nodes * DROPOUT_SHARE)


@lru_cache(maxsize=64)
def harary(nodes: int, adversaries: int, dropouts: int) -> tuple[int, int]:
    """(k, t) for a server that may lie: the smallest even degree that meets every bound, and its
    threshold.

    ``t`` counts shares among a member's k neighbours. Raises ``ValueError`` where only a complete
    graph would do.
    """
    from scipy.stats import hypergeom

    for degree in range(2, nodes - 1, 2):
        if not _connected(nodes, degree, adversaries + dropouts):
            continue
        lowest = lowest_threshold(nodes, degree, adversaries)
        survivors = hypergeom(nodes, nodes - dropouts, degree)
        highest = max(
            (t for t in range(degree + 1) if survivors.cdf(t - 1) <= 2.0**-20 / nodes), default=0
        )
        if lowest <= highest:
            return degree, lowest
    raise ValueError(
        f"no k-regular graph of {nodes} nodes stands {adversaries} adversaries and {dropouts} "
        "dropouts"
    )


@lru_cache(maxsize=64)
def lowest_threshold(nodes: int, degree: int, adversaries: int) -> int:
    """The smallest t for which a server that shows a node's neighbours two lists gets one of its
    secrets, not both.

    2 t > k + 1 + a, where a adversarial neighbours give both kinds of share; more than a have a
    chance of 2^-41.
    """
    from scipy.stats import hypergeom

    allowed = 2.0**-41 / nodes
    near = next(
        a for a in range(degree + 1) if hypergeom.sf(a, nodes, adversaries, degree) <= allowed
    )
    return math.ceil((near + degree + 1 - 1.25) / 2) + 1


def _connected(nodes: int, degree: int, gone: int) -> bool:
    """Whether the honest survivors stay connected but for a chance of 2^-41 (union bound over
    cuts)."""
    if degree > gone:
        return True
    # log of cuts times C(nodes - degree, gone - degree) / C(nodes, gone), by log gamma functions
    chance = math.log(nodes * (nodes - degree - 1) / 2)
    chance += math.lgamma(gone + 1) + math.lgamma(nodes - degree + 1)
    chance -= math.lgamma(nodes + 1) + math.lgamma(gone - degree + 1)
    return chance < -41 * math.log(2)
