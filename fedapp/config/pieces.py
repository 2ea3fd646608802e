"""From the names in a config to the objects they stand for, one for each axis."""

from __future__ import annotations

import torch

from fedapp.config.experiment import Experiment
from privacy.releases import RELEASES
from strategies.local import LEARNERS
from strategies.rules import RULES
from strategies.types import Learner, Release, Rule
from tasks import TASKS
from tasks.errors import InputError
from tasks.registry import load
from tasks.types import Task


def build_task(experiment: Experiment) -> Task:
    """The task, given all task settings."""
    return load("task", experiment.task, TASKS)(experiment)


def build_learner(experiment: Experiment, method: str) -> Learner:
    """The learner a method name stands for."""
    return load("learner", method, LEARNERS, key="methods")(experiment.learner)


def build_rule(experiment: Experiment) -> Rule:
    """The aggregation rule."""
    return load("rule", experiment.rule, RULES)(experiment.rules)


def build_release(experiment: Experiment) -> Release:
    """The way the sum is made."""
    return load("release", experiment.release, RELEASES)()


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU this process sees, if any; a GPU asked for and not seen is an error, never CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            "runtime.device", name, "this process sees no CUDA device", "use cpu or auto, or set runtime.gpus-per-actor"
        )
    return torch.device(name)
