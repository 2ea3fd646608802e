r"""Attacks of a server that remembers: all sums of a run together.

One step on a field is linear in the picture, so with :math:`J_t` the Jacobian of the field at the
model of round t an unmasked sum is

.. math:: S_t \approx \frac{2\lambda}{B} J_t^\top r_t, \qquad
    r_{t,i} = \sum_k c_{t,k,i}\, (x_{k,i} - f_{t,i})

where c counts how often client k drew sample i. There are more parameters than samples, so every
round gives the whole vector :math:`r_t` (:func:`residuals`). What is left to find out is who drew
what (:func:`named_batches`), or who was there (:func:`attendance`), or nothing, where pixels were
drawn by one client alone (:func:`singles`). Learners that are not linear in the picture give the
set of pictures away by themselves (:func:`joint_inversion`), and a server that lies sends a model
at which clips tell clients apart (:mod:`privacy.attacks.crafted`).

Attendance over rounds: *Gradient Disaggregation*, M. Lam, G.-Y. Wei, D. Brooks, V. J. Reddi, M.
Mitzenmacher, ICML 2021, https://arxiv.org/abs/2106.06089, where who took part has to be found out
first; here the server knows (a roster says who is who), which is the stronger attack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strategies.learner import Learner
from strategies.local.train import descend
from strategies.rule import Rule
from strategies.settings import LearnerSettings
from strategies.types import Broadcast
from tasks.params import clip_factor
from tasks.randomness import Key
from tasks.signals import ClientSignals, sampled
from tasks.types import Trainable

RIDGE = 1e-6  # of the mean squared singular value of a Jacobian
JOINT_RIDGE = 1e-7
LINEARISED = 4  # times that named batches are linearised
NUDGE = 1e-6  # of a finite difference, in double precision
DAMPING = 1e-3  # of joint inversion, at the start
SAME = 0.012  # values of a pixel closer than this are one client's


class NotApplicableError(ValueError):
    """An attack has no place for what it is asked to attack: it was not tried."""


class Sum(NamedTuple):
    """What a server holds of one sum: the model it sent ``[P]``, the total ``[P]`` and whose it
    is."""

    number: int
    model: Tensor
    total: Tensor
    clients: tuple[int, ...]


class Training(NamedTuple):
    """What a server knows of its clients' training."""

    task: Trainable
    learner: Learner
    rule: Rule
    settings: LearnerSettings
    shape: tuple[int, ...]  # of a picture

    def updates(
        self, model: Tensor, pictures: Tensor, keys: Sequence[Key] | None, passes: bool = False
    ) -> Tensor:
        """Updates ``[C, P]`` of clients that hold ``pictures [C, M]``, in double precision.

        Args:
            model: that they start from, ``[P]``.
            pictures: their values.
            keys: names of their streams of batches; ``None``: none are needed.
            passes: take whole passes for batches, which is what batches are on average.
        """
        cohort = [
            ClientSignals("", (sampled("", one.double().view(self.shape)),)) for one in pictures
        ]
        settings = self.settings.model_copy(update={"batch_size": 0}) if passes else self.settings
        names = list(keys) if keys is not None else [("nobody",)] * len(cohort)
        received = Broadcast(model.double(), {}, 1)
        return descend(
            self.learner, self.task, self.rule, received, cohort, {}, names, settings
        ).delta


def residuals(training: Training, heard: Sum) -> tuple[Tensor, Tensor]:
    """``(r [M], f [M])`` of a sum: the ridge solution of its linear system, and what the model
    says. Batches of any size are taken for parts of a whole pass."""
    values, jacobian = training.task.outputs(heard.model.double())
    gram = jacobian @ jacobian.T
    gram.diagonal().add_(RIDGE * float(gram.diagonal().mean()))
    size = training.settings.batch_size or len(values)
    scale = 2 * training.learner.outer_rate / size
    return torch.linalg.solve(gram, jacobian @ heard.total) / scale, values


