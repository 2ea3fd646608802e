"""Weights a rule gives: counts of examples, or its own, of which it then says the largest."""

from __future__ import annotations

import pytest
import torch

from privacy.releases.secagg import SecAgg
from privacy.settings import PrivacySettings
from strategies.rules import RULES
from strategies.settings import RuleSettings
from strategies.types import Broadcast, LocalResult
from tasks.registry import load

EXAMPLES = torch.tensor([1.0, 3.0, 20.0])
SIZE = 4


@pytest.mark.parametrize("name", list(RULES))
def test_a_masked_mean_weighs_clients_as_the_plain_one_does(name: str) -> None:
    """Where all weigh the same, three clients with 1, 3 and 20 examples count 3; where examples
    count, 24 of the 60 that three clients of the largest size would have. A rule that weighs alike
    but does not say so would have its weights cut to a twentieth."""
    rule = load("rule", name, RULES)(RuleSettings())
    signals = {signal: torch.ones(3) for signal in rule.signals}
    delta = torch.linspace(-1, 1, 3 * SIZE).view(3, SIZE)
    result = LocalResult(delta, torch.full((3,), 2.0), 0.1, EXAMPLES, signals=signals)
    model = torch.zeros(SIZE)
    received: Broadcast = rule.broadcast(model, rule.init(model), 1)
    sizes = {**dict.fromkeys(rule.memory, SIZE), **rule.memory_sizes}
    memory = {key: torch.zeros(3, size) for key, size in sizes.items()}
    contribution, _ = rule.contribute(result, received, memory)
    alike = len(set(contribution.weight.tolist())) == 1
    assert alike or torch.equal(contribution.weight, EXAMPLES)
    assert bool(contribution.largest) == alike
    assert not alike or float(contribution.weight.max()) <= contribution.largest

    settings = PrivacySettings(clip_norm=1e3, max_examples=20)
    release = SecAgg(settings, rule.size(SIZE), rule.scalars)
    public = release.open(3, 3.0, 3, 3)
    total = release.close(release.encode(contribution, public), public)
    assert total is not None
    found = release.decode(total, public)
    assert found.weight == pytest.approx(3.0 if alike else 24 / 20, abs=1e-5)
    weights = contribution.weight[:, None]
    mean = (weights * contribution.vector).sum(0) / weights.sum()
    torch.testing.assert_close(found.mean, mean, atol=1e-4, rtol=0)
