r"""The provable mode of sums without noise: a sum is a function of the sum of pictures alone.

One step of gradient descent on the mean squared error of a whole picture :math:`x_k` of N numbers,

.. math:: \Delta_k = -\lambda\,\mathrm{clip}_G\Big(\frac2N J^\top (f - x_k)\Big), \qquad
    \sum_k \pi_C(\Delta_k) = -\frac{2\lambda}{N} J^\top \Big(n f - \sum_k x_k\Big)

for n clients, where the second equation holds if no clip acts on anybody. A clip that acts is a
factor that depends on one client's data, and a server may send a model that makes it act. Whether
it can, a node finds out from the model alone, before it reads any data:

.. math:: \lVert g_k \rVert \le \frac2N \sigma_{\max}(J)\,
    \big\lVert \max(|f|, |1 - f|) \big\rVert_2 \le G, \qquad
    \lambda \lVert g_k \rVert \le C

for every picture with values in [0, 1]. Models that are not finite, or large enough that rounding
could tell pictures apart (:data:`LARGEST`), are refused as well; the step is taken in double
precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from strategies.settings import LearnerSettings
    from tasks.types import Trainable

LARGEST = 1e3  # of a model's numbers: a field's own are below 10, and their products stay exact
MARGIN = 1e-6  # of the bound: far more than double precision loses
WHOLE_SPECTRUM = 1500  # rows up to which all eigenvalues are worked out
SQUARINGS = 4  # beyond: the bound is too large by a factor of at most rows^(1/32)
HIDES = (
    "hides who, not what: the set of pictures may be recoverable; noise protects it "
    "(release distributed-dp)"
)
PROVES = (
    "tells the sum of the clients' pictures and nothing else, to one level of the lattice, in "
    "every round (what that sum tells, such as who is in it, is told; docs/privacy.md has the "
    "conditions)"
)


class Bounds(NamedTuple):
    """Clips that must not act: of the gradient (0: none), and of the update."""

    gradient: float
    update: float


def largest_singular_value(matrix: Tensor) -> float:
    r"""An upper bound of :math:`\sigma_{\max}` of ``[M, P]``, exact up to rounding where the
    smaller side has at most :data:`WHOLE_SPECTRUM` rows; beyond,

    .. math:: \sigma_{\max}^2 \le \big(\operatorname{tr}\, G^{2^s}\big)^{2^{-s}}
    """
    import torch

    wide = matrix.shape[0] <= matrix.shape[1]
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    if len(gram) <= WHOLE_SPECTRUM:
        return float(torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt())
    scale = float(gram.diagonal().sum())
    if scale == 0:
        return 0.0
    log = 0.0
    power = gram / scale  # its trace is 1, so that no power overflows
    for step in range(SQUARINGS):
        power = power @ power
        trace = float(power.diagonal().sum())
        power = power / trace
        log += torch.log(torch.tensor(trace, dtype=torch.float64)).item() / 2 ** (step + 1)
    return float((scale * torch.exp(torch.tensor(log, dtype=torch.float64))).sqrt())


def largest_gradient(task: Trainable, model: Tensor) -> float:
    """Norm that no client's gradient exceeds at ``model [P]``, whatever picture it holds."""
    import torch

    values, jacobian = task.outputs(model.double())
    reach = torch.maximum(values.abs(), (1 - values).abs())
    return 2 / len(values) * largest_singular_value(jacobian) * float(reach.norm()) * (1 + MARGIN)


def objection(task: Trainable, model: Tensor, learner: LearnerSettings, clips: Bounds) -> str:
    """Reason not to train from ``model [P]`` in the provable mode; empty if there is none. No
    data are read."""
    import torch

    if not bool(torch.isfinite(model).all()):
        return "the model is not finite"
    largest = float(model.abs().max())
    if largest > LARGEST:
        return f"the model holds a number of {largest:.3g}; a field's are below {LARGEST:g}"
    bound = largest_gradient(task, model)
    limits = {"learner.outer-clip": (bound, clips.gradient or float("inf"))}
    limits["privacy.clip-norm"] = (learner.outer_rate * bound, clips.update)
    for name, (reached, limit) in limits.items():
        if not reached <= limit:
            return (
                f"at this model a picture may reach {reached:.3g} and {name} = {limit:g} would act "
                "on it: the sum would be one of clipped updates"
            )
    return ""
