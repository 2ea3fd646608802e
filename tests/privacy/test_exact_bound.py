"""What a node finds out from a model alone, before it reads data in the provable mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from exact_kit import (
    BRIGHT,
    CLIP,
    MEMBERS,
    RATE,
    SIDE,
    configured,
    task_of,
    trainer_of,
    two_sets,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from privacy.exact import (
    Bounds,
    largest_gradient,
    largest_singular_value,
    linearised,
    objection,
)
from strategies.cohort import Assignment
from strategies.types import Broadcast
from tasks.errors import InputError
from tasks.image import ImageTask
from tasks.signals import sampled
from tasks.types import Batch


@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_and_jacobian_are_those_of_the_field(channels: int) -> None:
    task = task_of(**{"data.channels": channels})
    model = task.init(1).double()
    values, jacobian = task.outputs(model)
    places = sampled("", torch.zeros(SIDE, SIDE, channels)).support.inputs.double()

    def field(params: Tensor) -> Tensor:
        return task.field(params[None], places[None])[0].flatten()  # type: ignore[no-any-return]

    # the places that pictures have are rounded to single precision, the bound's are not
    torch.testing.assert_close(values, field(model), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(jacobian, torch.func.jacrev(field)(model), atol=1e-5, rtol=1e-3)
    assert len(values) == task.outputs_of_a_picture


@given(seed=st.integers(0, 2**32), scale=st.floats(0.0, 3.0))
@settings(max_examples=40, deadline=None)
def test_no_picture_reaches_the_bound(seed: int, scale: float) -> None:
    """Extreme pictures included: black, white, and the one that is worst for the first singular
    vector."""
    task = task_of()
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


def test_a_black_picture_counts_where_a_model_is_bright_and_a_white_one_where_it_is_dark() -> None:
    """Gradients of constant models: |f| from black pictures, |1 - f| from white ones."""
    task = task_of()
    places = sampled("", torch.zeros(SIDE, SIDE, 1)).support.inputs
    for level, worst in ((0.9, 0.0), (0.1, 1.0)):
        model = _constant(task, level, 1.0).double()
        bound = largest_gradient(task, model)
        _, gradient = task.derivatives.gradient(
            model[None], Batch(places[None], torch.full((1, SIDE**2, 1), worst))
        )
        assert 0.3 * bound < float(gradient.norm()) <= bound


# ---------------------------------------------------------------- computers
@given(seed=st.integers(0, 2**32), scale=st.floats(1e-3, 30.0))
@settings(max_examples=30, deadline=None)
def test_computers_that_add_up_in_another_order_stay_within_the_error_bound(
    seed: int, scale: float
) -> None:
    """Hidden units in another order are the same field with other last digits."""
    task = task_of(**{"field.depth": 3})
    stream = torch.Generator().manual_seed(seed)
    model = task.init(0).double()
    model = model + scale * 0.05 * torch.randn(model.shape, generator=stream, dtype=torch.float64)
    orders = [torch.randperm(16, generator=stream) for _ in range(3)]

    def reordered(vector: Tensor, back: bool = False) -> Tensor:
        """Units of the hidden layers permuted (``back``: of Jacobian rows, put back)."""
        turns = [order.argsort() if back else order for order in orders]
        named = {name: part.clone() for name, part in task.layout.unflatten(vector).items()}
        for layer, turn in enumerate(turns):
            for part, axis in (("weight", -2), ("bias", -1)):
                name = f"layers.{layer}.{part}"
                named[name] = named[name].index_select(axis, turn)
            name = f"layers.{layer + 1}.weight"
            named[name] = named[name].index_select(-1, turn)
        return task.layout.flatten(named)

    _, one = task.outputs(model)
    _, other = task.outputs(reordered(model))
    apart = (one - reordered(other, back=True)).norm(dim=1).max()
    assert float(apart) <= task.outputs_error(model)


AMPLIFIERS = [(4, 1e3, 30.0), (8, 10.0, 30.0), (2, 1.0, 1e10)]


@pytest.mark.parametrize(("depth", "large", "omega"), AMPLIFIERS)
def test_a_deep_model_that_makes_last_digits_large_is_refused(
    depth: int, large: float, omega: float
) -> None:
    """A bound worked out sample by sample was of another function than the step on all of them:
    norms were 8000 times the bound. Both are one function now, on one computer; on two the last
    digits would differ."""
    changes = {"field.depth": depth, "field.omega": omega, "learner.outer-clip": 0.0}
    task = task_of(**changes)
    stream = torch.Generator().manual_seed(1)
    model = torch.zeros(task.layout.size)
    named = task.layout.unflatten(model)
    named["layers.0.bias"].uniform_(-1, 1, generator=stream)
    for layer in range(1, depth):
        for part in ("weight", "bias"):
            named[f"layers.{layer}.{part}"].uniform_(-large, large, generator=stream)
    named[f"layers.{depth}.weight"][:] = 1e-9
    changes |= {"privacy.clip-norm": 0.05}
    changes |= {"learner.outer-rate": 0.99 * 0.05 / largest_gradient(task, model)}
    clips = Bounds.of(0.0, 0.05, 5)
    assert "computers may differ" in objection(task, model, configured(**changes).learner, clips)


def test_first_layer_weights_of_1e16_are_refused_and_honest_ones_are_not() -> None:
    """Two computers made other pictures of such a model, and a member's own stood in the sum."""
    changes = {"field.width": 64, "field.depth": 2}
    task, learner = task_of(**changes), configured(**changes).learner
    model = task.init(0)
    clips = Bounds.of(5.0, CLIP, MEMBERS)
    assert objection(task, model, learner, clips) == ""
    named = task.layout.unflatten(model)
    named["layers.0.weight"].uniform_(-1e16, 1e16, generator=torch.Generator().manual_seed(0))
    named["layers.2.weight"].fill_(1e-20)
    assert "computers may differ" in objection(task, model, learner, clips)


