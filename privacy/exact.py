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

for every picture with values in [0, 1]. The update is computed from the very J and f that the bound
looked at, in double precision, in which no two computers may differ by as much as the dither hides,
and never added to weights (a difference of weights is rounded to
their last digit, which is a threshold on what was added). What is left is rounding to the lattice,
with a dither whose law does not depend on fractions (:func:`privacy.ring.add_dithered`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from privacy.ring import DITHER_ROOM, levels
from strategies.learner import WholeFit
from strategies.types import Broadcast, LocalResult, Memory, Public

if TYPE_CHECKING:
    from torch import Tensor

    from strategies.rule import Rule
    from strategies.settings import LearnerSettings
    from tasks.randomness import Key
    from tasks.types import Trainable

MARGIN = 1e-6  # of the bound: far more than double precision loses
SHARE = 0.02  # of a level, in Euclidean norm: what a sum may differ by; the dither has 4
WHOLE_SPECTRUM = 1500  # rows up to which all eigenvalues are worked out
SQUARINGS = 4  # beyond: the bound is too large by a factor of at most rows^(1/32)
HIDES = (
    "hides who, not what: the set of pictures may be recoverable; noise protects it "
    "(release distributed-dp)"
)
PROVES = (
    "tells the sum of the clients' pictures and nothing else, in every round (what that sum tells, "
    "such as whether a picture is in it, is told; docs/privacy.md has the conditions)"
)


class Bounds(NamedTuple):
    """Clips that must not act: of the gradient (0: none), and of the update; and one ``level`` of
    the lattice in an update, which differences between computers, of all ``clients`` of the sum
    together, may not come near."""

    gradient: float
    update: float
    level: float
    clients: int

    @classmethod
    def of_sum(cls, gradient: float, public: Public) -> Bounds:
        """Of one sum, by its public numbers: the very ones that it is rounded with. (Those of the
        run, such as ``clients.total``, are the server's to say, and no sum is made with them.)"""
        clip, count = float(public["clip"]), int(public["levels"])
        return cls(gradient, clip, clip / count, int(public["clients"]))

    @classmethod
    def of(cls, gradient: float, update: float, clients: int) -> Bounds:
        """Of a sum of so many clients."""
        count = levels(clients, 0.0) - DITHER_ROOM
        return cls(gradient, update, update / count, clients)


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


class Linearised(NamedTuple):
    """What a model says ``[M]``, its Jacobian ``[M, P]``, the norm that no gradient exceeds, and
    how far apart two computers may be in what they make of one picture."""

    values: Tensor
    jacobian: Tensor
    bound: float
    apart: float


class _Last:
    """The model looked at last: what is bounded and what is stepped with are the same numbers."""

    kept: tuple[Any, Tensor, Linearised] | None = None  # one name: threads see all of it or none


def linearised(task: Trainable, model: Tensor) -> Linearised:
    r"""A model ``[P]`` in double precision, without any data.

    Two computers differ in J's last digits, and :math:`\sum_k J_k^\top x_k` is then more than a
    function of the sum. With :math:`\rho` the distance of two rows
    (:meth:`tasks.fields.siren.Siren.jacobian_error`) and u the unit of rounding, gradients of one
    picture are at most

    .. math:: 2\rho + 2u\, \big\lVert |J|^\top \max(|f|, |1 - f|) \big\rVert_2

    apart, which a crafted model can make large.
    """
    import torch

    kept = _Last.kept
    if (
        kept is not None
        and kept[0] is task
        and kept[1].device == model.device
        and torch.equal(kept[1], model)
    ):
        return kept[2]
    values, jacobian = task.outputs(model.double())
    reach = torch.maximum(values.abs(), (1 - values).abs())
    bound = 2 / len(values) * largest_singular_value(jacobian) * float(reach.norm()) * (1 + MARGIN)
    summed = float((reach @ jacobian.abs()).norm()) * 2 * torch.finfo(torch.float64).eps
    apart = 2 * task.outputs_error(model) + summed
    found = Linearised(values, jacobian, bound, apart)
    _Last.kept = (task, model.clone(), found)
    return found


def largest_gradient(task: Trainable, model: Tensor) -> float:
    """Norm that no client's gradient exceeds at ``model [P]``, whatever picture it holds."""
    return linearised(task, model).bound


class Stepping(Protocol):
    """Whatever takes the step: its own size, and no other setting that is called so."""

    outer_rate: float


def objection(task: Trainable, model: Tensor, step: Stepping, clips: Bounds) -> str:
    """Reason not to train from ``model [P]`` in the provable mode; empty if there is none. No
    data are read.

    Args:
        task: whose model it is.
        model: as it was received.
        step: the very learner that will step from it.
        clips: of the very sum that it will be in.
    """
    import torch

    if model.shape != (task.layout.size,) or model.dtype != torch.float32:
        return "not one model of the task's size in single precision"
    if not bool(torch.isfinite(model).all()):
        return "the model is not finite"
    _, _, bound, apart = linearised(task, model)
    limits = {"learner.outer-clip": (bound, clips.gradient or float("inf"))}
    limits["privacy.clip-norm"] = (step.outer_rate * bound, clips.update)
    for name, (reached, limit) in limits.items():
        if not reached <= limit:
            return (
                f"at this model a picture may reach {reached:.3g} and {name} = {limit:g} would act "
                "on it: the sum would be one of clipped updates"
            )
    differ = clips.clients * step.outer_rate * apart / clips.level
    if not differ <= SHARE:
        return (
            f"at this model computers may differ by {differ:.2g} levels in what they make of "
            f"{clips.clients} pictures, and {SHARE:g} is hidden by the dither: the sum would be of "
            "other functions"
        )
    return ""


class ExactStep(WholeFit):
    """The one step that the guarantee is about, in place of a learner's own.

    Args:
        rate: lambda, its size.
        clips: that must not act.
    """

    metrics = ("loss",)

    def __init__(self, rate: float, clips: Bounds) -> None:
        self.outer_rate = rate
        self.clips = clips

    def fit(
        self,
        task: Trainable,
        rule: Rule,
        received: Broadcast,
        cohort: Sequence[Any],
        memory: Memory,
        keys: Sequence[Key],
        settings: LearnerSettings,
    ) -> LocalResult:
        import torch

        # once more, where it counts: whoever calls this without having asked gets no update
        if reason := objection(task, received.model, self, self.clips):
            raise ArithmeticError(reason)
        values, jacobian, _, _ = linearised(task, received.model)
        pictures = torch.stack([data.signals[0].support.values.flatten() for data in cohort])
        apart = values - pictures.to(values)
        delta = -self.outer_rate * 2 / len(values) * (apart @ jacobian)
        count = delta.new_ones(len(cohort))
        return LocalResult(
            delta=delta,
            steps=count,
            step_size=self.outer_rate,
            examples=count,
            metrics={"loss": apart.square().mean(1)},
        )
