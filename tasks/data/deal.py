"""Which objects a client gets, and how many views of each: equal shares, or skewed ones.

With concentration alpha the shares of all clients together are Dirichlet(alpha) distributed, as in FedMeNF's non-IID
experiments (one class of objects: the skew is in quantity). They are made of independent Gamma(alpha) draws, one a
client, which normalised are a Dirichlet sample: so a client knows its own share without knowing how many others exist.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from tasks.randomness import generator


def gamma(alpha: float, *key: object) -> float:
    """A Gamma(alpha) draw with mean 1 from the stream named by ``key`` (sum of squares of normals, over 2 alpha).

    ``alpha`` is rounded up to a multiple of one half, for which that sum is exact.
    """
    halves = max(1, -(-round(2 * alpha * 1e6) // 1_000_000))
    return float(torch.randn(halves, generator=generator(*key), dtype=torch.float64).square().sum()) / halves


def share(mean: int, alpha: float, most: int, *key: object) -> int:
    """How many things one party gets: ``mean`` if ``alpha`` is 0, else around it, from 1 to ``most`` (0: no limit)."""
    count = mean if alpha == 0 else max(1, round(mean * gamma(alpha, *key)))
    return min(count, most) if most else count


@lru_cache(maxsize=4096)
def objects_of(client: int, mean: int, alpha: float) -> range:
    """The numbers of the objects that client ``client`` holds; no two clients share one."""
    if alpha == 0:
        return range(client * mean, (client + 1) * mean)
    start = objects_of(client - 1, mean, alpha).stop if client else 0
    return range(start, start + share(mean, alpha, 0, "objects", client))
