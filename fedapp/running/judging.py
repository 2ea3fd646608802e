"""Judging a shared model on the server, with all the cores that idle clients leave."""

from __future__ import annotations

import torch
from torch import Tensor

from fedapp.config.pieces import Pieces
from fedapp.place import cores
from tasks.types import Evaluation


def judge(pieces: Pieces, model: Tensor, tune: bool) -> Evaluation:
    """Quality of ``model [P]`` on held-out data; ``tune`` adds the step-size search."""
    experiment = pieces.experiment
    runtime = experiment.runtime
    free = min(runtime.nodes * runtime.threads, cores())
    torch.set_num_threads(max(runtime.threads, free))  # clients are idle meanwhile
    try:
        evaluation: Evaluation = pieces.task.evaluate(
            model.to(pieces.device), experiment.evaluation, tune
        )
    finally:
        torch.set_num_threads(runtime.threads)
    return evaluation