def draws_of_a_sample(training: Training, samples: int) -> float:
    """How often a client draws a sample in a round, on average."""
    size = training.settings.batch_size or samples
    return training.settings.outer_steps * size / samples


# ---------------------------------------------------------------------- who was there
def attendance(training: Training, sums: Sequence[Sum], clients: int) -> Tensor:
    r"""Pictures ``[K, M]`` by regression of every pixel on who took part:
    :math:`r_t / \bar c + n_t f_t = \sum_k a_{t,k} x_k`. The solution of least norm: with members
    that never change it is the mean picture, for everybody."""
    rows, present = [], torch.zeros(len(sums), clients, dtype=torch.float64)
    for index, heard in enumerate(sums):
        found, values = residuals(training, heard)
        present[index, list(heard.clients)] = 1
        each = draws_of_a_sample(training, len(values))
        rows.append(found / each + len(heard.clients) * values)
    return torch.linalg.lstsq(present, torch.stack(rows), driver="gelsd").solution


# ---------------------------------------------------------------------- who drew what
def named_batches(
    training: Training,
    sums: Sequence[Sum],
    clients: int,
    keys: Callable[[int, int], Key],
    tell: Callable[[str], None],
) -> Tensor:
    """Pictures ``[K, M]`` as the solution of one linear system in all of them, if clients draw from
    the streams that ``keys(round, client)`` names.

    The clients' training is simulated at the estimate, and the rest solved for again.
    """
    samples = len(training.task.outputs(sums[0].model.double())[0])
    found = torch.full((clients, samples), 0.5, dtype=torch.float64)
    size = training.settings.batch_size or samples
    scale = 2 * training.learner.outer_rate / size
    weights = [1 / float(heard.total.norm().clamp(min=1e-30)) for heard in sums]
    parts = []
    for heard in sums:
        jacobian = training.task.outputs(heard.model.double())[1]
        counts = torch.zeros(clients, samples, dtype=torch.float64)
        for client in heard.clients:
            counts[client] = _counts(training, keys(heard.number, client), samples)
        parts.append((jacobian, counts.flatten()))
    system = torch.zeros(clients * samples, clients * samples, dtype=torch.float64)
    for (jacobian, counts), weight in zip(parts, weights, strict=True):
        gram = (scale * weight) ** 2 * (jacobian @ jacobian.T)
        block = counts.view(clients, samples)
        for row in range(clients):
            for column in range(clients):
                place = (
                    slice(row * samples, (row + 1) * samples),
                    slice(column * samples, (column + 1) * samples),
                )
                system[place] += block[row][:, None] * gram * block[column]
    system.diagonal().add_(JOINT_RIDGE * float(system.diagonal().mean()))
    factor = torch.linalg.cholesky_ex(system)
    if int(factor.info):
        system.diagonal().add_(1e3 * JOINT_RIDGE * float(system.diagonal().mean()))
        factor = torch.linalg.cholesky_ex(system)
    for turn in range(LINEARISED):
        right = torch.zeros(clients * samples, dtype=torch.float64)
        for heard, (jacobian, counts), weight in zip(sums, parts, weights, strict=True):
            names = [keys(heard.number, client) for client in heard.clients]
            made = training.updates(heard.model, found[list(heard.clients)], names).sum(0)
            pulled = jacobian @ (heard.total - made)
            right += scale * weight**2 * pulled.repeat(clients) * counts
        found = found + torch.cholesky_solve(right[:, None], factor.L).view(clients, samples)
        tell(f"named batches: linearised {turn + 1} of {LINEARISED} times")
    return found


