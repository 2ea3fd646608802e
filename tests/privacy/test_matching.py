"""Simulate and match: the simulation is the client's training, and what it takes to get a picture
back."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from privacy.attacks.client_training import Training, cap_guesses, drawn_samples, simulate
from privacy.attacks.matching import QUICK, Search, match_best, match_update
from privacy.attacks.render import best_affine
from strategies.local.erm import Erm
from strategies.local.meta import FedMeNF, FedMeNFUnbounded, Fomaml, Maml
from strategies.local.reptile import Reptile
from strategies.local.train import descend
from strategies.rules.fedavg import FedAvg
from strategies.settings import FedMeNFSettings, LearnerSettings, RuleSettings
from strategies.types import Broadcast
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.image import ImageTask
from tasks.metrics import psnr
from tasks.settings import DataSettings, FieldSettings
from tasks.signals import ClientSignals, Samples, Signal

SIDE, GRID, STEPS, BATCH, CLIP = 6, (6, 6), 4, 64, 0.6
CAPS = {"fedmenf": 0.02, "fedmenf, cap not reached": 10.0}
LEARNERS = {
    "maml": Maml,
    "fomaml": Fomaml,
    "fedmenf": FedMeNF,
    "fedmenf, cap not reached": FedMeNF,
    "fedmenf-unbounded": FedMeNFUnbounded,
    "reptile": Reptile,
    "erm": Erm,
}


def private(coordinates: Tensor, values: Tensor) -> ClientSignals:
    """A client's data in float64."""
    samples = Samples(coordinates, values)
    return ClientSignals("", (Signal("", samples, samples, tuple(values.shape)),))


class Server:
    """What a server holds of two clients whose pictures are smooth and unlike each other."""

    def __init__(self, name: str, clip: float = CLIP) -> None:
        self.settings = LearnerSettings(
            inner_steps=2,
            inner_rate=0.02,
            inner_clip=0.5,
            outer_steps=STEPS,
            outer_rate=1e-3,
            outer_clip=clip,
            batch_size=BATCH,
            fedmenf=FedMeNFSettings(gamma=0.75, cap=CAPS.get(name, 0.0)),
        )
        self.learner = LEARNERS[name](self.settings)
        data = DataSettings(size=SIDE, channels=1)
        self.task = ImageTask(SimpleNamespace(data=data, field=FieldSettings(width=32, depth=2)))  # type: ignore[arg-type]
        self.field = self.task.field = Siren(2, 1, 32, 2, omega=15.0)
        self.task.derivatives = SirenDerivatives(self.field)
        line = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
        rows, columns = torch.meshgrid(line, line, indexing="ij")
        self.truth = torch.stack(
            [0.5 + 0.4 * torch.sin(3 * rows + columns), 0.5 + 0.4 * torch.cos(3 * columns) * rows]
        ).reshape(2, -1, 1)
        self.coordinates = torch.stack([rows, columns], -1).reshape(1, -1, 2).repeat(2, 1, 1)
        self.model = self.task.init(0).double()
        self.keys = [("batches", 0, 1, client) for client in range(2)]

    @cached_property
    def updates(self) -> Tensor:
        """What the real trainer sends."""
        cohort = [private(*rows) for rows in zip(self.coordinates, self.truth, strict=True)]
        rule, received = FedAvg(RuleSettings()), Broadcast(self.model, {}, 1)
        return descend(
            self.learner, self.task, rule, received, cohort, {}, self.keys, self.settings
        ).delta

    def training(self, known: bool = True) -> Training:
        batches = drawn_samples(
            self.task, self.coordinates, self.keys, STEPS, self.learner.inner_steps, BATCH
        )
        return Training(
            self.field.loss,
            self.learner,
            self.coordinates,
            STEPS,
            self.settings.outer_clip,
            batches if known else None,
            self.task.derivatives,
        )

    def scores(self, values: Tensor) -> list[float]:
        return [
            psnr(found.clamp(0, 1), truth) for found, truth in zip(values, self.truth, strict=True)
        ]

    def floors(self) -> list[float]:
        return self.scores(self.truth.mean(1, keepdim=True).expand_as(self.truth))


