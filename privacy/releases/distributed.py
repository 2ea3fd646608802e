"""Client-level differential privacy against the server: every node adds a share of the noise inside
the secure sum.

*The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation*, P.
Kairouz, Z. Liu, T. Steinke, ICML 2021, https://arxiv.org/abs/2102.06387. Here the shares are
rounded Gaussians: their sum is a discrete Gaussian around an offset that no data enter, up to terms
of exp(-pi^2 sigma^2) (docs/privacy.md).
"""

from __future__ import annotations

from privacy.releases.lattice import LatticeRelease


class DistributedDP(LatticeRelease):
    r"""Every node adds a share of the noise inside the secure sum: differential privacy against the
    server as well.

    A share is :math:`\mathrm{rint}\,N(0, z^2 (SK + \sqrt d)^2/h)`, with h honest nodes certain to
    be in the sum.

    **Guarantee**: (epsilon, delta) for each client against everyone, the server included, as long
    as at least h nodes of any unmasked sum are honest. More survivors mean more noise than needed,
    never less.
    """

    masked = True
    placement = "distributed"