def _counts(training: Training, key: Key, samples: int) -> Tensor:
    """How often each sample is drawn from a named stream in a round, ``[M]``."""
    steps, inner = training.settings.outer_steps, training.learner.inner_steps
    size = training.settings.batch_size
    if not size:
        return torch.full((samples,), float(steps), dtype=torch.float64)
    marked = torch.arange(samples, dtype=torch.float64).view(training.shape)
    holding = ClientSignals("", (sampled("", marked),))
    episode = training.task.episodes([holding], [key], steps, inner, size, marked.device)
    drawn = [episode(step).query.targets.flatten() for step in range(steps)]
    return torch.bincount(torch.cat(drawn).round().long(), minlength=samples).double()


# ---------------------------------------------------------------------- nothing known
def singles(training: Training, sums: Sequence[Sum], clients: int) -> Tensor:
    """Values ``[K, M]`` of pixels, found where one client alone drew a pixel: the same value comes
    back round after round. To whom a value belongs is not known: rows are values by how often they
    came, the mean where fewer were found."""
    offsets, candidates = [], []
    for heard in sums:
        found, values = residuals(training, heard)
        offsets.append(found)
        candidates.append(found + values)
    offset, candidate = torch.stack(offsets), torch.stack(candidates)
    rows = torch.zeros(clients, offset.shape[1], dtype=torch.float64)
    for pixel in range(offset.shape[1]):
        drawn = offset[:, pixel].abs() > 0.01
        rest = candidate[drawn, pixel]
        rest = rest[(rest > -0.02) & (rest < 1.02)]
        picks: list[float] = []
        while len(picks) < clients and len(rest):
            near = (rest[:, None] - rest).abs() < SAME
            best = int(near.sum(1).argmax())
            picks.append(float(rest[near[best]].median()))
            rest = rest[~near[best]]
        middle = sum(picks) / len(picks) if picks else 0.5
        rows[:, pixel] = torch.tensor(picks + [middle] * (clients - len(picks)))
    return rows


# ---------------------------------------------------------------------- nonlinear learners
class Inverted(NamedTuple):
    """``pictures [K, M]`` and the relative misfit of the sums they would give."""

    pictures: Tensor
    misfit: float


def joint_inversion(
    training: Training,
    sums: Sequence[Sum],
    clients: int,
    start: Tensor,
    steps: int,
    tell: Callable[[str], None],
    late: Callable[[], bool] = lambda: False,
) -> Inverted:
    r"""The set of pictures that, trained on, give the sums: damped Gauss-Newton.

    .. math:: \min_x \sum_t \frac{\lVert S_t - \sum_k \mathrm{sim}_t(x_k) \rVert^2}
        {\lVert S_t \rVert^2}

    with whole passes for batches, the clients' own training in double precision, and its derivative
    by finite differences. Nothing breaks the symmetry between clients but ``start``.

    Args:
        training: of the clients.
        sums: of one and the same group.
        clients: K, in it.
        start: ``[K, M]``; the mean picture with a little noise: at the mean itself all clients
            would move alike.
        steps: most iterations.
        tell: shows progress.
        late: whether to end with what there is.
    """
    found, samples = start.double().clone(), start.shape[1]
    scales = [float(heard.total.norm().clamp(min=1e-30)) for heard in sums]
    damping, cost = DAMPING, _misfit(training, sums, scales, found)
    for turn in range(steps):
        gram = torch.zeros(clients * samples, clients * samples, dtype=torch.float64)
        right = torch.zeros(clients * samples, dtype=torch.float64)
        for heard, scale in zip(sums, scales, strict=True):
            slope, made = _slope(training, heard.model, found)
            gram += slope.T @ slope / scale**2
            right += slope.T @ (heard.total - made) / scale**2
        better = False
        for _ in range(6):
            damped = gram.clone()
            damped.diagonal().add_(damping * float(gram.diagonal().mean()))
            move = torch.linalg.solve(damped, right).view(clients, samples)
            there = _misfit(training, sums, scales, found + move)
            if there < cost:
                gained = cost - there
                found, cost, better = found + move, there, True
                damping = max(damping / 4, 1e-12)
                break
            damping *= 4
        if turn % 10 == 9:
            tell(f"joint inversion: {turn + 1} of {steps} steps, misfit {cost:.1e}")
        if late() or not better or gained < 1e-6 * cost or cost < 1e-22:
            break
    return Inverted(found, cost)


