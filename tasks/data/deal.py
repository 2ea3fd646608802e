"""Shares of clients: their objects, and the views of each, equally many or skewed.

With concentration alpha the shares of all clients together are Dirichlet(alpha) distributed, as in
FedMeNF's non-IID experiments (one class of objects: the skew is in quantity). They are made of
independent Gamma(alpha) draws, one per client, which normalised are a Dirichlet sample: so a client
knows its own share without knowing how many others exist.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tasks.randomness import generator


def gamma(alpha: float, *key: object) -> float:
    """A Gamma(alpha) draw over its mean, for any ``alpha`` above 0, from the stream named by
    ``key``."""
    stream = np.random.Generator(np.random.PCG64(generator(*key).initial_seed()))
    return float(stream.standard_gamma(alpha)) / alpha


def share(mean: int, alpha: float, most: int, *key: object) -> int:
    """Number of things one party gets: ``mean`` if ``alpha`` is 0, else a draw around it.

    Args:
        mean: expected number.
        alpha: Dirichlet concentration; the smaller, the more skewed; 0: no skew.
        most: upper limit; 0: none.
        key: name of the random stream.

    Returns:
        From 1 to ``most``.
    """
    count = mean if alpha == 0 else max(1, round(mean * gamma(alpha, *key)))
    return min(count, most) if most else count


def objects_of(client: int, mean: int, alpha: float) -> range:
    """The numbers of the objects that client ``client`` holds; no two clients share one."""
    if alpha == 0:
        return range(client * mean, (client + 1) * mean)
    starts = _starts(mean, alpha)
    while len(starts) < client + 2:
        starts.append(starts[-1] + share(mean, alpha, 0, "objects", len(starts) - 1))
    return range(starts[client], starts[client + 1])


@lru_cache(maxsize=16)
def _starts(mean: int, alpha: float) -> list[int]:
    """First object of each client, as far as that has been asked."""
    return [0]
