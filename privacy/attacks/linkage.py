r"""Linkage: attribution of adapter updates to their owners, by the owners' public recordings.

An adapter fits its owner better than others. The attacker has ``gain[u, c]``: how much update u
lowers the loss on public data of candidate c, relative to the model it started from. Some
candidates gain from any update and some updates help everybody, so both means are taken off:

.. math:: s_{uc} = g_{uc} - \bar g_{u\cdot} - \bar g_{\cdot c} + \bar g_{\cdot\cdot}

and update u is said to come from :math:`\arg\max_c s_{uc}`. Membership in a sum uses the gain of
that one sum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from privacy.attacks.membership import auc, power_at

Matrix = NDArray[np.float64]


class Linkage(NamedTuple):
    """``top1``: share of updates ascribed to their owner; ``auc`` and ``power`` tell owners' pairs
    from other pairs."""

    top1: float
    auc: float
    power: float


def centred(gain: Matrix) -> Matrix:
    """The double-centred score ``[updates, candidates]``."""
    return gain - gain.mean(1, keepdims=True) - gain.mean(0, keepdims=True) + gain.mean()


def linkage(gain: Matrix, false_positives: float) -> Linkage:
    """``gain [U, C]`` with C >= U candidates, candidate u being the owner of update u; ties are
    shared out."""
    score = centred(gain)
    owner = np.diagonal(score)
    # An attacker that cannot tell candidates apart guesses among them
    best = score >= score.max(1, keepdims=True) - 1e-12
    top1 = float(np.mean(np.diagonal(best) / best.sum(1)))
    others = score[np.arange(score.shape[1])[None] != np.arange(len(score))[:, None]]
    return Linkage(top1, auc(-owner, -others), power_at(-owner, -others, false_positives))
