"""Secure aggregation without noise: the server sees the exact sum over the nodes, and no summand."""

from __future__ import annotations

from privacy.releases.lattice import LatticeRelease


class SecAgg(LatticeRelease):
    r"""The plain weighted mean, up to one quantum a client, of which the server sees only the total.

    **Guarantee**: against a server, even a lying one, together with fewer nodes than the threshold allows: nothing
    but the sum over at least threshold nodes. **Not**: what the sum itself shows (a sum over few similar clients
    can show much), nor any statement of differential privacy.
    """

    masked = True
