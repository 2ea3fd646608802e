"""The seam between what is fitted and how it is trained. ``C`` is always the client axis.

A :class:`Task` supplies data, a per-client loss, its derivatives and ways to look at a result. It
never sees rounds, servers or messages. One client is simply ``C = 1``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
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


class ClientData:
    """The data of one client.

    Attributes:
        name: whose they are, on the client's own machine.
        examples: weight in an average by examples (number of images, clips, views).
        truth: a perfect rendering of the data, in the data's own range.
    """

    if TYPE_CHECKING:  # whether fields or properties is the subclass's affair

        @property
        def name(self) -> str: ...

        @property
        def examples(self) -> int: ...

        @property
        def truth(self) -> Tensor: ...

    @property
    def units(self) -> int:
        """Count that ``learner.steps-by-examples`` multiplies the local steps by."""
        return self.examples

    @property
    def parts(self) -> int:
        """Number of signals stacked along the first axis of ``truth``, each scored by itself."""
        return 1


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


class Task:
    """Base of everything that can be fitted, with the default of every trait.

    Traits:
        workflow: how it is trained unless the config says otherwise (``"sums"``: rounds of sums).
        family: whose tables, exhibits and findings a report shows (``fedapp.report.families``).
        renders: its shared parameters alone render to a client's data, so that uploads can be
            looked at (:meth:`Trainable.render`).
        personalised: it has parameters that never leave a client (:class:`Personalised`).
        pins: config keys that :meth:`prepare` may pin, for nodes to confirm.
    """

    workflow: ClassVar[str] = "sums"
    family: ClassVar[str] = "plain"
    renders: ClassVar[bool] = False
    personalised: ClassVar[bool] = False
    pins: ClassVar[frozenset[str]] = frozenset()

    def prepare(self, progress: Callable[[str, int, int], None]) -> Mapping[str, str]:
        """Make what is needed once on a machine, before any run, unless it is there.

        ``progress(what, done, total)``. Returns config values that pin what there is.
        """
        return {}

    def check(self, clients: int) -> None:
        """Look at all data once, before work starts; raises ``InputError`` naming what is wrong."""

    def init(self, seed: int) -> Tensor:
        """Initial shared parameters ``[P]``, the same for the same seed everywhere."""
        raise NotImplementedError(f"{type(self).__name__}.init")

    def client_data(self, client: int) -> Any:
        """The private data of one client (a :class:`ClientData`); raises ``InputError`` naming what
        is wrong."""
        raise NotImplementedError(f"{type(self).__name__}.client_data")

    def held_out(self) -> Sequence[Any]:
        """Public data of the same kind that no client holds."""
        return []

    def picture(self, data: Any, values: Tensor) -> Tensor | None:
        """The image ``[H, W, 1 or 3]`` (or a stack of them) that shows ``values``, the truth of
        ``data`` or a rendering shaped like it; ``None`` where there is nothing to look at."""
        from tasks.data.pictures import is_picture

        return values if is_picture(values) else None

    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        """Quality of the shared model ``[P]`` on held-out data; ``tune`` adds the step-size
        search."""
        raise NotImplementedError(f"{type(self).__name__}.evaluate")


class Trainable(Task):
    """A task that rounds of sums can train: stacked parameters, a loss with derivatives, episodes.

    ``layout`` names the *shared* parameters: the only ones rules and releases see.
    """

    layout: Layout
    derivatives: Derivatives
    whole_passes: ClassVar[bool] = False  # a batch of 0 samples stands for all of them, each once
    bounds_gradients: ClassVar[bool] = False  # its loss is the mean squared error of `outputs`

    @property
    def outputs_of_a_picture(self) -> int:
        """M, numbers of a client's data (tasks that bound gradients)."""
        raise NotImplementedError(f"{type(self).__name__}.outputs_of_a_picture")

    def outputs(self, model: Tensor) -> tuple[Tensor, Tensor]:
        """What ``model [P]`` says of all samples, ``[M]``, and its Jacobian ``[M, P]``, without any
        data (tasks that bound gradients)."""
        raise NotImplementedError(f"{type(self).__name__}.outputs")

    def outputs_error(self, model: Tensor) -> float:
        """How far apart two computers may be in a row of that Jacobian (tasks that bound
        gradients)."""
        raise NotImplementedError(f"{type(self).__name__}.outputs_error")

    @property
    def most_examples(self) -> int:
        """Examples that no client holds more of; 0: unknown."""
        return 0

    def frozen(self, round: int) -> Tensor | None:
        """``[P]`` bool: shared parameters that do not move in ``round``; ``None`` if all do."""
        return None

    def episodes(
        self,
        cohort: Sequence[Any],
        keys: Sequence[Key],
        count: int,
        inner_steps: int,
        batch_size: int,
        device: torch.device,
    ) -> Callable[[int], Episode]:
        """Draws for all outer steps of a round; returns ``step -> Episode``.

        Args:
            cohort: the clients' data, ``[C]``.
            keys: each client's own stream of random numbers, ``[C]``.
            count: outer steps.
            inner_steps: K, support batches in an episode.
            batch_size: B, samples in a batch.
            device: where the batches are wanted.
        """
        raise NotImplementedError(f"{type(self).__name__}.episodes")

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        """Bytes one client needs during a second-order step (sizes the chunks of a cohort)."""
        raise NotImplementedError(f"{type(self).__name__}.working_set")

    def render(self, params: Tensor, cohort: Sequence[Any]) -> Sequence[Tensor]:
        """Renderings of each client's ``params [C, P]``, shaped like that client's ``truth``, not
        clamped (tasks that :attr:`renders`)."""
        raise NotImplementedError(f"{type(self).__name__} says it renders and has no render")


class Personalised(Trainable):
    """A task with parameters that never leave a client: ``personal`` names them, and no rule or
    release sees them.

    ``whole`` takes ``[C, P + Q]``: the shared parameters, then the personal ones.
    """

    personalised = True

    personal: Layout
    whole: Derivatives

    def personal_start(self) -> Tensor:
        """Initial personal parameters ``[Q]``, the same everywhere."""
        raise NotImplementedError(f"{type(self).__name__}.personal_start")

    def signals(self, params: Tensor, cohort: Sequence[Any]) -> Mapping[str, Tensor]:
        """Reliability of each client's shared parameters ``[C, P]``, which alone are sent, on clips
        it did not train on: each ``[C]`` in [0, 1]."""
        raise NotImplementedError(f"{type(self).__name__}.signals")