def _misfit(
    training: Training, sums: Sequence[Sum], scales: Sequence[float], pictures: Tensor
) -> float:
    total = 0.0
    for heard, scale in zip(sums, scales, strict=True):
        made = training.updates(heard.model, pictures, None, passes=True).sum(0)
        total += float((heard.total - made).square().sum()) / scale**2
    return total / len(sums)


def _slope(training: Training, model: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """``([P, K M], [P])``: derivative of the sum by all pictures, and the sum itself."""
    samples = pictures.shape[1]
    parts = []
    total = torch.zeros(len(model), dtype=torch.float64)
    for one in pictures:
        nudged = one + NUDGE * torch.eye(samples, dtype=torch.float64)
        made = training.updates(model, torch.cat([one[None], nudged]), None, passes=True)
        total = total + made[0]
        parts.append((made[1:] - made[0]).T / NUDGE)
    return torch.cat(parts, 1), total


# ---------------------------------------------------------------------- membership
def likelihood_ratio(total: Tensor, candidates: Tensor, others: Tensor, clients: int) -> Tensor:
    r"""How much likelier a sum of pictures ``[M]`` is with each of ``candidates [N, M]`` in it than
    without, ``[N]``: normal pictures, their mean and covariance from ``others``.

    .. math:: \log \frac{N(s - x;\, (K-1)\mu, (K-1)\Sigma)}{N(s;\, K\mu, K\Sigma)}
    """
    middle = others.mean(0)
    away = others - middle
    variance = away.square().mean()
    # few pictures, many pixels: covariance in their span, the same variance elsewhere
    _, spread, axes = torch.linalg.svd(away, full_matrices=False)
    known = spread > 1e-6 * spread[0]
    axes, spread = axes[known], spread[known].square() / max(len(others) - 1, 1)
    rest = variance * 0.1

    def log_density(values: Tensor, count: int) -> Tensor:
        apart = values - count * middle
        along = apart @ axes.T
        scale = count * (spread + rest)
        beside = apart.square().sum(-1) - along.square().sum(-1)
        left = apart.shape[-1] - len(axes)
        return -0.5 * (
            (along.square() / scale).sum(-1) + scale.log().sum()
            + beside / (count * rest) + left * torch.log(count * rest)
        )  # fmt: skip

    return log_density(total - candidates, clients - 1) - log_density(total, clients)


def naive_clip(rows: Tensor, limit: float) -> Tensor:
    """A clip by norms in single precision, which overflow: the control of the overflow attack."""
    return rows * clip_factor(torch.linalg.vector_norm(rows, dim=-1, keepdim=True), limit)


def scored(found: Tensor, truth: Tensor, psnr: Callable[[Tensor, Tensor], float]) -> dict[str, Any]:
    """PSNR of named pictures ``[K, M]``, and how many are most like their own client's."""
    clients = len(truth)
    each = [psnr(found[k].clamp(0, 1), truth[k]) for k in range(clients)]
    one = found - found.mean(1, keepdim=True)
    other = truth - truth.mean(1, keepdim=True)
    like = (one @ other.T) / (one.norm(dim=1)[:, None] * other.norm(dim=1).clamp(min=1e-12)).clamp(
        min=1e-12
    )
    right = int((like.argmax(1) == torch.arange(clients)).sum())
    return {"psnr": sum(each) / clients, "right_client": right}


def matched(found: Tensor, truth: Tensor) -> Tensor:
    """A set of pictures in the order of the truth, by the assignment of least error: for scoring
    alone."""
    from scipy.optimize import linear_sum_assignment

    apart = torch.cdist(found, truth)
    rows, columns = linear_sum_assignment(apart.numpy())
    order = torch.empty(len(truth), dtype=torch.long)
    order[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return found[order]
