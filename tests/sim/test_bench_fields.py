"""The field benchmark: both loops compute what ours does; launches and synchronisations are
counted, not guessed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sim.bench.fields_growth import launches
from sim.bench.fields_problem import Problem, bare_products, batched, images, objects
from sim.bench.loops import CLIP, INNER_STEPS, RATE, Inner, as_published, lean
from sim.bench.trainer import agree
from strategies.local.meta import Meta
from tasks.errors import FedappError
from tasks.fields.radiance import RadianceDerivatives
from tasks.fields.siren import SirenDerivatives

PRODUCTS = ("bmm", "baddbmm", "baddbmm_")


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
    "build",
    [
        lambda c: images(64, 3, c, 4),
        lambda c: images(16, 5, c, 4),
        lambda c: objects(8, 4, c, 3, 4),
    ],
    ids=["siren 3", "siren 5", "radiance 4"],
)
def test_launches_do_not_depend_on_the_cohort(build: object) -> None:
    """K = 8, FedMeNF's objective with its negative term; what would launch nothing (views) is not
    counted."""
    one = launches(build(1))  # type: ignore[operator]
    many = launches(build(5))  # type: ignore[operator]
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

    reading = problem._replace(derivatives=Reading(problem.field))  # type: ignore[arg-type]
    assert launches(reading).syncs == 1
    assert isinstance(objects(8, 1, 1, 2, 3).derivatives, RadianceDerivatives)


class Multiplied(TorchDispatchMode):
    """Adds up the FLOP of batched products with more than one column (no inner products)."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            left, right = args[-2:]
            if left.shape[1] > 1:
                self.flops += 2.0 * left.numel() * right.shape[2]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("problem", "rendering"),
    [(images(16, 2, 3, 8), 0.0), (images(8, 5, 2, 4), 0.0), (objects(8, 2, 2, 4, 4), 0.01)],
)
def test_the_limit_multiplies_what_a_step_multiplies(problem: Problem, rendering: float) -> None:
    """FLOP by FLOP: a limit with a product too many would flatter us, one too few belittle us.

    Compositing along rays multiplies a little too (``rendering``, of the whole).
    """
    ours = batched(problem, Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0))
    bare = bare_products(problem)
    with Multiplied() as step:
        ours()
    with Multiplied() as limit:
        bare.run()
    assert limit.flops == bare.amount
    assert bare.amount <= step.flops <= (1 + rendering) * bare.amount


def test_first_order_steps_multiply_less() -> None:
    """Negative control of the count."""
    problem = images(16, 2, 3, 8)
    with Multiplied() as step:
        batched(problem, Meta(INNER_STEPS, RATE, CLIP, outer_rate=1.0, order=1))()
    assert step.flops < bare_products(problem).amount
