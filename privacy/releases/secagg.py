"""Secure aggregation without noise: the server sees the exact sum over the nodes, and no
summand."""

from __future__ import annotations

from privacy.releases.lattice import LatticeRelease


class SecAgg(LatticeRelease):
    r"""The plain mean from a sum that the server sees as a whole only.

    **Guarantee**: against a server, even a lying one, together with fewer nodes than the threshold
    allows: nothing but the sum over at least threshold nodes. **Not**: what the sum itself shows (a
    sum over few similar clients can show much), nor any statement of differential privacy.
    """

    masked = True
