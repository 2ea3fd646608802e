"""Methods of split learning: who holds what, and what a client does to its gradients.

``split`` is the published system without a defence, ``s2nerf`` with its own; ``sealed`` shares the
table between two holders. The baselines train where the pictures are and send nothing: ``unsplit``
is the same field in one place, ``private-grid`` and ``private-fourier`` are what a client can
afford
alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from privacy.gradients import Bare, DecayingNoise, GradientDefence, LabelNoise
from privacy.sealed import measured_rate
from tasks.errors import InputError, nearest
from tasks.settings import SplitSettings
from tasks.split_nerf.grids import Grid
from tasks.split_nerf.halves import Division, Fourier
from tasks.split_nerf.task import SplitNerf

if TYPE_CHECKING:
    from fedapp.config.experiment import Experiment

Kind = Literal["plain", "sealed", "alone"]


@dataclass(frozen=True)
class Design:
    """One way to divide a field.

    Attributes:
        kind: ``plain`` (one server), ``sealed`` (two holders), ``alone`` (nothing crosses).
        division: of the field, from settings and the number of steps.
        defence: of what leaves.
        about: in a few words.
    """

    kind: Kind
    division: Callable[[SplitSettings, int], Division]
    defence: Callable[[SplitSettings], GradientDefence]
    about: str

    @property
    def crosses(self) -> bool:
        """Whether anything leaves the node."""
        return self.kind != "alone"


def _as_configured(settings: SplitSettings, steps: int) -> Division:
    return Division.of(settings, steps)


def _at_features(settings: SplitSettings, steps: int) -> Division:
    return Division.of(settings, steps, cut="features")


def _small_grid(settings: SplitSettings, steps: int) -> Division:
    cells = tuple(int(part) for part in settings.private_cells.split(","))
    return Division.of(settings, steps, encoder=Grid(cells, settings.features))


def _fourier(settings: SplitSettings, steps: int) -> Division:
    return Division.of(settings, steps, encoder=Fourier())


def _bare(settings: SplitSettings) -> GradientDefence:
    return Bare()


DESIGNS: dict[str, Design] = {
    "sealed": Design("sealed", _at_features, _bare, "shares of the table on two holders"),
    "split": Design("plain", _as_configured, _bare, "one server, no defence"),
    "s2nerf": Design(
        "plain",
        _as_configured,
        lambda s: DecayingNoise(s.noise_scale, s.noise_decay),
        "one server, decaying noise (as published)",
    ),
    "constant-noise": Design(
        "plain",
        _as_configured,
        lambda s: DecayingNoise(s.noise_scale, 1.0),
        "one server, noise that does not decay",
    ),
    "label-noise": Design(
        "plain", _as_configured, lambda s: LabelNoise(s.label_noise), "one server, noisy targets"
    ),
    "unsplit": Design("alone", _as_configured, _bare, "the same field on the client"),
    "private-grid": Design("alone", _small_grid, _bare, "no server: a small grid"),
    "private-fourier": Design("alone", _fourier, _bare, "no server: Fourier features"),
}
FEWEST_HOLDERS = 2


def sealed_rate(settings: SplitSettings) -> float:
    """Step size of a sealed table: the configured one, or the measured rule's."""
    return settings.sealed_rate or measured_rate(settings.batches)


def steps_of(experiment: Experiment) -> int:
    """T, training steps of the whole run."""
    return experiment.rounds * experiment.split.exchanges * experiment.split.batches


def refuse_exchanges(experiment: Experiment) -> None:
    """Raise :class:`InputError` for the first thing that exchanges cannot do."""
    from tasks import TASKS
    from tasks.registry import load

    for method in experiment.method_list:
        if method not in DESIGNS:
            raise InputError("methods", method, "no such design", nearest(method, DESIGNS))
    if not issubclass(load("task", experiment.task, TASKS), SplitNerf):
        raise InputError(
            "task", experiment.task, "it has no halves to exchange with", "use split-nerf"
        )
    if experiment.clients.per_round not in (0, experiment.clients.total):
        raise InputError(
            "clients.per-round",
            experiment.clients.per_round,
            "scenes do not share a model: every one is trained in every round",
            "set it to 0",
        )
    if "sealed" in experiment.method_list and experiment.runtime.nodes < FEWEST_HOLDERS:
        raise InputError(
            "runtime.nodes",
            experiment.runtime.nodes,
            "a sealed table needs a second holder, on another node",
            "set it to 2 or more, or leave out the method sealed",
        )