def test_a_level_is_that_of_the_sum_whatever_the_run_says_it_is() -> None:
    """By ``clients.total = 1_000_000`` a server made nodes believe in levels 170 000 times as
    coarse as those of their sum, and two instruction sets made one member's picture (33 dB)."""
    changes = {"field.width": 64, "field.depth": 2}
    trainer = trainer_of(configured(**changes), two_sets(0, 1.0)[0])
    public = trainer.release.open(MEMBERS, MEMBERS, MEMBERS, MEMBERS)
    clips = Bounds.of_sum(9.0, public)
    assert clips.level == pytest.approx(CLIP / public["levels"], rel=1e-12)
    assert clips == Bounds.of(9.0, CLIP, MEMBERS)
    task, learner = task_of(**changes), configured(**changes).learner
    model = task.init(0)
    named = task.layout.unflatten(model)
    named["layers.0.weight"].uniform_(-1e16, 1e16, generator=torch.Generator().manual_seed(0))
    named["layers.2.weight"].fill_(1e-20)
    for clients in (MEMBERS, 1000, 1_000_000):  # so many pictures differ so many times as much
        differ = objection(task, model, learner, Bounds.of(9.0, CLIP, clients))
        assert "computers may differ" in differ
        levels = float(differ.split("differ by ")[1].split()[0])
        rate = learner.outer_rate
        apart = MEMBERS * rate * linearised(task, model).apart / clips.level
        assert levels == pytest.approx(apart, rel=0.1)


def test_the_step_that_is_bounded_is_the_one_that_is_taken() -> None:
    """By ``learner.outer-rate = 1e-9`` and a step size of the method's own, nodes bounded one step
    and took another: five members of five stood alone, at 64 to 100 dB. The settings cannot say so
    any more; nor does a trainer that has two step sizes take the larger one."""
    experiment = configured(**{"learner.outer-rate": 1e-9, "learner.outer-clip": 0.0})
    trainer = trainer_of(experiment, BRIGHT["spread"])
    step: Any = trainer.learner
    assert step.outer_rate == experiment.learner.outer_rate == 1e-9
    step.outer_rate = 50.0
    public = trainer.release.open(1, 1, 1, 1)
    order = Assignment(1, 0, (0,), (0,), public)
    result = trainer.run(Broadcast(task_of().init(0), {}, 1), order)
    assert "privacy.clip-norm" in result.failures[0]


@pytest.mark.parametrize(("share", "refused"), [(0.9, False), (1.1, True)])
def test_two_hundredths_of_a_level_are_the_most_that_a_sum_may_differ_by(
    monkeypatch: pytest.MonkeyPatch, share: float, refused: bool
) -> None:
    import privacy.exact as exact

    task, learner = task_of(), configured().learner
    clips = Bounds.of(9.0, CLIP, MEMBERS)
    found = linearised(task, task.init(0))
    apart = share * 0.02 * clips.level / MEMBERS / RATE
    monkeypatch.setattr(exact, "linearised", lambda *_: found._replace(apart=apart))
    assert bool(objection(task, task.init(0), learner, clips)) == refused