@pytest.mark.parametrize("name", LEARNERS)
def test_simulation_is_the_trainer(name: str) -> None:
    server = Server(name)
    sent = simulate(server.training(), server.model, server.truth)
    torch.testing.assert_close(sent.detach() - server.model, server.updates, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["fedmenf-unbounded", "fedmenf", "reptile"])
def test_simulation_is_differentiable_in_the_values(name: str) -> None:
    server = Server(name)
    known, values = server.training(), server.truth.clone().requires_grad_()
    draw = torch.Generator().manual_seed(0)
    along = torch.randn(values.shape, generator=draw, dtype=torch.float64)
    weights = torch.randn(server.updates.shape, generator=draw, dtype=torch.float64)

    def read(x: Tensor) -> Tensor:
        return (simulate(known, server.model, x) * weights).sum()

    (gradient,) = torch.autograd.grad(read(values), values)
    difference = (read(server.truth + 1e-5 * along) - read(server.truth - 1e-5 * along)) / 2e-5
    assert float((gradient * along).sum()) == pytest.approx(float(difference.detach()), rel=1e-4)


@pytest.mark.parametrize("name", ["fedmenf-unbounded", "erm"])
def test_known_batches_give_the_picture_back(name: str) -> None:
    server = Server(name, clip=0.0)
    search = Search(smooth=1e-6, rounds=4, steps=12)
    found = match_update(server.training(), server.model, server.updates, 1, GRID, search)
    assert min(server.scores(found.values)) > 30
    assert float(found.misfit.max()) < 1e-3


def test_updates_of_several_rounds_are_explained_by_one_picture() -> None:
    """Two rounds, the second from another model and with other draws. One of them alone, given as
    a round, is the same search; the two together are explained by the picture; updates of two
    clients are not explained by any one."""
    server = Server("erm", clip=0.0)
    models = [server.model, server.model + server.updates.mean(0)]
    batches, updates = [], []
    for number, model in enumerate(models):
        server.model = model
        server.keys = [("batches", 0, number + 1, client) for client in range(2)]
        server.__dict__.pop("updates", None)
        updates.append(server.updates)
        batches.append(server.training().batches)
    server.model = models[0]
    both = torch.stack(updates, 1)  # [C, R, P]
    known = torch.stack(batches, 3).flatten(2, 3)  # picture by picture, [E, K + 1, C R, B]
    training = replace(
        server.training(), batches=known, coordinates=server.coordinates.repeat_interleave(2, 0)
    )
    there = torch.stack(models).expand(2, -1, -1)
    search = Search(smooth=1e-6, rounds=4, steps=12)
    found = match_update(training, there, both, 1, GRID, search)
    assert found.values.shape == server.truth.shape
    assert min(server.scores(found.values)) > 30 and float(found.misfit.max()) < 1e-3
    first = replace(server.training(), batches=batches[0])
    alone = match_update(first, models[0], updates[0], 1, GRID, search)
    as_round = match_update(first, models[0], updates[0][:, None], 1, GRID, search)
    torch.testing.assert_close(as_round.values, alone.values)
    mixed = torch.stack([updates[0], updates[1].flip(0)], 1)
    assert float(match_update(training, there, mixed, 1, GRID, search).misfit.min()) > 0.05


def test_an_active_clip_hides_contrast_and_nothing_else() -> None:
    server = Server("erm", clip=0.05)  # below every gradient: only directions are sent
    search = Search(smooth=1e-6, rounds=3, steps=12)
    found = match_update(server.training(), server.model, server.updates, 1, GRID, search)
    fitted = torch.stack(
        [best_affine(*rows) for rows in zip(found.values, server.truth, strict=True)]
    )
    assert float(found.misfit.max()) < 1e-3
    assert all(
        after > before + 3
        for after, before in zip(server.scores(fitted), server.floors(), strict=True)
    )


