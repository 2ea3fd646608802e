"""Configuration of the release axis (see ``tasks/settings.py`` for how keys map to fields)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tasks.settings import Options, Settings

LEAST_NOISE = 1e-6  # a multiplier below which no accountant answers, and nothing is hidden
MOST_EPSILON = 1e9


def _multiplier(value: float) -> float:
    if 0 < value < LEAST_NOISE:
        raise ValueError(f"is no noise to speak of: use {LEAST_NOISE:g} and more, or 0")
    return value


class PrivacySettings(Settings):
    """Bounds, masks and noise of a client's contribution. Read only by private releases."""

    clip_norm: float = Field(
        1.0,
        ge=1e-6,
        le=1e6,
        description="C, L2 norm a client's update is clipped to (start, if adaptive)",
    )
    adaptive_clip: bool = Field(
        False, description="move C towards the norm that clip-quantile of clients stay under"
    )
    clip_quantile: float = Field(
        0.5, gt=0, lt=1, description="share of clients that should not be clipped"
    )
    clip_rate: float = Field(0.2, gt=0, le=1, description="step of the adaptive clip, in log C")
    max_examples: int = Field(
        0, ge=0, description="weight clients by min(examples, this)/this; 0: all weigh the same"
    )
    metrics: Options = Field(
        "{}", description='metrics in the noised sum: {"objective_min": [low, high]}'
    )
    noise_multiplier: Annotated[float, AfterValidator(_multiplier)] = Field(
        1.0, ge=0, description="z, noise deviation over sensitivity; 0: from target-epsilon"
    )
    target_epsilon: float = Field(
        0.0, ge=0, description="find z for this epsilon; needs noise-multiplier = 0"
    )
    delta: float = Field(1e-5, gt=1e-15, le=0.5, description="delta of the guarantee")
    epsilon_max: float = Field(
        0.0,
        ge=0,
        le=MOST_EPSILON,
        description="the population's budget; a round beyond it stops the run",
    )
    sampling: Literal["fixed", "poisson", "round-robin"] = Field(
        "fixed", description="fixed size, each client by its own secret coin, or in turns"
    )
    population: str = Field(
        "", description="people the budget belongs to, shared by runs; empty: this run's own"
    )
    colluding: int = Field(0, ge=0, description="nodes assumed to work with the server")
    threshold: int = Field(
        0, ge=0, description="nodes that must remain to unmask; 0: floor(2n/3) + 1"
    )
    graph: Literal["auto", "complete", "harary"] = Field(
        "auto",
        description="who masks with whom; auto: everybody up to 100 nodes, k neighbours above",
    )
    exact: bool = Field(
        False,
        description="secagg in the provable mode: sums tell the sum of pictures and nothing else",
    )
    group_size: int = Field(
        0,
        ge=0,
        description="nodes of a fixed group of an exact sum (secagg), at least; 0: one group",
    )
    roster: str = Field(
        "", description="JSON file with the identity keys of nodes and server; empty: simulation"
    )
