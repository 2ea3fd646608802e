"""Compiled derivatives are the written ones, or the error that says why not."""

from __future__ import annotations

import shutil

import pytest
import torch

from strategies.local.meta import Meta
from tasks.derivatives import ByHand, Compiled
from tasks.errors import InputError
from tasks.fields.radiance import Radiance, RadianceDerivatives, Space
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.image import ImageTask
from tasks.nerf import NerfTask
from tasks.settings import DataSettings, FieldSettings, TaskSettings
from tasks.types import Batch, Episode

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
SIREN = Siren(2, 3, 8, 1)
RADIANCE = Radiance(Space(1.0, 3.0, 4), 8, 1, 2, 2.0)


def batches(field: Siren | Radiance, clients: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(0)
    inputs = torch.rand(3, clients, 5, field.inputs, generator=draw)
    return [Batch(part, torch.rand(clients, 5, 3, generator=draw)) for part in inputs]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "written"),
    [
        pytest.param(SIREN, SirenDerivatives(SIREN), id="siren"),
        pytest.param(
            RADIANCE, RadianceDerivatives(RADIANCE), id="radiance", marks=pytest.mark.exhaustive
        ),
    ],
)
def test_a_compiled_meta_step_is_the_written_one(field: Siren | Radiance, written: ByHand) -> None:
    draw = torch.Generator().manual_seed(1)
    params = torch.stack([field.init(draw) for _ in range(2)])
    *support, query = batches(field, 2)
    learner = Meta(2, 0.1, 0.5, 1.0, gamma=0.5)
    episode = Episode(support, query)
    ours, eager = (
        learner.step(derivatives, params, episode) for derivatives in (Compiled(written), written)
    )
    torch.testing.assert_close(ours.gradient, eager.gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.objective, eager.objective, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_batches_of_changing_size_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    derivatives = Compiled(RadianceDerivatives(RADIANCE))
    monkeypatch.setattr(derivatives, "_evaluate", None)
    params = RADIANCE.init(torch.Generator().manual_seed(0))[None]
    rays = torch.rand(1, 5, 8)
    rays[..., 6:] = torch.tensor([1.5, 2.5])
    bounded = Batch(rays, torch.rand(1, 5, 3))
    assert torch.equal(
        derivatives.gradient(params, bounded)[1],
        RadianceDerivatives(RADIANCE).gradient(params, bounded)[1],
    )
    with pytest.raises(TypeError):  # what the patched one does when it is called
        derivatives.gradient(params, Batch(rays[..., :6], bounded.targets))


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"field.compiled.*no-such-compiler.*\n.*install one"):
        ImageTask(TaskSettings(field=FieldSettings(compiled=True)))


def test_what_cannot_be_compiled_says_so() -> None:
    grid = TaskSettings(
        task="nerf", data=DataSettings(size=8), field=FieldSettings(compiled=True, encoding="hash")
    )
    with pytest.raises(InputError, match=r"field.compiled.*cannot differentiate twice"):
        NerfTask(grid)
