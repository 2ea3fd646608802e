"""Training of shared and personal adapters: AdamW as torch has it, and what a rule hears of a
client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from strategies.local.adapters import AdapterFit
from strategies.memory import remembered
from strategies.rule import Rule
from strategies.rules.fedavg import FedAvg
from strategies.rules.isfa import Isfa
from strategies.settings import AdapterSettings, LearnerSettings, RuleSettings
from strategies.types import LocalResult
from tasks.errors import InputError
from tasks.params import Layout
from tasks.types import Episode, Personalised

SHARED, OWN, STEPS, CLIENTS = 5, 3, 10, 2
RATE = 0.05


class Scripted(Personalised):
    """A personalised task whose gradients are given ``[steps, C, P + Q]``, whatever the
    parameters."""

    def __init__(self, gradients: Tensor) -> None:
        self.gradients = gradients
        self.layout, self.personal = Layout.of({"s": (SHARED,)}), Layout.of({"p": (OWN,)})
        self.derivatives = SimpleNamespace(
            gradient=lambda point, query: (query[:, 0], query[:, :SHARED])
        )
        self.whole = SimpleNamespace(gradient=lambda point, query: (query[:, 0], query))
        self.judged: list[Tensor] = []

    def personal_start(self) -> Tensor:
        return torch.linspace(1, 2, OWN, dtype=torch.float64)

    def frozen(self, round: int) -> None:
        return None

    def episodes(self, *_: Any) -> Callable[[int], Episode]:
        return lambda step: Episode([], self.gradients[step])

    def signals(self, params: Tensor, cohort: Sequence[Any]) -> dict[str, Tensor]:
        """Depends on every number it is shown."""
        self.judged.append(params)
        return {
            "identity": params.sum(1).sigmoid(),
            "stability": params.square().sum(1).neg().exp(),
        }


def gradients(seed: int = 0) -> Tensor:
    """Of very different sizes from step to step, so that a clip (or its absence) shows through
    AdamW's scaling."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([0.1, 3.0]).repeat(STEPS)[:, None, None]
    return (sizes * torch.randn(2 * STEPS, CLIENTS, SHARED + OWN, generator=draw)).double()


def trained(
    task: Scripted,
    rule: Rule,
    memory: Tensor,
    decay: float = 0.0,
    clip: float = 0.0,
    personal_steps: int = STEPS,
) -> LocalResult:
    adapters = AdapterSettings(rate=RATE, weight_decay=decay, personal_steps=personal_steps)
    settings = LearnerSettings(outer_steps=STEPS, outer_clip=clip, adapters=adapters)
    received = rule.broadcast(model_sent(), rule.init(model_sent()), 1)
    cohort = [SimpleNamespace(name=str(client), examples=1) for client in range(CLIENTS)]
    keys = [("batches", client) for client in range(CLIENTS)]
    fit = AdapterFit(settings).fit
    return fit(task, rule, received, cohort, {"personal": memory}, keys, settings)  # type: ignore[arg-type]


def model_sent() -> Tensor:
    return torch.linspace(-1, 2, SHARED, dtype=torch.float64)


def by_torch(start: Tensor, steps: Tensor, decay: float, clip: float) -> Tensor:
    """Where ``torch.optim.AdamW`` gets to from ``start``, on gradients cut to the norm ``clip`` (0:
    not cut)."""
    point = torch.nn.Parameter(start.clone())
    optimiser = torch.optim.AdamW([point], lr=RATE, weight_decay=decay)
    for gradient in steps:
        point.grad = (
            gradient * min(1.0, clip / float(gradient.norm())) if clip else gradient.clone()
        )
        optimiser.step()
    return point.detach()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_both_adapters_take_the_steps_of_adamw(decay: float, clip: float) -> None:
    """The shared one on the first ten gradients, the personal one from what was remembered on the
    next ten."""
    task, script = Scripted(gradients()), gradients()
    memory = torch.linspace(-0.5, 0.5, CLIENTS * OWN, dtype=torch.float64).view(CLIENTS, OWN)
    found = trained(task, FedAvg(RuleSettings()), memory, decay, clip)
    for client in range(CLIENTS):
        shared = by_torch(model_sent(), script[:STEPS, client, :SHARED], decay, clip)
        torch.testing.assert_close(
            model_sent() + found.delta[client], shared, rtol=1e-9, atol=1e-12
        )
        own = by_torch(
            task.personal_start() + memory[client], script[STEPS:, client, SHARED:], decay, clip
        )
        torch.testing.assert_close(
            task.personal_start() + found.kept["personal"][client], own, rtol=1e-9, atol=1e-12
        )


