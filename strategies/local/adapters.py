r"""Training a shared adapter, and a personal one on top of it, with AdamW, for a whole cohort at
once.

*PrivFedTalk: Privacy-Aware Federated Diffusion with Identity-Stable Adapters for Personalized
Talking-Head Generation*, 2026, https://arxiv.org/abs/2604.08037.

.. math::
    s \leftarrow s - \mathrm{AdamW}(\mathrm{correct}(\mathrm{clip}_C(\nabla_s L(s, 0)))) \quad (E \text{ times}) \\
    p \leftarrow p - \mathrm{AdamW}(\mathrm{clip}_C(\nabla_p L(s, p))) \quad (E_p \text{ times})

s is what the client received and sends back; it is trained without the personal adapter, so that it
has to carry what people have in common (trained together, the personal one learns it too, and
newcomers get nothing: measured). p is remembered on the client's own device from round to round and
is no part of any :class:`strategies.types.Contribution`. Any task that is
:class:`tasks.types.Personalised` can be trained so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from strategies.settings import LearnerSettings
from strategies.types import Broadcast, LocalResult, Memory, Rule
from tasks.optimise import Adam
from tasks.params import clip
from tasks.randomness import Key
from tasks.types import Personalised, Task

PERSONAL = "personal"


class AdapterFit:
    """A shared adapter, then a personal one on top (none with ``learner.adapters.personal-steps =
    0``).

    A :class:`strategies.types.WholeFit`.
    """

    inner_steps = 0
    personal = True  # needs a task with personal parameters

    def __init__(self, settings: LearnerSettings) -> None:
        self.rate, self.decay = settings.adapters.rate, settings.adapters.weight_decay
        self.personal_steps = settings.adapters.personal_steps

    def memory(self, task: Task) -> Mapping[str, int]:
        """What a client keeps between rounds, and how many numbers: how far its personal adapter
        has moved."""
        if not self.personal_steps:
            return {}
        assert isinstance(task, Personalised), "compatibility.py refuses other tasks"
        return {PERSONAL: task.personal.size}

    def fit(
        self, task: Task, rule: Rule, received: Broadcast, cohort: Sequence[Any], memory: Memory,
        keys: Sequence[Key], settings: LearnerSettings,
    ) -> LocalResult:  # fmt: skip
        assert isinstance(task, Personalised), "compatibility.py refuses other tasks"
        model = received.model
        batches = settings.outer_steps + self.personal_steps
        episode = task.episodes(cohort, keys, batches, 0, settings.batch_size, model.device)
        resting = task.resting(received.round)
        point, optimiser, loss = (
            model.expand(len(cohort), -1),
            Adam(self.rate),
            torch.zeros(len(cohort)),
        )
        for step in range(settings.outer_steps):
            loss, gradient = task.derivatives.gradient(point, episode(step).query)
            gradient = rule.correct(clip(gradient, settings.outer_clip), point, received, memory)
            change = optimiser.direction(gradient) + self.rate * self.decay * point
            point = point - (
                change if resting is None else change.masked_fill(resting.to(change.device), 0.0)
            )
        start = task.personal_start().to(model)
        own = start + memory[PERSONAL] if self.personal_steps else start.expand(len(cohort), -1)
        optimiser = Adam(self.rate)
        for step in range(settings.outer_steps, batches):
            _, gradient = task.whole.gradient(torch.cat([point, own], 1), episode(step).query)
            change = optimiser.direction(clip(gradient[:, model.numel() :], settings.outer_clip))
            own = own - change - self.rate * self.decay * own
        signals = (
            task.signals(point, cohort) if rule_signals(rule) else {}
        )  # they weigh what is sent, and that alone
        return LocalResult(
            delta=point - model,
            steps=torch.full((len(cohort),), float(settings.outer_steps), device=model.device),
            step_size=self.rate,
            examples=torch.tensor([float(data.examples) for data in cohort], device=model.device),
            metrics={"loss": loss},
            signals={name: value.to(model.device) for name, value in signals.items()},
            kept={PERSONAL: own - start} if self.personal_steps else {},
        )


def rule_signals(rule: Rule) -> tuple[str, ...]:
    """What a rule wants to hear of a client's reliability (most want nothing)."""
    return tuple(getattr(rule, "signals", ()))
