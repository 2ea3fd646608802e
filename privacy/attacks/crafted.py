r"""A server that lies: models at which a clip tells the members of an exact sum apart.

With the second layer of a SIREN at zero its output is one number f everywhere, and the gradient of
that layer is :math:`\omega M \sum_i \delta_i a(p_i)` with :math:`\delta = \frac2N (f - x)`, a the
first layer's waves, which the server chooses, and M an output weight, which it chooses as well.

**Active clip.** A member whose gradient is longer than G adds :math:`G` times a direction, which
does not depend on M; one that is not clipped adds something in proportion to M. As M grows members
are clipped one by one, the last one being he whose brightness is nearest to f, and just before that
the difference of two sums is his picture alone.

**Overflow.** A norm taken in single precision becomes infinite at some M, and :math:`G / \infty =
0`: the member adds nothing and is counted. The difference of two sums is then his direction, and
the M at which it happened its length.

Crafted models against federated learning: *When the Curious Abandon Honesty*, F. Boenisch et al.,
EuroS&P 2023, https://arxiv.org/abs/2112.02918; *LOKI*, J. C. Zhao et al., S&P 2024,
https://arxiv.org/abs/2303.12233. Against secure aggregation by several models: *Eluding Secure
Aggregation*, D. Pasquini, D. Francati, G. Ateniese, CCS 2022, https://arxiv.org/abs/2111.07380.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tasks.randomness import generator

WAVES = 40  # sets of waves that are drawn, of which the best conditioned is used
GROWTH = 1.06  # of M from one sum to the next
RUNGS = 100  # sums of a ladder
FINE = 1.01  # the same near an overflow
LEVELS = tuple(0.05 + 0.1 * index for index in range(10))  # outputs f
OVERFLOW = 1.8447e19  # the root of the largest number in single precision
ALIKE = 1e-3  # of two differences that are one member's
Ask = Callable[[Tensor], Tensor | None]  # a model [P] -> the sum [P] of updates; None: refused


class Craft(NamedTuple):
    """A family of crafted models: first layer ``weight [W, 2]``, ``bias [W]``, and its ``waves [W,
    N]``."""

    weight: Tensor
    bias: Tensor
    waves: Tensor


def craft(task: Any) -> Craft:
    """The best conditioned of some random waves on the pixels of a picture; W should be at least
    N."""
    side, field = task.size, task.siren
    if field.depth != 2 or field.width < side**2:
        raise ValueError(
            f"needs 2 hidden layers and {side**2} units, not {field.depth} and {field.width}"
        )
    line = torch.linspace(-1, 1, side, dtype=torch.float64) if side > 1 else torch.zeros(1)
    places = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).view(-1, 2)
    best: Craft | None = None
    worst = math.inf
    for number in range(WAVES):
        stream = generator("crafted waves", number)
        reach = math.pi * (side - 1) / 2 / field.omega
        weight = (2 * torch.rand(field.width, 2, generator=stream).double() - 1) * reach
        bias = torch.rand(field.width, generator=stream).double() * 2 * math.pi / field.omega
        waves = torch.sin(field.omega * (weight @ places.T + bias[:, None]))
        spread = torch.linalg.svdvals(waves)
        condition = float(spread[0] / spread[min(waves.shape) - 1].clamp(min=1e-12))
        if condition < worst:
            best, worst = Craft(weight, bias, waves), condition
    assert best is not None, "some waves are always drawn"
    return best


def model_of(task: Any, made: Craft, level: float, scale: float) -> Tensor:
    """The crafted model ``[P]`` with output ``level`` and output weight ``scale``."""
    model = torch.zeros(task.layout.size)
    named = task.layout.unflatten(model)
    last = len(task.siren.widths) - 2
    named["layers.0.weight"][:] = made.weight.float()
    named["layers.0.bias"][:] = made.bias.float()
    named[f"layers.{last}.weight"][:, 0] = scale
    named[f"layers.{last}.bias"][:] = level - 0.5
    return model


def feature(task: Any, total: Tensor) -> Tensor:
    """What a sum says of the waves ``[W]``: its part of the second layer's first unit."""
    return task.layout.unflatten(total.double())["layers.1.weight"][0]


def picture(task: Any, made: Craft, level: float, along: Tensor) -> Tensor:
    """The picture ``[N]`` of a member whose update, for M = 1 and step size 1, is ``along [W]``."""
    right = -along[:, None] / task.siren.omega
    delta = torch.linalg.lstsq(made.waves, right, driver="gelsd").solution[:, 0]
    return level - delta * made.waves.shape[1] / 2


