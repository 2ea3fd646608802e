"""What exact sums, and their provable mode, do not go together with: refused before anything
starts.

The provable mode's claim is about one step of plain gradient descent on whole pictures, summed as
it is (:mod:`privacy.exact`). Methods and rules are recognised by what they compute, not by their
names: whoever derives from one and changes that is another method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from privacy.releases.lattice import LatticeRelease
from privacy.secagg.identity import LEAST_HONEST, Policy
from strategies.local.erm import Erm
from strategies.release import Release
from strategies.rule import Rule
from strategies.rules.fedavg import FedAvg
from tasks.errors import InputError
from tasks.types import Task, Trainable

if TYPE_CHECKING:
    from fedapp.config.experiment import Experiment


def refuse_exact(
    experiment: Experiment,
    task: type[Task],
    learners: Mapping[str, Any],
    rule: type[Rule],
    release: type[Release],
) -> None:
    """Raise :class:`InputError` for the first thing that does not hold.

    Args:
        experiment: what was asked for.
        task, rule, release: their classes.
        learners: the methods' classes, by name.
    """
    privacy, clients = experiment.privacy, experiment.clients
    ours = getattr(release, "encode", None) is LatticeRelease.encode
    if privacy.exact and not (release.exact() and release.placement == "none" and ours):
        raise InputError(
            "privacy.exact",
            True,
            f"release {experiment.release} is not one of sums without noise",
            "leave it out, or use the release secagg",
        )
    if not release.exact():
        if privacy.group_size:
            raise InputError(
                "privacy.group-size",
                privacy.group_size,
                f"release {experiment.release} has no sums that a server sees exactly",
                "leave it out, or use the release secagg",
            )
        return
    if clients.per_round not in (0, clients.total):
        raise InputError(
            "clients.per-round",
            clients.per_round,
            f"under {experiment.release} the server sees sums exactly, and of members that change "
            "they tell them apart over a run: nodes refuse",
            "use 0 (everybody), or noise that nodes add: the release distributed-dp",
        )
    nodes = min(experiment.runtime.nodes, privacy.group_size or experiment.runtime.nodes)
    if nodes - privacy.colluding < LEAST_HONEST:
        raise InputError(
            "privacy.colluding",
            privacy.colluding,
            f"of the {nodes} nodes of a sum that a server sees exactly, {LEAST_HONEST} must be "
            "honest, or it is next to nobody's",
            f"use {max(nodes - LEAST_HONEST, 0)} or fewer, or more nodes",
        )
    _refuse_groups(experiment)
    if privacy.exact:
        _refuse_unprovable(experiment, task, learners, rule)


def _refuse_groups(experiment: Experiment) -> None:
    privacy, nodes = experiment.privacy, experiment.runtime.nodes
    least = Policy().min_nodes
    if privacy.group_size and not least <= privacy.group_size <= nodes:
        raise InputError(
            "privacy.group-size",
            privacy.group_size,
            f"a group hides a node among {least} or more, and there are {nodes} nodes",
            f"use 0 (one group), or {least} to {nodes}",
        )
    if privacy.group_size and privacy.adaptive_clip:
        raise InputError(
            "privacy.adaptive-clip",
            True,
            "several groups have no clip in common to adapt",
            "set it to false, or privacy.group-size to 0",
        )


def _refuse_unprovable(
    experiment: Experiment, task: type[Task], learners: Mapping[str, Any], rule: type[Rule]
) -> None:
    for method, kind in learners.items():
        if getattr(kind, "step", None) is not Erm.step or kind.clips_itself:
            raise InputError(
                "methods",
                method,
                "privacy.exact proves something of one plain gradient step alone",
                "use erm",
            )
    if rule.contribute is not FedAvg.contribute or rule.correct is not Rule.correct or rule.scalars:
        raise InputError(
            "rule",
            experiment.rule,
            "privacy.exact proves something of a plain sum of updates alone",
            "use fedavg",
        )
    if not (issubclass(task, Trainable) and task.bounds_gradients):
        raise InputError(
            "task",
            experiment.task,
            "privacy.exact needs a bound of its gradients from the model alone",
            "use image",
        )
    learner, privacy, data = experiment.learner, experiment.privacy, experiment.data
    wanted: list[tuple[str, Any, Any, str]] = [
        ("learner.outer-steps", learner.outer_steps, 1, "second moments leak from more steps"),
        ("learner.steps-by-examples", learner.steps_by_examples, False, "one step is one step"),
        ("learner.outer-rates", learner.outer_rates, "", "one step size is bounded, and taken"),
        ("learner.batch-size", learner.batch_size, 0, "a step is on all of a picture, in order"),
        ("privacy.max-examples", privacy.max_examples, 0, "all clients weigh the same"),
        ("privacy.adaptive-clip", privacy.adaptive_clip, False, "no clip may act, or tell"),
        ("privacy.metrics", privacy.metrics, "{}", "nothing travels beside the update"),
        ("data.objects", data.objects, 1, "a client holds one picture"),
        ("data.alpha", data.alpha, 0.0, "a client holds one picture"),
        ("field.compiled", experiment.field.compiled, False, "the step is in double precision"),
    ]
    if not data.size:
        raise InputError(
            "data.size", 0, "not with privacy.exact: pictures of one size are summed", "set it"
        )
    for key, value, needed, reason in wanted:
        if value != needed:
            raise InputError(
                key, value, f"not with privacy.exact: {reason}", f"use {needed!r}".lower()
            )
