"""Settings of the local loop and its data that some tasks or learners cannot follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from strategies.learner import Learner
from strategies.local import LEARNERS
from tasks.errors import InputError, nearest
from tasks.types import Task, Trainable

if TYPE_CHECKING:
    from fedapp.config.experiment import Experiment


def refuse_whole_passes(experiment: Experiment, task: type[Task]) -> None:
    """A batch of all samples, where a task has no such thing."""
    if experiment.learner.batch_size == 0 and not (
        issubclass(task, Trainable) and task.whole_passes
    ):
        raise InputError(
            "learner.batch-size",
            0,
            f"task {experiment.task} draws its batches",
            "use 1 or more",
        )


def refuse_step_sizes(
    experiment: Experiment, task: type[Task], learners: Mapping[str, Any]
) -> None:
    """Step sizes of methods that take none of ours, and a tuning population that is not there."""
    if experiment.data.skip and (task.family != "field" or experiment.data.path):
        raise InputError(
            "data.skip",
            experiment.data.skip,
            "only signals that are bundled or made of numbers can be passed over",
            "set it to 0",
        )
    for method in experiment.learner.rates:  # of a recipe: not all of them need be run
        if method not in learners and method not in LEARNERS and ":" not in method:
            raise InputError(
                "learner.outer-rates", method, "no such method", nearest(method, LEARNERS)
            )
        if method in learners and not issubclass(learners[method], Learner):
            raise InputError(
                "learner.outer-rates", method, "it takes no outer steps of ours",
                "set its own step size",
            )  # fmt: skip