def test_the_error_bound_is_the_recursion_of_its_docstring() -> None:
    """Written again, entry by entry: every term of it counts (at unit weights, where none is
    hidden by another)."""
    task = task_of(**{"field.width": 3, "field.depth": 2, "field.omega": 2.0})
    model = task.init(0)
    u, omega = float(torch.finfo(torch.float64).eps), 2.0
    named = {name: part.double().tolist() for name, part in task.layout.unflatten(model).items()}
    layers = [(named[f"layers.{n}.weight"], named[f"layers.{n}.bias"]) for n in range(3)]
    errors = [[u, u]]
    for weight, bias in layers[:-1]:
        row = []
        for weights, shift in zip(weight, bias, strict=True):
            carried = sum(abs(w) * e for w, e in zip(weights, errors[-1], strict=True))
            whole = sum(abs(w) for w in weights) + abs(shift)
            row.append(omega * (carried + (len(weights) + 6) * u * whole) + 4 * u)
        errors.append(row)
    last = [abs(w) for w in layers[-1][0][0]]
    square = sum(e * e for e in errors[-1])
    reach, apart = [omega * w for w in last], [3 * u * omega * w for w in last]
    for index in (1, 0):
        apart = [a + r * (e + u) for a, r, e in zip(apart, reach, errors[index + 1], strict=True)]
        for a, r in zip(apart, reach, strict=True):
            square += a * a + sum((a + r * (e + u)) ** 2 for e in errors[index])
        if index:
            weight = layers[index][0]
            units = range(len(weight[0]))
            terms = len(weight) + 3
            back = [sum(abs(weight[k][j]) * reach[k] for k in range(len(weight))) for j in units]
            apart = [
                omega * (sum(abs(weight[k][j]) * apart[k] for k in range(len(weight)))
                         + terms * u * back[j])
                for j in units
            ]  # fmt: skip
            reach = [omega * b for b in back]
    assert task.outputs_error(model) == pytest.approx(math.sqrt(square), rel=1e-9)


def test_what_a_sum_over_pixels_loses_is_counted() -> None:
    """The last term of ``apart``: |J|^T max(|f|, |1 - f|), twice the unit of rounding."""
    task = task_of()
    model = task.init(0)
    found = linearised(task, model)
    reach = torch.maximum(found.values.abs(), (1 - found.values).abs())
    lost = 2 * torch.finfo(torch.float64).eps * float((found.jacobian.abs().T @ reach).norm())
    assert found.apart == pytest.approx(2 * task.outputs_error(model) + lost, rel=1e-12)
    assert lost > 1e-3 * found.apart


# ---------------------------------------------------------------- crafted models
CRAFTED: dict[str, Callable[[ImageTask], Tensor]] = {
    "constant output": lambda task: _constant(task, 0.4, 30.0),
    "overflow": lambda task: _constant(task, 0.5, 1e30),
    "not a number": lambda task: _constant(task, float("nan"), 1.0),
    "infinite": lambda task: _constant(task, float("inf"), 1.0),
    "out of range": lambda task: task.init(0) + 2.0,
}


@pytest.mark.parametrize("crafted", list(CRAFTED))
def test_crafted_models_are_refused(crafted: str) -> None:
    task = task_of()
    model = CRAFTED[crafted](task)
    reason = objection(task, model, configured().learner, Bounds.of(9.0, CLIP, MEMBERS))
    assert "would act" in reason or "not finite" in reason


def test_the_step_itself_refuses_what_nobody_asked_about() -> None:
    trainer = trainer_of(configured(), BRIGHT["spread"])
    task: Any = trainer.task
    public = trainer.release.open(1, 1, 1, 1)
    order = Assignment(1, 0, (0,), (0,), public)
    result = trainer.run(Broadcast(_constant(task, 0.4, 30.0), {}, 1), order)
    assert "would act" in result.failures[0]


def test_a_client_with_other_data_than_the_bound_is_about_takes_no_part() -> None:
    trainer = trainer_of(configured(), torch.rand(2, 49), side=7)
    public = trainer.release.open(1, 1, 1, 1)
    result = trainer.run(Broadcast(task_of().init(0), {}, 1), Assignment(1, 0, (0,), (0,), public))
    assert "one picture of 64 numbers" in result.failures[0]


def test_an_update_that_its_own_clip_would_act_on_is_refused() -> None:
    task = task_of()
    assert "privacy.clip-norm" in objection(
        task, task.init(0), configured().learner, Bounds.of(0.0, 1e-4, MEMBERS)
    )


def test_models_of_300_honest_rounds_are_never_refused() -> None:
    """The recipe's field and clip."""
    changes = {"field.width": 64, "field.depth": 2}
    experiment, task = configured(**changes), task_of(**changes)
    one, _ = two_sets(0, 1.0)
    model = task.init(0).double()
    places = sampled("", torch.zeros(SIDE, SIDE, 1)).support.inputs
    batch = Batch(places.expand(MEMBERS, -1, -1), one[..., None])
    for _ in range(300):
        assert (
            objection(task, model.float(), experiment.learner, Bounds.of(5.0, CLIP, MEMBERS)) == ""
        )
        _, gradient = task.derivatives.gradient(model.expand(MEMBERS, -1), batch)
        model = model - RATE * gradient.mean(0)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"learner.outer-steps": 2}, "learner.outer-steps"),
        ({"learner.batch-size": 64}, "learner.batch-size"),
        ({"learner.steps-by-examples": True}, "learner.steps-by-examples"),
        ({"learner.outer-rates": "erm=0.5"}, "learner.outer-rates"),
        ({"data.alpha": 0.5}, "data.alpha"),
        ({"privacy.metrics": '{"loss": [0, 1]}'}, "privacy.metrics"),
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
        configured(**{"privacy.epsilon-max": 100.0, **change})
    assert refused.value.key == key and refused.value.remedy
