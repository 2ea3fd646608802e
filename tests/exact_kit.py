"""The provable mode as tests try it: a node's own trainer on pictures of the test's choice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.pieces import Pieces
from fedapp.config.recipes import read_recipe
from fedapp.node.sums import _trainer
from privacy.exact import Bounds
from privacy.ring import signed
from strategies.cohort import Assignment, CohortTrainer
from strategies.types import Broadcast, Payload
from tasks.image import ImageTask
from tasks.signals import ClientSignals, sampled

SIDE, MEMBERS, CLIP, RATE = 8, 5, 0.5, 0.05
EXACT: dict[str, Any] = {
    "methods": "erm", "release": "secagg", "privacy.exact": True, "learner.outer-steps": 1,
    "learner.batch-size": 0, "learner.outer-rate": RATE, "learner.outer-clip": 9.0,
    "privacy.clip-norm": CLIP, "data.size": SIDE, "data.channels": 1, "clients.total": MEMBERS,
    "runtime.nodes": MEMBERS, "evaluation.uploads": False, "rules.server-clip": 0.0,
}  # fmt: skip


class Pictures:
    """A source whose clients hold what they are given."""

    def __init__(self, pictures: Sequence[Tensor]) -> None:
        self.pictures = pictures

    def client(self, client: int) -> Any:
        return ClientSignals(str(client), (sampled(str(client), self.pictures[client]),))


def trainer_of(experiment: Experiment, pictures: Tensor, side: int = SIDE) -> CohortTrainer:
    """A node's own trainer, whose clients hold these pictures ``[K, M]``."""
    config = json.dumps(experiment.to_run_config(), sort_keys=True)
    method = experiment.trained_methods[0]
    clips = None
    if experiment.privacy.exact:
        clips = Bounds.of(
            experiment.learner.outer_clip, experiment.privacy.clip_norm, len(pictures)
        )
    trainer, _ = _trainer.__wrapped__(config, method, 0, "", False, True, None, clips)
    task: Any = trainer.task
    task.source = Pictures(list(pictures.reshape(len(pictures), side, side, 1)))
    return trainer


def summed(
    trainer: CohortTrainer, model: Tensor, members: int, number: int = 1
) -> tuple[Tensor, float]:
    """The unmasked sum ``[P]`` in levels, one client a node, and levels per unit; masks cancel and
    are left out."""
    release = trainer.release
    public = release.open(members, members, members, members)
    total: Payload | None = None
    for client in range(members):
        order = Assignment(number, 0, (client,), (0,), public)
        result = trainer.run(Broadcast(model, {}, number), order)
        assert result.payload is not None and not result.failures
        if total is None:
            total = result.payload
        else:
            total.add(result.payload)
    assert total is not None
    found = signed(total.vector.numpy().view("uint32")[:-4])
    return torch.from_numpy(found).double(), float(public["levels"])


def two_sets(seed: int, amount: float) -> tuple[Tensor, Tensor]:
    """Two sets of pictures with the same sum: multiples of 1/256, so that sums are exact."""
    stream = torch.Generator().manual_seed(seed)
    one = torch.randint(257, (MEMBERS, SIDE * SIDE), generator=stream)
    other = one.clone()
    for _ in range(3):
        first, second = torch.randperm(MEMBERS, generator=stream)[:2].tolist()
        room = torch.minimum(other[first], 256 - other[second])
        moved = (room * amount * torch.rand(room.shape, generator=stream)).long()
        other[first] -= moved
        other[second] += moved
    assert torch.equal(one.sum(0), other.sum(0)) and int(other.min()) >= 0
    assert not torch.equal(one, other)
    return one / 256, other / 256


BRIGHT = {
    "all alike": torch.full((5, 64), 0.5),
    "spread": torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])[:, None].expand(5, 64),
    "extreme": torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0])[:, None].expand(5, 64),
}


def configured(**changes: Any) -> Experiment:
    """The smallest run of the provable mode, with changes."""
    return Experiment.from_run_config(known_keys() | read_recipe("smoke") | EXACT | changes)


def task_of(**changes: Any) -> ImageTask:
    """Its task."""
    task: ImageTask = Pieces(configured(**changes)).task
    return task
