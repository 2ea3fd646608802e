"""Combinations that cannot work, refused before anything starts, each with its reason and what
would work.

Everything not refused here runs a round in ``tests/test_compositions.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedapp.config.exact import refuse_exact
from fedapp.config.local_loop import refuse_step_sizes, refuse_whole_passes
from fedapp.config.protection import refuse_private
from fedapp.metric_names import OURS
from privacy.releases import RELEASES
from sim.settings import RuntimeSettings
from strategies.learner import OBJECTIVE, LearnerTraits
from strategies.local import LEARNERS, LOCAL
from strategies.release import Release
from strategies.rule import Rule
from strategies.rules import RULES
from strategies.settings import ClientsSettings, LearnerSettings
from tasks import TASKS
from tasks.errors import InputError, nearest
from tasks.registry import load, reference
from tasks.settings import NOBODY
from tasks.types import Task, Trainable

if TYPE_CHECKING:
    from fedapp.config.experiment import Experiment

Learners = Mapping[str, Any]  # the classes of the methods, by name


def refuse_sums(experiment: Experiment) -> None:
    """Raise :class:`InputError` for the first thing that rounds of sums cannot do.

    The methods are learners; what learner, task, rule and release need of each other they say by
    traits, so that whoever derives from one, or names it by its module, is held to the same.
    """
    for method in experiment.method_list:
        reference("learner", method, {**LEARNERS, LOCAL: ""}, key="methods")
    if not experiment.trained_methods:
        raise InputError(
            "methods", experiment.methods, "nothing to train: local learns from nobody else",
            "add a method that trains, such as -o methods=fedmenf,local; valid: "
            f"{', '.join(sorted(LEARNERS))}",
        )  # fmt: skip
    learners = {
        method: load("learner", method, LEARNERS, key="methods")
        for method in experiment.trained_methods
    }
    rule: type[Rule] = load("rule", experiment.rule, RULES)
    release: type[Release] = load("release", experiment.release, RELEASES)
    task: type[Task] = load("task", experiment.task, TASKS)
    bases: list[tuple[str, str, Any, type]] = [
        ("methods", method, kind, LearnerTraits) for method, kind in learners.items()
    ]
    bases += [
        ("rule", experiment.rule, rule, Rule),
        ("release", experiment.release, release, Release),
        ("task", experiment.task, task, Trainable),
    ]
    for key, name, kind, base in bases:
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise InputError(
                key, name, f"is no class derived from {base.__name__}", f"see {base.__module__}"
            )
    refuse_idle_options(experiment)
    refuse_attacks(experiment, task)
    refuse(learners, experiment.clients, experiment.learner, experiment.runtime)
    refuse_mismatched(experiment, task, learners, rule)
    refuse_attendance(release, experiment)
    refuse_whole_passes(experiment, task)
    refuse_step_sizes(experiment, task, learners)
    if rule.counts_steps:
        refuse_noised_steps(experiment.rule, release, experiment.release, experiment.learner)
    refuse_private(
        release,
        experiment.release,
        experiment.privacy,
        experiment.clients,
        experiment.runtime,
        experiment.evaluation.uploads,
    )
    refuse_exact(experiment, task, learners, rule, release)


def refuse_attacks(experiment: Experiment, task: type[Task]) -> None:
    """Attacks at a run's end need fields, and the clients' data."""
    reason = ""
    if task.family != "field":
        reason = f"these attacks are on fields, task {experiment.task} has none"
    if experiment.data.hosted == NOBODY:
        reason = "the clients' data are on their own devices"
    if experiment.report.attacks and reason:
        raise InputError(
            "report.attacks", experiment.report.attacks, reason,
            "leave it out; `fedapp attack` looks at simulated runs of every kind",
        )  # fmt: skip


def refuse(
    learners: Learners,
    clients: ClientsSettings,
    learner: LearnerSettings,
    runtime: RuntimeSettings,
) -> None:
    """Numbers of clients, learners and their steps, shares of a GPU.

    Args:
        learners: the classes of the methods, by name.
        clients: the population.
        learner: the local loop.
        runtime: where it runs.
    """
    if clients.per_round > clients.total:
        raise InputError(
            "clients.per-round",
            clients.per_round,
            f"more than clients.total = {clients.total}",
            "0 means all",
        )
    if clients.min > (clients.per_round or clients.total):
        raise InputError(
            "clients.min",
            clients.min,
            f"a round has only {clients.per_round or clients.total} clients",
            f"set clients.min to {clients.per_round or clients.total} or fewer",
        )
    for method, kind in learners.items():
        if learner.inner_steps < kind.least_inner_steps:
            raise InputError(
                "learner.inner-steps",
                learner.inner_steps,
                f"{method} steps back from K inner steps; with K = {learner.inner_steps} it "
                "stands still",
                "set learner.inner-steps to 1 or more, or use the method erm",
            )
        if kind.spreads_a_budget and learner.steps_by_examples and not learner.fedmenf.total_steps:
            raise InputError(
                "learner.fedmenf.total-steps",
                0.0,
                "a budget is spread over steps, which differ by client",
                "give the most steps a client takes in the whole run, or set "
                "learner.steps-by-examples to false",
            )
        if kind.personal and learner.steps_by_examples:
            raise InputError(
                "learner.steps-by-examples",
                True,
                f"{method} take the same steps everywhere",
                "set it to false",
            )
    gpus = runtime.gpus_per_actor
    if gpus > 1 and gpus != int(gpus):
        raise InputError(
            "runtime.gpus-per-actor",
            gpus,
            "Ray places only whole cards above one",
            "use 1, 2, ... or a share below 1",
        )


def refuse_mismatched(
    experiment: Experiment, task: type[Task], learners: Learners, rule: type[Rule]
) -> None:
    """Pieces whose requirements the others do not meet.

    Args:
        experiment: names them.
        task: its class, not yet built; so are
        learners: of the methods, by name, and
        rule: of the server.
    """
    personal = [method for method, kind in learners.items() if kind.personal]
    if personal and not task.personalised:
        raise InputError(
            "methods",
            personal[0],
            f"task {experiment.task} has no personal parameters to train beside the shared ones",
            "use a task that has, such as talking-head, or another method",
        )
    for method, kind in learners.items():
        if clash := sorted(OURS & set(kind.metrics)):
            raise InputError(
                "methods",
                method,
                f"it declares the metric {clash[0]}, which the run measures itself",
                "call the learner's metric something else",
            )
        named = json.loads(experiment.privacy.metrics)
        if unknown := sorted(set(named) - {*kind.metrics, OBJECTIVE}):
            raise InputError(
                "privacy.metrics",
                unknown[0],
                f"{method} reports no such metric",
                nearest(unknown[0], (*kind.metrics, OBJECTIVE)),
            )
    wanted = set(rule.signals)
    silent = [method for method, kind in learners.items() if not wanted <= set(kind.measures)]
    if wanted and (silent or not task.personalised):
        raise InputError(
            "rule",
            experiment.rule,
            f"weighs clients by {' and '.join(rule.signals)}, which "
            f"{(silent or [*learners])[0]} on "
            f"task {experiment.task} does not measure",
            "use methods = adapters with task = talking-head, or the rule fedavg",
        )
    if rule.averages_gradients and personal:
        raise InputError(
            "rule",
            experiment.rule,
            "control variates are mean gradients, and adapters steps with AdamW",
            "use fedavg, fedprox or isfa",
        )
    if experiment.evaluation.uploads and not task.renders:
        raise InputError(
            "evaluation.uploads",
            True,
            f"an upload of task {experiment.task} renders to nothing by itself",
            "set it to false",
        )


def refuse_noised_steps(rule_name: str, release: Any, name: str, learner: LearnerSettings) -> None:
    """Numbers of steps (FedNova's) inside a noised sum: where they differ, noise would drown
    them."""
    if learner.steps_by_examples and release.placement != "none":
        raise InputError(
            "rule",
            rule_name,
            f"release {name} noises the clients' numbers of steps by far more than they differ",
            "use fedavg, or set learner.steps-by-examples to false",
        )


def refuse_attendance(release: type[Release], experiment: Experiment) -> None:
    """Clients who stay away by their own score go only where neither their absence nor a lone
    presence shows."""
    attendance = experiment.rules.isfa.attendance
    privacy = experiment.privacy
    rule: type[Rule] = load("rule", experiment.rule, RULES)
    if not rule.attends or attendance == 1:
        return
    if release.placement != "distributed":
        raise InputError(
            "rules.isfa.attendance",
            attendance,
            f"under release {experiment.release} a sum may show who stayed away, or hold "
            "one client "
            "alone",
            "use 1, or a release whose nodes add the noise (distributed-dp)",
        )
    if privacy.adaptive_clip or privacy.metrics != "{}":
        raise InputError(
            "rules.isfa.attendance",
            attendance,
            "who stays away would count as the middle of every private metric and clip bit",
            "use 1, or neither privacy.metrics nor privacy.adaptive-clip",
        )


def refuse_idle_options(experiment: Experiment) -> None:
    """Options of plug-ins where there is none to read them."""
    for key, value, names, ours in (
        ("task-options", experiment.task_options, [experiment.task], TASKS),
        ("learner.options", experiment.learner.options, experiment.method_list, LEARNERS),
        ("rules.options", experiment.rules.options, [experiment.rule], RULES),
    ):
        if json.loads(value) and all(name in ours or name == LOCAL for name in names):
            raise InputError(
                key,
                value,
                f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} no options: they are a "
                "plug-in's",
                "leave it out; `fedapp list keys` has the settings of ours",
            )
