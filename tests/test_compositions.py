"""Everything composes or is refused with a reason: a round of every (task, learner, rule, release).

Every pair of choices on any two axes runs by default: all (task, learner, rule), each under one
release in turn. The rest of the product, which takes ten minutes more, is marked ``exhaustive``
(``pytest -m exhaustive``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedapp.config.experiment import Experiment
from fedapp.store.runfolder import RunFolder
from privacy.releases import RELEASES
from strategies.local import LEARNERS
from strategies.rules import RULES
from tasks import TASKS as EVERY_TASK
from tasks.errors import InputError
from tasks.registry import load

# those that rounds of sums train; what another workflow composes is in its own tests
TASKS = [name for name in EVERY_TASK if load("task", name, EVERY_TASK).workflow == "sums"]

SMALLEST = {
    "evaluation.steps": "0",
    "data.held-out": 1,
    "learner.inner-steps": 1,
    "learner.outer-steps": 1,
    "learner.batch-size": 2,
    "talking-head.clips": 1,
    "talking-head.frames": 2,
}


BEYOND = (pytest.mark.exhaustive, pytest.mark.slow)
FIELDS: dict[str, dict[str, Any]] = {
    "head-template": {
        "evaluation.uploads": False,
        "data.size": 8,
        "template.people": 2,
        "template.components": 1,
    },
    "video": {"data.size": 6, "data.frames": 2},
    "nerf": {
        "data.size": 6,
        "data.support-views": 1,
        "data.query-views": 1,
        "field.samples": 3,
        "field.frequencies": 2,
        "evaluation.batch-size": 8,
    },
}


def refused(task: str, learner: str, rule: str) -> str:
    """The key that a combination is refused for; empty if it runs. Whatever the release."""
    if learner == "adapters" and task != "talking-head":
        return "methods"  # nothing personal to train
    if rule == "isfa" and (learner, task) != ("adapters", "talking-head"):
        return "rule"  # nobody measures reliability
    if rule == "scaffold" and learner == "adapters":
        return "rule"  # control variates of AdamW steps mean nothing
    return ""


def product() -> list[Any]:
    """Every combination; those beyond the pairwise cover are marked."""
    rows = []
    axes = [list(enumerate(axis)) for axis in (TASKS, LEARNERS, RULES, RELEASES)]
    for (t, task), (m, learner), (r, rule), (k, release) in itertools.product(*axes):
        turn = (t + m + r) % len(RELEASES) == k
        rows.append(pytest.param(task, learner, rule, release, marks=() if turn else BEYOND))
    return rows


def test_the_default_cover_holds_every_pair() -> None:
    kept = [row.values for row in product() if not row.marks]
    for one, other in itertools.combinations(range(4), 2):
        wanted = set(
            itertools.product(
                *(
                    [list(TASKS), list(LEARNERS), list(RULES), list(RELEASES)][a]
                    for a in (one, other)
                )
            )
        )
        assert {(values[one], values[other]) for values in kept} == wanted


@pytest.fixture
def shapeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of a template are balls and newcomers are not fitted: rounds are what is tried here."""
    from tasks.head import template
    from tasks.head.template_task import HeadTemplate
    from tasks.types import Evaluation

    def ball(task: HeadTemplate, client: int) -> torch.Tensor:
        distances = template.corners(template.LATTICE).norm(dim=-1) - 0.3 - 0.01 * client
        return template.cut(distances)

    def judged(task: HeadTemplate, model: torch.Tensor, *_: Any) -> Evaluation:
        return Evaluation({"mean_residual": float(model.abs().mean())}, {})

    monkeypatch.setattr(HeadTemplate, "_fitted", ball)
    monkeypatch.setattr(HeadTemplate, "evaluate", judged)
    monkeypatch.setattr("tasks.head.template_task.remembered", lambda _, make: make())
    monkeypatch.setattr(
        template, "of_person", lambda number, style, side: template.corners(side).norm(dim=-1) - 0.3
    )


@pytest.mark.parametrize(("task", "learner", "rule", "release"), product())
def test_a_round_runs_or_is_refused(
    run: Callable[..., RunFolder],
    shapeless: None,
    head: dict[str, Any],
    task: str,
    learner: str,
    rule: str,
    release: str,
) -> None:
    changes: dict[str, Any] = (
        (head | SMALLEST) if task == "talking-head" else dict(FIELDS.get(task, {}))
    )
    changes |= {
        "task": task,
        "methods": learner,
        "rule": rule,
        "release": release,
        "rounds": 1,
        "report.pictures": False,
        "clients.total": 5,
    }
    if release != "plain":
        changes |= {"evaluation.uploads": False, "privacy.epsilon-max": 100.0}
    key = refused(task, learner, rule)
    if key:
        with pytest.raises(InputError) as caught:
            run(**changes)
        assert caught.value.key == key and caught.value.remedy
        return
    folder = run(nodes=5 if release != "plain" else 2, **changes)
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    assert event["clients"] == {"ok": 5, "failed": 0}
    assert ("psnr_p" in event["metrics"]) == (
        release == "plain" and task not in ("talking-head", "head-template")
    )
    assert (event["epsilon"] is not None) == release.endswith("dp")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"clients.per-round": 9}, "clients.per-round"),
        ({"clients.min": 5}, "clients.min"),
        ({"methods": "reptile", "learner.inner-steps": 0}, "learner.inner-steps"),
        ({"runtime.gpus-per-actor": 1.5}, "runtime.gpus-per-actor"),
        ({"methods": "local"}, "methods"),
        ({"methods": "maml,maml"}, "methods"),
        ({"data.channels": 2}, "data.channels"),
    ],
)
def test_what_cannot_work_is_refused_with_key_reason_and_remedy(
    smoke: Callable[..., dict[str, Any]], changes: dict[str, Any], key: str
) -> None:
    from fedapp.config.pieces import Pieces

    with pytest.raises(InputError) as caught:
        assert Pieces(Experiment.from_run_config(smoke(**changes))).task
    error = caught.value
    assert error.key == key and error.reason and error.remedy