def active_clip(task: Any, ask: Ask, rate: float, limit: float) -> list[Tensor]:
    """Pictures ``[N]`` of members that were alone in not being clipped, or alone beside members
    whose pictures are known by then.

    Args:
        task: of pictures of N pixels, with at least as many waves.
        ask: the sum at a crafted model.
        rate: step size of the one step.
        limit: G, the clip of gradients.
    """
    made = craft(task)
    ladders = {level: _ladder(task, ask, made, level, rate, limit) for level in LEVELS}
    found: list[Tensor] = []
    grown = True
    while grown:
        grown = False
        for level, sums in ladders.items():
            new = _alone(task, made, level, sums, found, limit)
            if new is not None and all(float((new - one).norm()) > 1e-2 for one in found):
                found.append(new)
                grown = True
    return found


class Step(NamedTuple):
    """Two sums of a ladder: from ``low`` to ``high`` members that are not clipped add ``slope
    [W]`` for each unit of M."""

    low: float
    high: float
    slope: Tensor


def _ladder(
    task: Any, ask: Ask, made: Craft, level: float, rate: float, limit: float
) -> list[Step]:
    """Differences of sums as M grows, from where nobody is clipped to where all are."""
    scale = limit / (task.siren.omega * 3.0)
    steps: list[Step] = []
    first = ask(model_of(task, made, level, scale))
    before = None if first is None else feature(task, first) / rate
    for _ in range(RUNGS):
        high = scale * GROWTH
        total = ask(model_of(task, made, level, high))
        now = None if total is None else feature(task, total) / rate
        if before is None or now is None:  # refused: with it, what it would be told apart by
            scale, before = high, now
            continue
        steps.append(Step(scale, high, (now - before) / (high - scale)))
        scale, before = high, now
    return steps


def _alone(
    task: Any,
    made: Craft,
    level: float,
    steps: list[Step],
    known: list[Tensor],
    limit: float,
) -> Tensor | None:
    """The picture of whoever is left when all others are clipped, or known."""
    added = [_added(task, made, level, one) for one in known]
    lengths = [_length(task, made, level, one) for one in known]
    if not steps:
        return None
    first = float(steps[0].slope.norm().clamp(min=1e-30))
    if float(steps[-1].slope.norm()) > 1e-3 * first:
        return None  # not all are clipped even at the last: whoever is left is not alone
    rest: list[Tensor | None] = []
    for step in steps:
        own = step.slope.clone()
        crossing = False
        for vector, length in zip(added, lengths, strict=True):
            if step.high * length < limit:
                own -= vector
            elif step.low * length < limit:
                crossing = True  # a known member is clipped in between: nothing can be said
        rest.append(None if crossing else own)
    for upper, lower in zip(rest[::-1], rest[-2::-1], strict=False):
        if upper is None or lower is None or float(upper.norm()) < 1e-4 * first:
            continue
        if float((upper - lower).norm()) < ALIKE * float(upper.norm()):
            return picture(task, made, level, upper)
    return None


def _added(task: Any, made: Craft, level: float, one: Tensor) -> Tensor:
    """What a member with picture ``one [N]`` adds to :func:`feature` for each unit of M ``[W]``."""
    return -task.siren.omega * (made.waves @ (2 / len(one) * (level - one)))


def _length(task: Any, made: Craft, level: float, one: Tensor) -> float:
    """Norm of its gradient for each unit of M: that of the waves and of the second layer's bias."""
    bias = task.siren.omega * float((2 / len(one) * (level - one)).sum())
    return math.hypot(float(_added(task, made, level, one).norm()), bias)


def overflow(task: Any, ask: Ask, rate: float) -> list[Tensor]:
    """Pictures of members whose norm overflowed and who added nothing, one at a time."""
    made = craft(task)
    level = 0.5
    found = []
    scale = OVERFLOW / (task.siren.omega * 3.0)
    first = ask(model_of(task, made, level, scale))
    before = None if first is None else feature(task, first)
    for _ in range(700):
        scale *= FINE
        total = ask(model_of(task, made, level, scale))
        now = None if total is None else feature(task, total)
        if before is None or now is None:
            before = now
            continue
        gone = before - now
        if float(gone.norm()) > 1e-3 * float(before.norm().clamp(min=1e-30)):
            length = OVERFLOW / scale
            found.append(picture(task, made, level, gone / gone.norm() * length))
        before = now
        if float(now.norm()) == 0:
            break
    return found
