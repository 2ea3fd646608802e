r"""Training a shared adapter, and a personal one on top of it, with AdamW, for a whole cohort at
once.

*PrivFedTalk: Privacy-Aware Federated Diffusion with Identity-Stable Adapters for Personalized
Talking-Head Generation*, 2026, https://arxiv.org/abs/2604.08037.

.. math::
    s \leftarrow s - \mathrm{AdamW}(\mathrm{correct}(\mathrm{clip}_C(\nabla_s L(s, 0))))
        \quad (E \text{ times}) \\
    p \leftarrow p - \mathrm{AdamW}(\mathrm{clip}_C(\nabla_p L(s, p))) \quad (E_p \text{ times})

s is what the client received and sends back; it is trained without the personal adapter, so that it
has to carry what people have in common (trained together, the personal one learns it too, and
unseen clients get nothing: measured). p is remembered on the client's own device from round to
round and is no part of any :class:`strategies.types.Contribution`. Any task that is
:class:`tasks.types.Personalised` can be trained so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from strategies.learner import WholeFit
from strategies.types import Broadcast, LocalResult, Memory
from tasks.params import clip
from tasks.settings import Settings

if TYPE_CHECKING:
    from strategies.rule import Rule
    from tasks.randomness import Key
    from tasks.types import Personalised

PERSONAL = "personal"


class AdapterSettings(Settings):
    """The adapters learner: AdamW on what is shared and what stays."""

    rate: float = Field(0.003, gt=0, description="AdamW's step size for both adapters")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    personal_steps: int = Field(
        4,
        ge=0,
        description="steps a round for the personal adapter, which never leaves; 0: none",
    )


class AdapterFit(WholeFit):
    """A shared adapter, then a personal one on top (none with ``learner.adapters.personal-steps =
    0``)."""

    personal = True
    measures = ("identity", "stability")

    def __init__(self, settings: Any) -> None:
        own = settings.adapters
        self.rate = own.rate
        self.decay = own.weight_decay
        self.personal_steps = own.personal_steps

    def memory(self, task: Any) -> Mapping[str, int]:
        """Displacement of a client's personal adapter from its start."""
        return {PERSONAL: task.personal.size} if self.personal_steps else {}

    def fit(
        self,
        task: Personalised,
        rule: Rule,
        received: Broadcast,
        cohort: Sequence[Any],
        memory: Memory,
        keys: Sequence[Key],
        settings: Any,
    ) -> LocalResult:
        import torch

        from tasks.optimise import Adam

        model = received.model
        batches = settings.outer_steps + self.personal_steps
        episode = task.episodes(cohort, keys, batches, 0, settings.batch_size, model.device)
        frozen = task.frozen(received.round)
        point = model.expand(len(cohort), -1)
        loss = torch.zeros(len(cohort))
        optimiser = Adam(self.rate)
        for step in range(settings.outer_steps):
            loss, gradient = task.derivatives.gradient(point, episode(step).query)
            gradient = rule.correct(clip(gradient, settings.outer_clip), point, received, memory)
            change = optimiser.direction(gradient) + self.rate * self.decay * point
            point = point - (
                change if frozen is None else change.masked_fill(frozen.to(change.device), 0.0)
            )
        start = task.personal_start().to(model)
        own = start + memory[PERSONAL] if self.personal_steps else start.expand(len(cohort), -1)
        optimiser = Adam(self.rate)
        for step in range(settings.outer_steps, batches):
            _, gradient = task.whole.gradient(torch.cat([point, own], 1), episode(step).query)
            change = optimiser.direction(clip(gradient[:, model.numel() :], settings.outer_clip))
            own = own - change - self.rate * self.decay * own
        # reliability is that of the shared adapter: it weighs what is sent, and that alone
        signals = task.signals(point, cohort) if rule.signals else {}
        return LocalResult(
            delta=point - model,
            steps=model.new_full((len(cohort),), float(settings.outer_steps)),
            step_size=self.rate,
            examples=model.new_tensor([float(data.examples) for data in cohort]),
            metrics={"loss": loss},
            signals={name: value.to(model.device) for name, value in signals.items()},
            kept={PERSONAL: own - start} if self.personal_steps else {},
        )
