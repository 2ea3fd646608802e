"""From the names in a config to the objects they stand for, one for each axis."""

from __future__ import annotations

import torch

from fedapp.config.experiment import Experiment
from privacy.accounting import calibrate_known_cohort
from privacy.releases import RELEASES
from privacy.sampling import Sampler
from privacy.settings import PrivacySettings
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
    settings, clients = experiment.learner, experiment.clients
    if not settings.fedmenf.total_steps:
        share = (clients.per_round or clients.total) / clients.total
        steps = experiment.rounds * settings.outer_steps * share
        settings = settings.model_copy(
            update={"fedmenf": settings.fedmenf.model_copy(update={"total_steps": steps})}
        )
    return load("learner", method, LEARNERS, key="methods")(settings)


def build_rule(experiment: Experiment) -> Rule:
    """The aggregation rule."""
    rules = experiment.rules
    if (
        not experiment.learner.steps_by_examples
    ):  # all clients take the same steps, and everybody knows how many
        nova = rules.fednova.model_copy(
            update={"steps": rules.fednova.steps or experiment.learner.outer_steps}
        )
        rules = rules.model_copy(update={"fednova": nova})
    reach = experiment.learner.outer_steps * experiment.learner.outer_rate
    scaffold = rules.scaffold.model_copy(update={"scale": rules.scaffold.scale or reach})
    most = rules.isfa.max_examples or experiment.talking_head.clips
    isfa = rules.isfa.model_copy(update={"max_examples": most})
    return load("rule", experiment.rule, RULES)(
        rules.model_copy(update={"scaffold": scaffold, "isfa": isfa})
    )


def build_release(experiment: Experiment, size: int) -> Release:
    """The way the sum of contributions of ``size`` numbers is made."""
    scalars = getattr(build_rule(experiment), "scalars", {})
    release = load("release", experiment.release, RELEASES)
    return (
        release(resolve_noise(experiment), size, scalars)
        if scalars
        else release(resolve_noise(experiment), size)
    )


def resolve_noise(experiment: Experiment) -> PrivacySettings:
    """The privacy settings with the noise multiplier that ``target-epsilon`` asks for, if it is
    given.

    The target is what the run may cost its population with known cohorts, all methods and seeds
    together.
    """
    privacy, clients = experiment.privacy, experiment.clients
    if privacy.noise_multiplier > 0 or privacy.target_epsilon == 0:
        return privacy
    sampler = Sampler(privacy.sampling, 0, clients.total, clients.per_round)
    arms = len(experiment.trained_methods) * len(experiment.seed_list)
    multiplier = calibrate_known_cohort(
        privacy.target_epsilon, privacy.delta, arms * sampler.most(experiment.rounds)
    )
    return privacy.model_copy(update={"noise_multiplier": multiplier * (1 + 1e-9)})


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU this process sees, if any; a GPU asked for and not seen is an error,
    never CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            "runtime.device",
            name,
            "this process sees no CUDA device",
            "use cpu or auto, or set runtime.gpus-per-actor",
        )
    return torch.device(name)
