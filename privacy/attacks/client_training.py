"""Client training as a function of the private values: all that a server knows of it.

The learner's own ``step`` is run on derivatives that stay on the graph, so that a simulated upload
can be differentiated by the values it was trained on. Drawn batches may be known: in this system
they come from streams the server can name (:func:`drawn_samples`). Otherwise every batch is taken
to be all samples, which is what batches are on average.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from strategies.learner import Learner
from strategies.local.meta import Meta
from tasks.params import clip
from tasks.randomness import Key
from tasks.signals import ClientSignals, Samples, Signal
from tasks.types import Batch, Derivatives, Episode, Linearised, Trainable

Loss = Callable[[Tensor, Batch], Tensor]  # parameters [C, P] and a batch -> [C]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of gamma, tried where a cap decides


@dataclass(frozen=True)
class Training:
    """A server's knowledge of its clients' training.

    Args:
        loss: of the field.
        learner: that makes a step of it.
        coordinates: of the samples, ``[C, N, inputs]``.
        steps: E, outer steps per round.
        outer_clip: on outer gradients (0: none).
        batches: indices of the samples drawn, ``[E, K + 1, C, B]`` (the last of K + 1 is the query
            batch), if known.
        derivatives: of the same loss, faster where nothing is differentiated by x.
    """

    loss: Loss
    learner: Learner
    coordinates: Tensor
    steps: int
    outer_clip: float = 0.0
    batches: Tensor | None = None
    derivatives: Derivatives | None = None

    def episode(self, values: Tensor, steps: Sequence[int]) -> Episode:
        """The data of the outer ``steps`` if the private values were ``values [C, N, channels]``:
        rows step by step."""
        count = len(steps)
        if self.batches is None:
            everything = Batch(self.coordinates.repeat(count, 1, 1), values.repeat(count, 1, 1))
            return Episode([everything] * self.learner.inner_steps, everything)
        rows = torch.arange(len(values), device=values.device).repeat(count)[:, None]
        drawn = self.batches[list(steps)].transpose(1, 2).flatten(0, 1)  # [steps * C, K + 1, B]
        batches = [
            Batch(self.coordinates[rows, index], values[rows, index]) for index in drawn.unbind(1)
        ]
        return Episode(batches[:-1], batches[-1])

    def move(
        self,
        derivatives: Derivatives,
        params: Tensor,
        values: Tensor,
        steps: Sequence[int],
        length: float = 1.0,
    ) -> Tensor:
        """Change of the parameters in each of the outer ``steps``, ``[steps * C, P]``.

        Args:
            derivatives: of the loss: on the graph or not.
            params: where each step starts, ``[steps * C, P]``, step by step.
            values: the private values, ``[C, N, channels]``.
            steps: which of the E.
            length: of each, in real steps.
        """
        gradient = self.learner.step(derivatives, params, self.episode(values, steps)).gradient
        return clip(gradient, self.outer_clip) * (-self.learner.outer_rate * length)


class OnGraph:
    """:class:`tasks.types.Derivatives` that stay on the graph: what a learner makes of them can be
    differentiated."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def gradient(self, params: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        loss, gradient, _ = self.linearise(params, batch)
        return loss, gradient

    def linearise(self, params: Tensor, batch: Batch) -> Linearised:
        point = params if params.requires_grad else params.detach().requires_grad_()
        loss = self.loss(point, batch)
        (gradient,) = torch.autograd.grad(loss.sum(), point, create_graph=True)

        def hvp(vector: Tensor) -> Tensor:
            return torch.autograd.grad(gradient, point, grad_outputs=vector, create_graph=True)[0]

        return Linearised(loss, gradient, hvp)


class Detached(OnGraph):
    """The same numbers without a graph."""

    def linearise(self, params: Tensor, batch: Batch) -> Linearised:
        with torch.enable_grad():
            fixed = Batch(batch.inputs, batch.targets.detach())
            loss, gradient, hvp = super().linearise(params.detach(), fixed)
        return Linearised(loss.detach(), gradient.detach(), lambda vector: hvp(vector).detach())


def simulate(training: Training, model: Tensor, values: Tensor) -> Tensor:
    r"""The models ``w [C, P]`` clients with ``values [C, N, channels]`` would send, differentiable
    in these.

    .. math:: w_0 = \theta, \qquad
        w_{e+1} = w_e - \lambda_o\, \mathrm{clip}(G(w_e; x)), \qquad e = 0, \dots, E - 1

    with G the learner's own ``step``. ``model`` is ``[P]`` or ``[C, P]``.
    """
    derivatives = OnGraph(training.loss)
    params = stacked(model, len(values))
    with torch.enable_grad():
        for step in range(training.steps):
            params = params + training.move(derivatives, params, values, [step])
    return params


def cap_guesses(training: Training) -> list[Training]:
    """Ways a capped objective may have acted: as simulated, or with the subtracted term in a share
    of the steps.

    Which side of the cap a loss is on depends on the picture and on the batch. From mid grey, or
    with all samples for a batch, sim may take the wrong side, and then subtracts a term that the
    client did not, or the reverse.
    """
    learner = training.learner
    if not (isinstance(learner, Meta) and learner.cap and learner.gamma):
        return [training]
    guesses = [learner.varied(cap=0.0, gamma=learner.gamma * share) for share in SHARES]
    return [training] + [replace(training, learner=guess) for guess in guesses]


def drawn_samples(
    task: Trainable,
    coordinates: Tensor,
    keys: Sequence[Key],
    steps: int,
    inner_steps: int,
    batch_size: int,
) -> Tensor:
    """Redraw the batches of clients: ``[E, K + 1, C, B]`` indices into ``coordinates``.

    The task draws, from stand-ins whose value at each sample is the sample's number.

    Args:
        task: that draws.
        coordinates: of the samples, ``[C, N, inputs]``.
        keys: names of the clients' streams, ``("batches", seed, round, client)``; the server chose
            the seed.
        steps: E, outer steps.
        inner_steps: K.
        batch_size: B, at most N.
    """
    count = coordinates.shape[1]
    numbered = torch.arange(count, dtype=torch.float64)[:, None]
    cohort = []
    for rows in coordinates:
        samples = Samples(rows, numbered)
        cohort.append(ClientSignals("", (Signal("", samples, samples, tuple(numbered.shape)),)))
    episode = task.episodes(cohort, keys, steps, inner_steps, batch_size, coordinates.device)
    drawn = [
        [batch.targets[..., 0] for batch in (*one.support, one.query)]
        for one in map(episode, range(steps))
    ]
    return torch.stack([torch.stack(batches) for batches in drawn]).long()


def stacked(model: Tensor, count: int) -> Tensor:
    """``model [P]`` or ``[C, P]`` as ``[C, P]``, off the graph."""
    return model.detach().expand(count, -1)