def test_the_clip_and_the_decay_would_be_missed() -> None:
    """A negative control for the test above: each changes where the steps lead."""
    ends = [
        by_torch(model_sent(), gradients()[:STEPS, 0, :SHARED], decay, clip)
        for decay, clip in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.5))
    ]
    assert all(float((end - ends[0]).abs().max()) > 1e-3 for end in ends[1:])


# ---------------------------------------------------------------------- what a rule hears
def test_what_a_client_remembers_for_itself_does_not_move_its_weight() -> None:
    """The weight judges what is sent: with other personal memories (and none) deltas, signals and
    weights are equal."""
    memories = [torch.zeros(CLIENTS, OWN), torch.full((CLIENTS, OWN), 0.7)]
    rule = Isfa(RuleSettings())
    found, weights = [], []
    for memory, personal_steps in ((memories[0], STEPS), (memories[1], STEPS), (memories[0], 0)):
        task = Scripted(gradients())
        result = trained(task, rule, memory.double(), personal_steps=personal_steps)
        (judged,) = task.judged
        torch.testing.assert_close(
            judged, model_sent() + result.delta
        )  # P numbers a client: the shared adapter alone
        found.append(result)
        weights.append(rule.contribute(result, rule.broadcast(model_sent(), {}, 1), {})[0].weight)
    assert (
        not torch.equal(found[0].kept["personal"], found[1].kept["personal"]) and not found[2].kept
    )
    for other, weight in zip(found[1:], weights[1:], strict=True):
        assert torch.equal(other.delta, found[0].delta) and torch.equal(weight, weights[0])
    assert float(weights[0].min()) < 0.99 and weights[0][0] != weights[0][1], (
        "the signals must matter"
    )


def test_a_rule_that_wants_no_signals_costs_none() -> None:
    task = Scripted(gradients())
    assert trained(task, FedAvg(RuleSettings()), torch.zeros(CLIENTS, OWN).double()).signals == {}
    assert task.judged == []


def test_a_rule_is_told_how_many_steps_of_which_size_and_over_how_many_examples() -> None:
    task, settings = Scripted(gradients()), AdapterSettings(rate=RATE, personal_steps=2)
    rule, model = FedAvg(RuleSettings()), model_sent()
    cohort = [SimpleNamespace(name=str(client), examples=4 + client) for client in range(CLIENTS)]
    result = AdapterFit(LearnerSettings(adapters=settings)).fit(
        task, rule, rule.broadcast(model, {}, 1), cohort,
        {"personal": torch.zeros(CLIENTS, OWN).double()}, [("batches", 0), ("batches", 1)],
        LearnerSettings(outer_steps=7, adapters=settings),
    )  # type: ignore[arg-type]  # fmt: skip
    assert result.steps.tolist() == [7.0, 7.0] and result.step_size == RATE
    assert result.examples.tolist() == [4.0, 5.0]
    assert result.metrics["loss"].tolist() == gradients()[6, :, 0].tolist(), "of the last step"


# ---------------------------------------------------------------------- memories
def test_a_client_remembers_its_personal_adapter_if_it_trains_one() -> None:
    """As many numbers as the personal adapter has; none without personal steps."""
    for personal_steps, expected in ((0, {}), (1, {"personal": OWN}), (4, {"personal": OWN})):
        settings = LearnerSettings(adapters=AdapterSettings(personal_steps=personal_steps))
        assert AdapterFit(settings).memory(Scripted(gradients())) == expected  # type: ignore[arg-type]


class Rulelike:
    memory, memory_sizes = ("control",), {"score": 1}


@pytest.mark.parametrize("name", ["control", "score"])
def test_a_learner_must_not_remember_under_a_name_of_the_rules(name: str) -> None:
    learner = SimpleNamespace(memory=lambda task: {name: 7})
    task = SimpleNamespace(layout=Layout.of({"w": (4,)}))
    with pytest.raises(InputError, match=name) as caught:
        remembered(task, learner, Rulelike())  # type: ignore[arg-type]
    assert caught.value.key == "methods" and "rename" in caught.value.remedy
    other = SimpleNamespace(memory=lambda task: {"personal": 7})
    found = remembered(task, other, Rulelike())  # type: ignore[arg-type]
    assert found == {"control": 4, "score": 1, "personal": 7}
