"""Crafted models on a run's clients: by their own clip, by a naive one (the control), and by nodes
that ask themselves whether a clip could act."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedapp.attacks.rounds_controls import Small
from fedapp.config.pieces import Pieces
from privacy.attacks import crafted
from privacy.attacks.many_rounds import Training
from privacy.exact import Bounds, linearised, objection
from tasks.metrics import psnr

Row = dict[str, Any]
LIMIT = 5.0  # the clip of gradients that the attacks make act


def active_clip(pieces: Pieces, small: Small, clear: float) -> Row:
    """Members that a clip leaves alone; the control is one step of the run's clients, clipped.

    Args:
        pieces: of the run: in the provable mode its nodes are asked first.
        small: its pictures, as small as the attack needs them.
        clear: dB above the mean picture from which a member counts as recovered.
    """
    training = _step_of(small)
    rate = training.learner.outer_rate

    def ask(model: Tensor) -> Tensor:
        return training.updates(model, small.truth, None).sum(0)

    control = _alone(crafted.active_clip(training.task, ask, rate, LIMIT), small.truth, clear)
    if small.noise:
        noised = _noised(small, ask)
        found = crafted.active_clip(training.task, noised, rate, LIMIT)
        return _alone(found, small.truth, clear) | {"control": control}
    if not pieces.experiment.privacy.exact:
        return control | {"control": control}
    return _asked_first(pieces, small, crafted.active_clip, (LIMIT,), clear, control)


def overflow(pieces: Pieces, small: Small, clear: float) -> Row:
    """Members whose norm overflows; the control clips by norms in single precision."""
    training = _step_of(small)
    rate = training.learner.outer_rate
    mine, naive = small.single_precision(training, False), small.single_precision(training, True)
    asks = (_noised(small, mine) if small.noise else mine, naive)
    own, control = (
        _alone(crafted.overflow(training.task, ask, rate), small.truth, clear) for ask in asks
    )
    if not pieces.experiment.privacy.exact:
        return own | {"control": control}
    return _asked_first(pieces, small, crafted.overflow, (), clear, control)


def _noised(small: Small, ask: crafted.Ask) -> crafted.Ask:
    """Sums with the noise that the run's nodes add."""
    stream = torch.Generator().manual_seed(0)

    def noised(model: Tensor) -> Tensor | None:
        total = ask(model)
        if total is None:
            return None
        draw = torch.randn(total.shape, generator=stream, dtype=torch.float64)
        return total + small.noise * draw

    return noised


def _step_of(small: Small) -> Training:
    return small.training("erm", outer_steps=1, batch_size=0, outer_clip=LIMIT)


def _asked_first(
    pieces: Pieces,
    small: Small,
    attack: Callable[..., list[Tensor]],
    limits: tuple[float, ...],
    clear: float,
    control: Row,
) -> Row:
    """The attack on nodes of the provable mode: no sum comes of a model that they refuse, and no
    clip acts at the others."""
    experiment, truth = pieces.experiment, small.truth
    training = _step_of(small)
    clips = Bounds.of(experiment.learner.outer_clip, experiment.privacy.clip_norm, len(truth))
    asked = refused = 0

    def ask(model: Tensor) -> Tensor | None:
        nonlocal asked, refused
        asked += 1
        if objection(training.task, model, training.learner, clips):
            refused += 1
            return None
        values, jacobian, _, _ = linearised(training.task, model)
        apart = (values - truth).sum(0)
        return -training.learner.outer_rate * 2 / len(values) * (apart @ jacobian)

    row = _alone(attack(training.task, ask, training.learner.outer_rate, *limits), truth, clear)
    note = f"{refused} of {asked} crafted models refused by every node before it reads its data"
    return row | {"control": control, "note": note}


def _alone(found: Sequence[Tensor], truth: Tensor, clear: float) -> Row:
    """Each client's best candidate, the mean picture where none is better (for scoring)."""
    candidates = [*found, truth.mean(0)]
    best = [max(psnr(one.clamp(0, 1), each) for one in candidates) for each in truth]
    mean = [psnr(truth.mean(0), each) for each in truth]
    alone = sum(b > m + clear for b, m in zip(best, mean, strict=True))
    return {
        "psnr": float(np.mean(best)), "floor": float(np.mean(mean)), "alone": alone,
        "note": f"{alone} of {len(truth)} alone; pictures of 8 x 8, one whole step (a server sets "
        "it)",
    }  # fmt: skip
