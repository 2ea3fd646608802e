"""The provable mode of sums without noise: what its guarantee says, and what it does not say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.node.sums import _trainer
from privacy.entropy import LARGEST_NORMAL, Entropy
from privacy.exact import Bounds, largest_gradient, largest_singular_value, objection
from privacy.ring import DITHER, HALF, signed
from strategies.cohort import Assignment, CohortTrainer
from strategies.types import Broadcast, Payload
from tasks.errors import InputError
from tasks.image import ImageTask
from tasks.signals import sampled
from tasks.types import Batch

SIDE, MEMBERS, CLIP, RATE, ROUNDS = 8, 5, 0.5, 0.05, 20
EXACT: dict[str, Any] = {
    "methods": "erm", "release": "secagg", "privacy.exact": True, "learner.outer-steps": 1,
    "learner.batch-size": 0, "learner.outer-rate": RATE, "learner.outer-clip": 9.0,
    "privacy.clip-norm": CLIP, "data.size": SIDE, "data.channels": 1, "clients.total": MEMBERS,
    "runtime.nodes": MEMBERS, "evaluation.uploads": False, "rules.server-clip": 0.0,
}  # fmt: skip
Make = Callable[..., Experiment]


class Pictures:
    """A source whose clients hold what they are given."""

    def __init__(self, pictures: Sequence[Tensor]) -> None:
        self.pictures = pictures

    def client(self, client: int) -> Any:
        from tasks.signals import ClientSignals

        return ClientSignals(str(client), (sampled(str(client), self.pictures[client]),))


def trainer_of(experiment: Experiment, pictures: Tensor, side: int = SIDE) -> CohortTrainer:
    """A node's own trainer, whose clients hold these pictures ``[K, M]``."""
    config = json.dumps(experiment.to_run_config(), sort_keys=True)
    method = experiment.trained_methods[0]
    trainer, _ = _trainer.__wrapped__(config, method, 0, "", False, True, None)
    task: Any = trainer.task
    task.source = Pictures(list(pictures.reshape(len(pictures), side, side, 1)))
    return trainer


def summed(
    trainer: CohortTrainer, model: Tensor, members: int, number: int = 1
) -> tuple[Tensor, float]:
    """The unmasked sum ``[P]`` in levels, one client a node, and levels per unit; masks cancel and
    are left out."""
    release = trainer.release
    public = release.open(members, members, members, members)
    total: Payload | None = None
    for client in range(members):
        order = Assignment(number, 0, (client,), (0,), public)
        result = trainer.run(Broadcast(model, {}, number), order)
        assert result.payload is not None and not result.failures
        if total is None:
            total = result.payload
        else:
            total.add(result.payload)
    assert total is not None
    found = signed(total.vector.numpy().view("uint32")[:-4])
    return torch.from_numpy(found).double(), float(public["levels"])


def sums(experiment: Experiment, pictures: Tensor, members: int = MEMBERS) -> list[Tensor]:
    """Unmasked sums of 20 rounds at models of the server's choice, in levels."""
    trainer = trainer_of(experiment, pictures)
    stream = torch.Generator().manual_seed(0)
    start = trainer.task.init(0)
    return [
        summed(trainer, start + 0.02 * torch.randn(start.shape, generator=stream), members, number)[
            0
        ]
        for number in range(1, ROUNDS + 1)
    ]


