"""Local learners: how a client's data become an update. Two kinds, with the default of every trait.

A :class:`Learner` is a gradient oracle: :func:`strategies.local.train.descend` steps along what it
gives. A :class:`WholeFit` trains a cohort by itself. Shapes: ``C`` clients, ``P`` shared
parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from strategies.rule import RunFacts

if TYPE_CHECKING:
    from torch import Tensor

    from strategies.rule import Rule
    from strategies.types import Broadcast, LocalResult, Memory, Step
    from tasks.randomness import Key
    from tasks.types import Derivatives, Episode, Trainable

OBJECTIVE = "objective_min"  # the lowest value of the objective in a round


class LearnerTraits:
    """Traits of a learner that others need to know before it is built.

    Traits:
        metrics: names of the numbers it reports of a client; nothing else is accepted from nodes.
        silent: its metrics must not leave a client (its own noise does not cover them).
        clips_itself: the outer clip of the local loop is left out.
        least_inner_steps: the smallest K with which it is defined.
        spreads_a_budget: over a known number of steps, which must then be the same for all clients.
        personal: trains personal parameters, which only some tasks have.
        measures: reliability signals it can give a rule.
        noise_multiplier: of the noise it adds to its own steps; 0: none.
        inverts: its update is the sum of gradient steps that inversion attacks simulate.
    """

    inner_steps: int
    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    silent: ClassVar[bool] = False
    clips_itself: ClassVar[bool] = False
    least_inner_steps: ClassVar[int] = 0
    spreads_a_budget: ClassVar[bool] = False
    personal: ClassVar[bool] = False
    measures: ClassVar[tuple[str, ...]] = ()
    inverts: ClassVar[bool] = False
    noise_multiplier: float = 0.0

    @classmethod
    def configured(cls, settings: Any, facts: RunFacts) -> Any:
        """The learner of a run, where a setting of 0 may stand for what follows from ``facts``."""
        return cls(settings)  # type: ignore[call-arg]

    def memory(self, task: Trainable) -> Mapping[str, int]:
        """Names and sizes of what a client keeps between rounds for this learner."""
        return {}


class Learner(LearnerTraits):
    """A gradient oracle. ``outer_rate`` is its own step size."""

    outer_rate: float
    inverts = True

    @classmethod
    def at_rate(cls, settings: Any, rate: float) -> Any:
        """Learner settings in which its outer step size is ``rate``."""
        return settings.model_copy(update={"outer_rate": rate})

    def step(self, derivatives: Derivatives, params: Tensor, episode: Episode) -> Step:
        """The pseudo-gradient of each client at ``params [C, P]``."""
        raise NotImplementedError(f"{type(self).__name__}.step")


class WholeFit(LearnerTraits):
    """A learner that trains a cohort by itself instead of giving one gradient after another.

    What it keeps on the client (:meth:`memory`) is given back to :meth:`fit` beside the rule's
    memory and renewed by ``LocalResult.kept``.
    """

    inner_steps = 0

    def fit(
        self,
        task: Any,
        rule: Rule,
        received: Broadcast,
        cohort: Sequence[Any],
        memory: Memory,
        keys: Sequence[Key],
        settings: Any,
    ) -> LocalResult:
        """Train every client of ``cohort``.

        Args:
            task: a :class:`tasks.types.Trainable`.
            rule: corrects local steps.
            received: the model ``[P]`` and what the rule sent beside it.
            cohort: the clients' data.
            memory: what they remember, each ``[C, ...]``.
            keys: the clients' streams of random numbers, ``[C]``.
            settings: of the local loop.
        """
        raise NotImplementedError(f"{type(self).__name__}.fit")