def test_unknown_batches_still_show_it_and_only_its_owner() -> None:
    server = Server("fedmenf-unbounded")
    unknown = server.training(known=False)
    own = match_update(unknown, server.model, server.updates, 1, GRID, QUICK)
    other = match_update(unknown, server.model, server.updates.flip(0), 1, GRID, QUICK)
    floors = server.floors()
    assert all(
        score > floor + 3 for score, floor in zip(server.scores(own.values), floors, strict=True)
    )
    assert all(
        score < floor + 1 for score, floor in zip(server.scores(other.values), floors, strict=True)
    )


def test_noise_hides_it() -> None:
    server = Server("fedmenf-unbounded")
    draw, norm = torch.Generator().manual_seed(3), server.updates.norm(dim=1, keepdim=True)
    noise = (
        torch.randn(server.updates.shape, generator=draw, dtype=torch.float64) * norm
    )  # z = 1, clipped at the norm
    found = match_update(
        server.training(known=False), server.model, server.updates + noise, 1, GRID, QUICK
    )
    pairs = zip(server.scores(found.values), server.floors(), strict=True)
    assert all(score < floor + 1 for score, floor in pairs)


def test_a_row_is_its_own_problem() -> None:
    server = Server("fomaml")
    both = match_update(
        server.training(False), server.model, server.updates, 1, GRID, Search(rounds=1, steps=5)
    )
    alone = Training(server.field.loss, server.learner, server.coordinates[1:], STEPS, CLIP)
    one = match_update(alone, server.model, server.updates[1:], 1, GRID, Search(rounds=1, steps=5))
    torch.testing.assert_close(both.values[1:], one.values, rtol=1e-8, atol=1e-8)


def test_guesses_about_the_cap_explain_at_least_as_much() -> None:
    server = Server("fedmenf")
    candidates, search = (
        cap_guesses(server.training(known=False)),
        Search(rounds=1, steps=2, stages=1),
    )
    caps = [getattr(one.learner, "cap", None) for one in candidates]
    assert caps[0] == CAPS["fedmenf"] and not any(caps[1:])
    each = [
        match_update(one, server.model, server.updates, 1, GRID, search).misfit
        for one in candidates
    ]
    best = match_best(candidates, server.model, server.updates, 1, grid=GRID, search=search)
    assert bool((best.misfit <= torch.stack(each).min(0).values).all())
    assert len(cap_guesses(Server("erm").training(known=False))) == 1


def test_with_nothing_but_smoothing_a_picture_becomes_constant_along_every_axis() -> None:
    """So heavy that the update no longer counts; without a grid nothing is smoothed at all."""
    server = Server("erm")
    training = Training(server.field.loss, server.learner, server.coordinates, STEPS, CLIP)
    start = server.truth.clone()
    search = Search(smooth=1e6, rounds=6, steps=80, stages=1)
    options = {"search": search, "start": start}
    found = match_update(training, server.model, server.updates, 1, grid=GRID, **options)
    picture = found.values.reshape(2, *GRID)
    before = start.reshape(2, *GRID)
    for axis in (1, 2):
        assert float(before.diff(dim=axis).abs().max()) > 0.1
        assert float(picture.diff(dim=axis).abs().max()) < 1e-3
    rough = match_update(training, server.model, server.updates, 1, **options)
    assert float(rough.values.reshape(2, *GRID).diff(dim=1).abs().max()) > 0.1


def test_more_smoothing_explains_less_and_is_smoother() -> None:
    server = Server("erm")
    training = Training(server.field.loss, server.learner, server.coordinates, STEPS, CLIP)
    misfits, rough = [], []
    for smooth in (0.02, 0.3, 3.0):
        search = Search(smooth=smooth, rounds=3, steps=20, stages=1)
        found = match_update(training, server.model, server.updates, 1, grid=GRID, search=search)
        picture = found.values.reshape(2, *GRID)
        misfits.append(float(found.misfit.mean()))
        rough.append(float(sum(picture.diff(dim=axis).abs().mean() for axis in (1, 2))))
    assert misfits == sorted(misfits) and rough == sorted(rough, reverse=True)
    assert misfits[0] < 0.2 * misfits[2] and rough[2] < 0.5 * rough[0]