@pytest.fixture
def no_dither(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dithered, without the dither: its law is looked at by itself."""
    monkeypatch.setattr(Entropy, "normal", lambda self, count: np.zeros(count))


def two_sets(seed: int, amount: float) -> tuple[Tensor, Tensor]:
    """Two sets of pictures with the same sum: multiples of 1/256, so that sums are exact."""
    stream = torch.Generator().manual_seed(seed)
    one = torch.randint(257, (MEMBERS, SIDE * SIDE), generator=stream)
    other = one.clone()
    for _ in range(3):
        first, second = torch.randperm(MEMBERS, generator=stream)[:2].tolist()
        room = torch.minimum(other[first], 256 - other[second])
        moved = (room * amount * torch.rand(room.shape, generator=stream)).long()
        other[first] -= moved
        other[second] += moved
    assert torch.equal(one.sum(0), other.sum(0)) and int(other.min()) >= 0
    assert not torch.equal(one, other)
    return one / 256, other / 256


def apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


@pytest.mark.usefixtures("no_dither")
@given(seed=st.integers(0, 2**32), amount=st.floats(0.05, 1.0))
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_guarantee_sums_of_20_rounds_are_the_same_for_any_two_sets_with_the_same_sum(
    seed: int, amount: float
) -> None:
    experiment = _configured()
    one, other = two_sets(seed, amount)
    first, second = sums(experiment, one), sums(experiment, other)
    assert apart(first, second) <= MEMBERS  # each is rounded by half a level, in both
    assert min(float(total.norm()) for total in first) > 1e5


@pytest.mark.parametrize(
    "broken",
    [
        {"learner.outer-steps": 2},
        {"learner.outer-clip": 0.05},
        {"privacy.clip-norm": 0.002},
        {"learner.batch-size": 16},
        {"methods": "maml", "learner.inner-steps": 2},
    ],
)
def test_without_a_condition_of_the_guarantee_two_sets_are_told_apart(
    broken: dict[str, Any],
) -> None:
    """Negative controls: two steps, an active clip of either kind, batches, a nonlinear learner."""
    experiment = _configured(**{"privacy.exact": False}, **broken)
    one, other = two_sets(3, 1.0)
    assert apart(sums(experiment, one), sums(experiment, other)) > 100 * MEMBERS


@pytest.mark.usefixtures("no_dither")
def test_with_a_member_missing_two_sets_are_told_apart() -> None:
    experiment = _configured()
    one, other = two_sets(3, 1.0)
    found = apart(sums(experiment, one, MEMBERS - 1), sums(experiment, other, MEMBERS - 1))
    assert found > 100 * MEMBERS


# ---------------------------------------------------------------- attacks that once succeeded
BRIGHT = {
    "all alike": torch.full((5, 64), 0.5),
    "spread": torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])[:, None].expand(5, 64),
    "extreme": torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0])[:, None].expand(5, 64),
}


@pytest.mark.usefixtures("no_dither")
@pytest.mark.parametrize(
    ("depth", "large", "omega"), [(4, 1e3, 30.0), (8, 10.0, 30.0), (2, 1, 1e10)]
)
def test_a_model_that_amplifies_rounding_tells_nothing(
    depth: int, large: float, omega: float
) -> None:
    """A bound worked out sample by sample was of another function than the step on all of them:
    deep layers turned last digits into other phases, and norms were 8000 times the bound."""
    changes = {"field.depth": depth, "field.omega": omega, "learner.outer-clip": 0.0}
    task = _task(**changes)
    stream = torch.Generator().manual_seed(1)
    model = torch.zeros(task.layout.size)
    named = task.layout.unflatten(model)
    named["layers.0.bias"].uniform_(-1, 1, generator=stream)
    for layer in range(1, depth):
        for part in ("weight", "bias"):
            named[f"layers.{layer}.{part}"].uniform_(-large, large, generator=stream)
    named[f"layers.{depth}.weight"][:] = 1e-9
    bound = largest_gradient(task, model)
    changes |= {"privacy.clip-norm": 0.05, "learner.outer-rate": 0.99 * 0.05 / bound}
    experiment = _configured(**changes)
    one, other = (
        summed(trainer_of(experiment, BRIGHT[name]), model, 5)[0]
        for name in ("all alike", "spread")
    )
    assert float((one - other).abs().max()) <= MEMBERS


@pytest.mark.usefixtures("no_dither")
def test_weights_that_swallow_small_updates_tell_nothing() -> None:
    """A difference of weights is rounded to their last digit: weights of 520 made a threshold of
    it, and 130 sums read everybody's brightness."""
    act, weight, limit = abs(math.sin(9.0)), 520.0, 1e-6
    rate = 2.0 ** (math.floor(math.log2(weight)) - 52) / 2 / (2 * act * 0.6)
    experiment = _configured(
        **{"learner.outer-rate": rate, "privacy.clip-norm": limit, "learner.outer-clip": 0.0}
    )
    model = torch.zeros(_task().layout.size)
    named = _task().layout.unflatten(model)
    for layer in range(2):
        named[f"layers.{layer}.bias"][:] = 0.3
    named["layers.2.weight"][0, 0::2], named["layers.2.weight"][0, 1::2] = weight, -weight
    named["layers.2.bias"][:] = -0.5
    one, other = (
        summed(trainer_of(experiment, BRIGHT[name]), model, 5)[0]
        for name in ("all alike", "spread")
    )
    assert float(one.abs().max()) > 10 * MEMBERS
    assert float((one - other).abs().max()) <= MEMBERS


def test_rounding_tells_no_second_moments() -> None:
    """1024 equal numbers of one level: their spread around the mean was sum x (1 - x) under
    stochastic rounding; dithered it is that of the dither, whoever is how bright."""
    changes = {
        "field.width": 1024, "field.depth": 1, "privacy.clip-norm": 1e6, "learner.outer-clip": 0.0,
    }  # fmt: skip
    task = _task(**changes)
    model = torch.zeros(task.layout.size)
    named = task.layout.unflatten(model)
    named["layers.0.bias"][:] = math.pi / 60
    named["layers.1.bias"][:] = -0.5
    start = next(o for name, _, o in task.layout.entries if name == "layers.1.weight")
    level = 1e6 / int(Pieces(_configured(**changes)).release.open(5, 5, 5, 5)["levels"])
    experiment = _configured(**changes, **{"learner.outer-rate": level / 2})
    spreads = {
        name: float(summed(trainer_of(experiment, p), model, 5)[0][start : start + 1024].var())
        for name, p in BRIGHT.items()
    }
    expected = 5 * (DITHER**2 + 1 / 12)
    for name, spread in spreads.items():  # five standard errors of a variance of 1024 numbers
        assert abs(spread - expected) < 5 * expected * math.sqrt(2 / 1024), (name, spreads)


def test_a_dithered_sum_has_room_for_its_dither() -> None:
    """All members at full length in one number, and the largest dither there can be."""
    release = Pieces(_configured()).release
    public = release.open(MEMBERS, MEMBERS, MEMBERS, MEMBERS)
    reach = int(public["levels"]) + math.ceil(DITHER * LARGEST_NORMAL) + 1
    assert MEMBERS * reach <= HALF - 1


def _configured(**changes: Any) -> Experiment:
    from fedapp.config.experiment import known_keys
    from fedapp.config.recipes import read_recipe

    return Experiment.from_run_config(known_keys() | read_recipe("smoke") | EXACT | changes)


# ---------------------------------------------------------------- the node's bound
def _task(**changes: Any) -> ImageTask:
    task: ImageTask = Pieces(_configured(**changes)).task
    return task


@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_and_jacobian_are_those_of_the_field(channels: int) -> None:
    task = _task(**{"data.channels": channels})
    model = task.init(1).double()
    values, jacobian = task.outputs(model)
    places = sampled("", torch.zeros(SIDE, SIDE, channels)).support.inputs.double()

    def field(params: Tensor) -> Tensor:
        return task.field(params[None], places[None])[0].flatten()  # type: ignore[no-any-return]

    torch.testing.assert_close(values, field(model))
    torch.testing.assert_close(jacobian, torch.func.jacrev(field)(model))
    assert len(values) == task.outputs_of_a_picture


@given(seed=st.integers(0, 2**32), scale=st.floats(0.0, 3.0))
@settings(max_examples=40, deadline=None)
def test_no_picture_reaches_the_bound(seed: int, scale: float) -> None:
    """Extreme pictures included: black, white, and the one that is worst for the first singular
    vector."""
    task = _task()
    stream = torch.Generator().manual_seed(seed)
    model = task.init(0).double()
    model = model + scale * torch.randn(model.shape, generator=stream, dtype=torch.float64)
    bound = largest_gradient(task, model)
    values, jacobian = task.outputs(model)
    left = torch.linalg.svd(jacobian, full_matrices=False).U[:, 0]
    worst = (left * (values - 0.5) < 0).double()
    drawn = torch.rand(4, len(values), generator=stream, dtype=torch.float64)
    pictures = torch.stack([torch.zeros_like(values), torch.ones_like(values), worst, 1 - worst])
    places = sampled("", torch.zeros(SIDE, SIDE, 1)).support.inputs
    for picture in torch.cat([pictures, drawn]):
        batch = Batch(places[None], picture.view(1, -1, 1))
        _, gradient = task.derivatives.gradient(model[None], batch)
        assert float(gradient.norm()) <= bound


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (1600, 1700)])
def test_the_singular_value_is_bounded_from_above(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = float(torch.linalg.matrix_norm(matrix, 2))
    assert true * (1 - 1e-9) <= largest_singular_value(matrix) <= 1.3 * true
    assert largest_singular_value(torch.zeros(shape, dtype=torch.float64)) == 0


def _constant(task: ImageTask, value: float, scale: float) -> Tensor:
    """A crafted model: hidden weights 0, so that its output is ``value`` everywhere, with output
    weights that make gradients ``scale`` times as large: who is clipped depends on how bright a
    picture is."""
    model = torch.zeros(task.layout.size)
    named = task.layout.unflatten(model)
    last = max(int(name.split(".")[1]) for name in named)
    named[f"layers.{last}.bias"].fill_(value - 0.5)
    named[f"layers.{last}.weight"].fill_(scale)
    return model


CRAFTED: dict[str, Callable[[ImageTask], Tensor]] = {
    "constant output": lambda task: _constant(task, 0.4, 30.0),
    "overflow": lambda task: _constant(task, 0.5, 1e30),
    "not a number": lambda task: _constant(task, float("nan"), 1.0),
    "infinite": lambda task: _constant(task, float("inf"), 1.0),
    "out of range": lambda task: task.init(0) + 2.0,
}


@pytest.mark.parametrize("crafted", list(CRAFTED))
def test_crafted_models_are_refused(crafted: str) -> None:
    task = _task()
    model = CRAFTED[crafted](task)
    reason = objection(task, model, _configured().learner, Bounds(9.0, CLIP))
    assert "would act" in reason or "not finite" in reason


def test_the_step_itself_refuses_what_nobody_asked_about() -> None:
    trainer = trainer_of(_configured(), BRIGHT["spread"])
    task: Any = trainer.task
    public = trainer.release.open(1, 1, 1, 1)
    order = Assignment(1, 0, (0,), (0,), public)
    result = trainer.run(Broadcast(_constant(task, 0.4, 30.0), {}, 1), order)
    assert "would act" in result.failures[0]


def test_a_client_with_other_data_than_the_bound_is_about_takes_no_part() -> None:
    trainer = trainer_of(_configured(), torch.rand(2, 49), side=7)
    public = trainer.release.open(1, 1, 1, 1)
    result = trainer.run(Broadcast(_task().init(0), {}, 1), Assignment(1, 0, (0,), (0,), public))
    assert "one picture of 64 numbers" in result.failures[0]


def test_an_update_that_its_own_clip_would_act_on_is_refused() -> None:
    task = _task()
    assert "privacy.clip-norm" in objection(
        task, task.init(0), _configured().learner, Bounds(0.0, 1e-4)
    )


def test_models_of_300_honest_rounds_are_never_refused() -> None:
    """The recipe's field and clip."""
    changes = {"field.width": 64, "field.depth": 2}
    experiment, task = _configured(**changes), _task(**changes)
    one, _ = two_sets(0, 1.0)
    model = task.init(0).double()
    places = sampled("", torch.zeros(SIDE, SIDE, 1)).support.inputs
    batch = Batch(places.expand(MEMBERS, -1, -1), one[..., None])
    for _ in range(300):
        assert objection(task, model.float(), experiment.learner, Bounds(5.0, CLIP)) == ""
        _, gradient = task.derivatives.gradient(model.expand(MEMBERS, -1), batch)
        model = model - RATE * gradient.mean(0)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"learner.outer-steps": 2}, "learner.outer-steps"),
        ({"learner.batch-size": 64}, "learner.batch-size"),
        ({"methods": "maml"}, "methods"),
        ({"methods": "tests.outsiders:ClaimsAClip"}, "methods"),
        ({"rule": "fedexp"}, "rule"),
        ({"rule": "fedprox"}, "rule"),
        ({"rule": "scaffold"}, "rule"),
        ({"data.objects": 2}, "data.objects"),
        ({"privacy.max-examples": 3}, "privacy.max-examples"),
        ({"privacy.adaptive-clip": True}, "privacy.adaptive-clip"),
        ({"release": "distributed-dp"}, "privacy.exact"),
        ({"clients.per-round": 5, "clients.total": 6, "runtime.nodes": 6}, "clients.per-round"),
        ({"privacy.group-size": 3}, "privacy.group-size"),
        ({"task": "video"}, "task"),
    ],
)
def test_what_the_guarantee_is_not_about_is_refused(change: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as refused:
        _configured(**{"privacy.epsilon-max": 100.0, **change})
    assert refused.value.key == key and refused.value.remedy
