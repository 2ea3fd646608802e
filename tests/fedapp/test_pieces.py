"""What the pieces of a run are given that no key of its config says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from privacy.accounting import gaussian_epsilon

Parse = Callable[..., Experiment]


@pytest.mark.parametrize(
    ("methods", "seeds", "arms"),
    [("maml", "0", 1), ("fedmenf,maml,local", "0", 2), ("fedmenf,maml", "0,1", 4)],
)
def test_a_target_is_for_all_methods_and_seeds_together(
    experiment: Parse, methods: str, seeds: str, arms: int
) -> None:
    """Three rounds of each arm hit everybody: 3 x arms Gaussian events at z are one at z / sqrt(3 x
    arms). Local, which nobody takes part in, costs nothing."""
    parsed = experiment(
        **{
            "methods": methods,
            "seeds": seeds,
            "rounds": 3,
            "release": "central-dp",
            "evaluation.uploads": False,
            "privacy.noise-multiplier": 0.0,
            "privacy.target-epsilon": 5.0,
            "privacy.epsilon-max": 5.0,
            "rules.server-clip": 0.0,
        }
    )
    multiplier = Pieces(parsed).privacy.noise_multiplier
    spent = gaussian_epsilon((3 * arms) ** 0.5 / multiplier, parsed.privacy.delta)
    assert spent == pytest.approx(5.0, abs=1e-4) and spent <= 5.0


@pytest.mark.parametrize(("per_round", "steps"), [(3, 100.0), (0, 400.0)])
def test_a_client_takes_its_share_of_all_rounds_steps(
    experiment: Parse, per_round: int, steps: float
) -> None:
    """T = R E M / N: 10 rounds of 40 steps, 3 of 12 clients a round. A budget of the objective is
    spread over them."""
    changes: dict[str, Any] = {
        "methods": "fedmenf",
        "rounds": 10,
        "learner.outer-steps": 40,
        "clients.total": 12,
        "clients.per-round": per_round,
    }
    assert Pieces(experiment(**changes)).learner("fedmenf-adaptive").total_steps == pytest.approx(
        steps
    )  # type: ignore[attr-defined]
    given = experiment(**changes, **{"learner.fedmenf.total-steps": 7.0})
    assert Pieces(given).learner("fedmenf-adaptive").total_steps == 7.0  # type: ignore[attr-defined]
