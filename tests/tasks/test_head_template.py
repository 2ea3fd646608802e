"""A template of heads: what is learned, what is not, and distances of meshes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.fields.sdf import ball, corners
from tasks.head import remembered as shelf
from tasks.head import template
from tasks.head.mesh import Mesh, compare, surface
from tasks.head.truth import distances


def globe(radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Vertices and faces of a ball's surface."""
    mesh = surface(ball(48, 0, radius)[0])
    points = torch.from_numpy(mesh.vertices).float()
    return torch.nn.functional.normalize(points, dim=1) * radius, torch.from_numpy(mesh.faces)


def test_distances_of_a_ball_are_known() -> None:
    vertices, faces = globe(0.4)
    found = distances(vertices, faces.flip(1), 24)  # whichever way round its triangles are
    true = corners(24).norm(dim=-1) - 0.4
    near = true.abs() < 0.15
    assert float((found - true)[near].abs().max()) < 0.012
    assert bool((found.sign() == true.sign())[true.abs() > 0.02].all())
    both = compare(surface(found), Mesh(vertices.double().numpy(), faces.numpy()), samples=5000)
    assert both["chamfer_head"] < 0.012


def test_the_loss_is_least_where_the_template_is_the_population() -> None:
    """Gradient steps on shapes m + B z find the mean and the span of B, and nothing below the
    neck moves."""
    stream = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(template.SIZE, 2, generator=stream))[0].T
    mean = 0.1 * torch.randn(template.SIZE, generator=stream)
    shapes = mean + torch.randn(40, 2, generator=stream) @ axes
    shapes = shapes - shapes.mean(0) + mean  # so that their mean is m to the digit
    own = torch.zeros(template.SIZE)
    components = 0.05 * torch.randn(2, template.SIZE, generator=stream)
    start = components.clone()
    before = float(template.loss(own.expand(40, -1), components.expand(40, -1, -1), shapes).mean())
    for _ in range(500):
        own.requires_grad_()
        components.requires_grad_()
        loss = template.loss(own.expand(40, -1), components.expand(40, -1, -1), shapes).mean()
        one, two = torch.autograd.grad(loss, (own, components))
        own, components = (own - 0.2 * one).detach(), (components - 0.2 * two).detach()
    above = template.counted() > 0
    assert float((own - mean)[above].abs().max()) < 1e-4
    assert torch.equal(own[~above], torch.zeros_like(own[~above]))
    assert torch.equal(components[:, ~above], start[:, ~above])
    rest = shapes - own - template.coefficients(
        own.expand(40, -1), components.expand(40, -1, -1), shapes
    ) @ components  # fmt: skip
    assert float(rest[:, above].square().sum(1).mean()) < 0.02 * before


def test_the_mean_moves_though_components_could_say_the_same() -> None:
    """A shift of the whole population along a component is the mean's to learn."""
    component = torch.zeros(1, 1, template.SIZE)
    component[..., -100:] = 0.1
    mean = torch.zeros(1, template.SIZE, requires_grad=True)
    shape = 2 * component[0]
    (gradient,) = torch.autograd.grad(template.loss(mean, component, shape).sum(), mean)
    assert torch.allclose(-gradient, shape, atol=1e-6)


def test_a_noisy_mean_becomes_distances_again() -> None:
    side = template.LATTICE
    true = (corners(side).norm(dim=-1) - 0.45).clamp(-template.CUT, template.CUT).flatten()
    found = template.start(true, 32)[0]
    wanted = corners(32).norm(dim=-1) - 0.45
    assert float((found - wanted).abs().mean()) < 0.02  # where the lattice was cut off, too
    assert float(found.max()) > 2 * template.CUT
    stream = torch.Generator().manual_seed(0)
    noisy = template.start(true + 0.1 * torch.randn(template.SIZE, generator=stream), 32)[0]
    outside = wanted > 0.2  # islands of noise there are no insides
    assert bool((noisy[outside] > 0).all()) and float((noisy - wanted).abs().mean()) < 0.06
    nothing = template.start(torch.full((template.SIZE,), 0.1), 16)[0]
    assert torch.allclose(nothing, torch.full_like(nothing, 0.1))


def test_a_fitted_head_is_remembered_and_a_damaged_file_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[int] = []

    def make() -> torch.Tensor:
        made.append(1)
        return torch.arange(5.0)

    for _ in range(2):
        assert shelf.remembered(["a", 1], make).tolist() == [0, 1, 2, 3, 4]
    assert len(made) == 1
    assert shelf.remembered(["a", 2], make).numel() == 5 and len(made) == 2
    (file, *_) = sorted((tmp_path / "fedapp" / "heads").iterdir())
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(bytes(data))
    for name in (1, 2):
        assert shelf.remembered(["a", name], make).tolist() == [0, 1, 2, 3, 4]
    assert len(made) == 3
