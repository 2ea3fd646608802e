"""The field benchmark: both loops compute what ours does; launches and synchronisations are
counted, not guessed."""

from __future__ import annotations

import pytest
import torch

from sim.bench.fields import CLIP, INNER_STEPS, RATE, Problem, batched, images, launches, objects
from sim.bench.loops import Inner, as_published, lean
from sim.bench.trainer import agree
from strategies.local.meta import Meta
from tasks.errors import FedappError
from tasks.fields.radiance import RadianceDerivatives
from tasks.fields.siren import SirenDerivatives


@pytest.mark.parametrize(
    "problem", [images(16, 2, 3, 8), objects(8, 2, 2, 4, 4)], ids=["siren", "radiance"]
)
@pytest.mark.parametrize("clip", [CLIP, 0.05], ids=["clip inactive", "clip active"])
def test_ours_and_both_loops_give_the_same_meta_gradient(problem: Problem, clip: float) -> None:
    ours = batched(problem, Meta(INNER_STEPS, RATE, clip, outer_rate=1.0))()
    agree(ours, lean(problem.field, Inner(RATE, clip), problem.params, problem.episode), 2e-3)
    agree(
        ours, as_published(problem.field, Inner(RATE, clip), problem.params, problem.cohort), 2e-3
    )
    with pytest.raises(FedappError, match="no ratio"):
        agree(
            ours * 1.01,
            lean(problem.field, Inner(RATE, clip), problem.params, problem.episode),
            2e-3,
        )


@pytest.mark.parametrize(
    "build", [lambda c: images(64, 3, c, 4), lambda c: images(16, 5, c, 4), lambda c: objects(8, 4, c, 3, 4)],
    ids=["siren 3", "siren 5", "radiance 4"],
)  # fmt: skip
def test_launches_do_not_depend_on_the_cohort(build: object) -> None:
    """K = 8, FedMeNF's objective with its negative term; what would launch nothing (views) is not
    counted."""
    one, many = launches(build(1)), launches(build(5))  # type: ignore[operator]
    assert one.total == many.total <= 1500
    assert one.syncs == many.syncs == 0


def test_a_siren_launches_less_than_a_thousand() -> None:
    assert launches(images(16, 5, 2, 4)).total <= 1000


def test_a_synchronisation_would_be_counted() -> None:
    """Negative control: a learner that reads its loss back."""
    problem = images(8, 1, 2, 4)

    class Reading(SirenDerivatives):
        def gradient(
            self, params: torch.Tensor, batch: object
        ) -> tuple[torch.Tensor, torch.Tensor]:
            loss, gradient = super().gradient(params, batch)  # type: ignore[arg-type]
            self.read = float(loss.sum())
            return loss, gradient

    assert launches(problem._replace(derivatives=Reading(problem.field))).syncs == 1  # type: ignore[arg-type]
    assert isinstance(objects(8, 1, 1, 2, 3).derivatives, RadianceDerivatives)
