"""The seam between what is fitted and how it is trained. ``C`` is always the client axis.

A :class:`Task` supplies data, a per-client loss, its derivatives and ways to look at a result. It
never sees rounds, servers or messages. One client is simply ``C = 1``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from tasks.params import Layout
from tasks.randomness import Key
from tasks.settings import EvaluationSettings


class Batch(NamedTuple):
    """Samples of a cohort: ``inputs [C, B, in]`` and ``targets [C, B, out]``. A task may have a
    tuple of its own."""

    inputs: Tensor
    targets: Tensor


class Episode(NamedTuple):
    """One meta-learning step's data: K support batches :math:`B_k` and one query batch :math:`B_Q`.

    A batch is a :class:`Batch` or whatever the task's derivatives expect, a tuple of tensors ``[C,
    ...]``.
    """

    support: Sequence[Any]
    query: Any


class Linearised(NamedTuple):
    """A cohort's loss around a point: ``loss [C]``, ``gradient [C, P]`` and the map ``u [C, P] -> H
    u [C, P]``."""

    loss: Tensor
    gradient: Tensor
    hvp: Callable[[Tensor], Tensor]


@runtime_checkable
class Derivatives(Protocol):
    """First and second derivatives of a per-client loss; client c's depend on row c alone."""

    def gradient(self, params: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        """``params [C, P] -> (loss [C], gradient [C, P])``."""

    def linearise(self, params: Tensor, batch: Any) -> Linearised:
        """As :meth:`gradient`, with the exact Hessian-vector product at the same point; call it at
        most once."""


class ClientData(Protocol):
    """What one client holds. ``examples`` is its weight in the average (number of images, clips,
    views); ``truth`` is what a perfect rendering of the data would be, in the data's own range. It
    may have ``units``, what its local steps are counted by, if that is something else."""

    name: str
    examples: int
    truth: Tensor


class Video(NamedTuple):
    """``frames [T, H, W, 3]`` in [0, 1] at 25 a second and ``audio [n]`` at 16 kHz."""

    frames: Tensor
    audio: Tensor


class Evaluation(NamedTuple):
    """Quality of a shared model: JSON-ready ``metrics``, named pictures ``[H, W, 3] in [0, 1]`` and
    videos.

    Every metric that is a number, or a table of numbers by name, is shown and becomes part of a
    method's result (its mean over seeds).
    """

    metrics: dict[str, Any]
    pictures: dict[str, Tensor]
    videos: Mapping[str, Video] = {}


@runtime_checkable
class Task(Protocol):
    """What is being fitted. ``layout`` names the *shared* parameters: the only ones rules and
    releases see."""

    layout: Layout
    derivatives: Derivatives

    def check(self, clients: int) -> None:
        """Look at all data once, before work starts; raises ``InputError`` naming what is wrong."""

    def init(self, seed: int) -> Tensor:
        """Initial shared parameters ``[P]``, the same for the same seed everywhere."""

    def client_data(self, client: int) -> Any:
        """The private data of one client (a :class:`ClientData`); raises ``InputError`` naming what
        is wrong."""

    def held_out(self) -> Sequence[Any]:
        """Public data of the same kind that no client holds."""

    def episodes(
        self,
        cohort: Sequence[Any],
        keys: Sequence[Key],
        count: int,
        inner_steps: int,
        batch_size: int,
        device: torch.device,
    ) -> Callable[[int], Episode]:
        """Draws for ``count`` outer steps from each client's own stream ``keys [C]``; returns
        ``step -> Episode``."""

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        """Bytes one client needs during a second-order step (sizes the chunks of a cohort)."""

    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        """Quality of the shared model ``[P]`` on held-out data; ``tune`` adds the step-size
        search."""


@runtime_checkable
class Rendering(Protocol):
    """A task whose shared parameters alone render to a client's data: uploads can be looked at."""

    def render(self, params: Tensor, cohort: Sequence[Any]) -> Sequence[Tensor]:
        """What each client's ``params [C, P]`` render to, shaped like that client's ``truth``, not
        clamped."""


@runtime_checkable
class Personalised(Protocol):
    """A task with parameters that never leave a client: ``personal`` names them, and no rule or
    release sees them.

    ``whole`` takes ``[C, P + Q]``: the shared parameters, then the personal ones.
    """

    layout: Layout
    personal: Layout
    whole: Derivatives

    def personal_start(self) -> Tensor:
        """Where personal parameters start ``[Q]``, the same everywhere."""

    def resting(self, round: int) -> Tensor | None:
        """``[P]`` bool: shared parameters that do not move in ``round``; ``None`` if all do."""

    def signals(self, params: Tensor, cohort: Sequence[Any]) -> Mapping[str, Tensor]:
        """What a client finds, on clips it did not train on, of its shared parameters ``[C, P]``,
        which alone are sent: each ``[C]`` in [0, 1]."""


@runtime_checkable
class Preparing(Protocol):
    """A task that needs something made once on a machine, before any run."""

    def prepare(self, progress: Callable[[str, int, int], None]) -> Mapping[str, str]:
        """Make it unless it is there; ``progress(what, done, total)``. Returns config values that
        pin what there is."""
