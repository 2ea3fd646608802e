"""Client-level differential privacy with noise added by the server.

*Learning Differentially Private Recurrent Language Models*, H. B. McMahan, D. Ramage, K. Talwar, L. Zhang, ICLR 2018,
https://arxiv.org/abs/1710.06963.
"""

from __future__ import annotations

from privacy.releases.lattice import LatticeRelease


class CentralDP(LatticeRelease):
    r"""Clipped per client, summed, then :math:`N(0, (zS)^2 I)` from the server; divided by a public number.

    **Guarantee**: (epsilon, delta) for each client against whoever sees the models, **not** against the server,
    which sees each node's sum without noise.
    """

    placement = "central"


class SecAggCentralDP(LatticeRelease):
    r"""The same with the sum made under secure aggregation.

    **Guarantee**: (epsilon, delta) for each client against whoever sees the models; against the server, that it
    sees only the sum over all nodes (without noise).
    """

    masked = True
    placement = "central"
