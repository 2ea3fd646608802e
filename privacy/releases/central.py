"""Client-level differential privacy with noise added by the server.

*Learning Differentially Private Recurrent Language Models*, H. B. McMahan, D. Ramage, K. Talwar, L.
Zhang, ICLR 2018, https://arxiv.org/abs/1710.06963.
"""

from __future__ import annotations

from privacy.releases.lattice import LatticeRelease


class CentralDP(LatticeRelease):
    r"""Every client clipped, the sum noised by the server: differential privacy against readers of
    the models.

    The noise is :math:`N(0, (zS)^2 I)`; the noisy sum is divided by a public number.

    **Guarantee**: (epsilon, delta) for each client against whoever sees the models, **not** against
    the server, which sees each node's sum without noise.
    """

    placement = "central"


class SecAggCentralDP(LatticeRelease):
    r"""Central noise on a sum made under secure aggregation: the server sees that sum, and no
    summand.

    **Guarantee**: (epsilon, delta) for each client against whoever sees the models; against the
    server, that it sees only the sum over all nodes (without noise).
    """

    masked = True
    placement = "central"
