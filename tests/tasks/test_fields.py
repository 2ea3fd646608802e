"""Radiance fields: volume rendering in closed form, exact derivatives, hash grids."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from strategies.local.meta import Meta
from tasks.derivatives import Autograd
from tasks.fields.hashgrid import HashGrid
from tasks.fields.radiance import Radiance, RadianceDerivatives, Space
from tasks.render.compositing import squared_error
from tasks.render.volume import composite, depth, distances, weights
from tasks.types import Batch, Episode

SPACE = Space(near=1.0, far=3.0, samples=5, background=1.0)
FIELD = Radiance(SPACE, width=7, depth=2, frequencies=3, max_frequency=2.0)


def rays(clients: int, count: int, seed: int = 0, offset: bool = True) -> Tensor:
    """Rays from z = 2 through the neighbourhood of the origin, with a place in their strata."""
    draw = torch.Generator().manual_seed(seed)
    origin = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64).expand(clients, count, 3)
    aim = torch.rand(clients, count, 3, generator=draw, dtype=torch.float64) - 0.5
    direction = torch.nn.functional.normalize(aim - origin, dim=-1)
    parts = [origin, direction]
    if offset:
        parts.append(torch.rand(clients, count, 1, generator=draw, dtype=torch.float64))
    return torch.cat(parts, -1)


def problem(clients: int = 2, inner_steps: int = 2) -> tuple[Tensor, Episode]:
    draw = torch.Generator().manual_seed(3)
    params = torch.stack([FIELD.init(draw) for _ in range(clients)]).double()
    colours = torch.rand(inner_steps + 1, clients, 4, 3, generator=draw, dtype=torch.float64)
    batches = [Batch(rays(clients, 4, seed), colours[seed]) for seed in range(inner_steps + 1)]
    return params, Episode(batches[:-1], batches[-1])


# ---------------------------------------------------------------- volume rendering
def test_the_docstrings_examples() -> None:
    assert distances(2.0, 6.0, 4, torch.tensor(0.5)).tolist() == [2.5, 3.5, 4.5, 5.5]
    weight = weights(torch.full((2,), math.log(2)), 1.0)
    torch.testing.assert_close(weight, torch.tensor([0.5, 0.25]))
    grey = composite(torch.zeros(2, 3), weight, 1.0)
    torch.testing.assert_close(grey, torch.full((3,), 0.25))


@given(st.lists(st.floats(0, 50), min_size=1, max_size=20), st.floats(0.01, 1.0))
def test_weights_and_what_passes_through_are_a_distribution(
    densities: list[float], spacing: float
) -> None:
    density = torch.tensor(densities, dtype=torch.float64)
    weight = weights(density, spacing)
    through = math.exp(-sum(densities) * spacing)
    assert (weight >= 0).all() and float(weight.sum()) == pytest.approx(1 - through, abs=1e-9)


def test_a_uniform_fog_has_its_closed_form() -> None:
    """Constant density s over length l: the colour is (1 - e^(-s l)) c + e^(-s l) b, whatever the
    sampling."""
    for count in (3, 50):
        weight = weights(torch.full((count,), 1.7, dtype=torch.float64), 2.0 / count)
        found = composite(torch.full((count, 3), 0.2, dtype=torch.float64), weight, 1.0)
        assert float(found[0]) == pytest.approx(0.2 + 0.8 * math.exp(-3.4))


def test_a_wall_is_seen_where_it_stands() -> None:
    t = distances(1.0, 3.0, 100, torch.tensor(0.5, dtype=torch.float64))
    density = torch.where(t > 2.2, 1e4, 0.0)
    assert float(depth(weights(density, 0.02), t, 3.0)) == pytest.approx(2.21, abs=0.011)
    assert float(depth(weights(torch.zeros_like(t), 0.02), t, 3.0)) == 3.0


def test_rendering_agrees_with_nerfacc() -> None:
    """The field's own rendering library, over empty, thin and opaque rays."""
    volrend = pytest.importorskip("nerfacc.volrend")
    draw = torch.Generator().manual_seed(0)
    density = (
        torch.rand(40, 16, generator=draw, dtype=torch.float64)
        * torch.tensor([0.0, 0.1, 3.0, 500.0]).repeat(10)[:, None]
    )
    colour = torch.rand(40, 16, 3, generator=draw, dtype=torch.float64)
    start = distances(1.0, 3.0, 16, torch.zeros(40, dtype=torch.float64))
    weight, _, _ = volrend.render_weight_from_density(start, start + 2 / 16, density)
    mine = weights(density, 2 / 16)
    torch.testing.assert_close(mine, weight)
    seen = (
        volrend.accumulate_along_rays(weight, colour)
        + (1 - volrend.accumulate_along_rays(weight)) * 0.7
    )
    torch.testing.assert_close(composite(colour, mine, 0.7), seen)
    middle = start + 1 / 16
    expected = (
        volrend.accumulate_along_rays(weight, middle[..., None])[:, 0] + (1 - weight.sum(-1)) * 3.0
    )
    torch.testing.assert_close(depth(mine, middle, 3.0), expected)


def test_empty_space_shows_the_background_and_evaluation_is_deterministic() -> None:
    field = Radiance(SPACE, width=4, depth=1, frequencies=2)
    params = torch.zeros(1, field.layout.size)
    field.layout.unflatten(params)["layers.1.bias"][0, 3] = -60.0  # softplus(-60) is nothing
    seen = field(params, rays(1, 6, offset=False).float())
    assert torch.equal(seen, torch.ones(1, 6, 3))
    middle = torch.cat([rays(1, 6, offset=False), torch.full((1, 6, 1), 0.5)], -1)
    torch.testing.assert_close(
        FIELD(problem(1)[0], rays(1, 6, offset=False)), FIELD(problem(1)[0], middle)
    )


def test_scenes_in_millimetres_are_rendered_as_any() -> None:
    """A stratum of 122 units: exp(-122) is below the smallest float32, and density is what is small
    there."""
    space = Space(near=10.0, far=500.0, samples=4)
    raw = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    raw[..., 3] -= 5.0
    contrast = torch.full((1, 3, 3), -0.4)
    loss, _, _ = squared_error(raw, contrast, space.spacing, 1.0, 2 / 9)
    torch.testing.assert_close(loss, (space.colours(raw) - 1.0 - contrast).square().mean((1, 2)))


def test_an_opaque_last_sample_leaves_nothing_to_the_background() -> None:
    """Two samples of optical depth ln 2: half the light ends at the first, the rest at the last,
    whatever its density; thin, a quarter of it would come from behind."""
    density = torch.tensor([math.log(2), math.log(2)], dtype=torch.float64)
    weight = weights(density, 1.0, opaque=True)
    torch.testing.assert_close(weight, torch.tensor([0.5, 0.5], dtype=torch.float64))
    space = Space(near=1.0, far=3.0, samples=4, opaque=True)
    draw = torch.Generator().manual_seed(0)
    raw = torch.randn(1, 3, 4, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    contrast = torch.rand(1, 3, 3, generator=draw, dtype=torch.float64)
    other = Space(near=1.0, far=3.0, samples=4, background=0.2, opaque=True)
    torch.testing.assert_close(space.colours(raw), other.colours(raw))
    oracle = (space.colours(raw) - 1.0 - contrast).square().mean((1, 2))
    (expected,) = torch.autograd.grad(oracle.sum(), raw)
    assert expected[..., -1, 3].abs().max() == 0 < expected[..., -1, :3].abs().min()
    loss, gradient, _ = squared_error(
        raw.detach(), contrast, space.spacing, 1.0, 2 / 9, opaque=True
    )
    torch.testing.assert_close(loss, oracle.detach())
    torch.testing.assert_close(gradient, expected)


def test_frequencies_as_published() -> None:
    """20 frequencies from 2^0 to 2^8, sines before cosines: 120 numbers; the default field has
    295,172 parameters."""
    field = Radiance(SPACE)
    assert field.layout.size == 295_172
    features = field.features(torch.tensor([0.3, 0.0, 0.0], dtype=torch.float64))
    assert features.shape == (120,)
    step = 8 / 19
    for j in (0, 7, 19):
        assert float(features[3 * j]) == pytest.approx(math.sin(2 ** (j * step) * 0.3))
        assert float(features[60 + 3 * j]) == pytest.approx(math.cos(2 ** (j * step) * 0.3))


# ---------------------------------------------------------------- derivatives
@pytest.mark.parametrize("opaque", [False, True], ids=["thin", "opaque"])
def test_layers_by_hand_and_rendering_by_autograd_equal_autograd(opaque: bool) -> None:
    params, episode = problem()
    field = replace(FIELD, space=replace(SPACE, opaque=opaque))
    by_hand = RadianceDerivatives(field)
    oracle = Autograd(field.loss)
    direction = torch.randn(
        params.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    for ours, reference in zip(
        by_hand.gradient(params, episode.query), oracle.gradient(params, episode.query), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-13)
    mine, theirs = (
        derivatives.linearise(params, episode.query) for derivatives in (by_hand, oracle)
    )
    torch.testing.assert_close(mine.gradient, theirs.gradient, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(mine.hvp(direction), theirs.hvp(direction), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("clip", [1e6, 1e-3], ids=["clip inactive", "clip active"])
def test_the_meta_gradient_of_a_radiance_field_equals_finite_differences(clip: float) -> None:
    params, episode = problem()
    learner = Meta(2, 0.5, clip, 1.0, gamma=0.75)
    derivatives = RadianceDerivatives(FIELD)
    gradient = learner.step(derivatives, params, episode).gradient
    draw = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = torch.randn(params.shape, generator=draw, dtype=torch.float64)
        direction /= direction.norm(dim=1, keepdim=True)
        ahead, behind = (
            learner.step(derivatives, params + sign * 1e-6 * direction, episode).objective
            for sign in (1, -1)
        )
        torch.testing.assert_close(
            (ahead - behind) / 2e-6, (gradient * direction).sum(-1), rtol=1e-4, atol=1e-9
        )


def test_clients_do_not_see_each_other() -> None:
    params, episode = problem(3)
    together = RadianceDerivatives(FIELD).gradient(params, episode.query)[1]
    alone = RadianceDerivatives(FIELD).gradient(
        params[1:2], Batch(*(part[1:2] for part in episode.query))
    )[1]
    torch.testing.assert_close(together[1:2], alone)


# ---------------------------------------------------------------- hash grid
GRID = HashGrid(SPACE, width=6, depth=1, levels=3, table=6, coarsest=2, finest=16)


def test_corner_weights_are_trilinear() -> None:
    points = (
        torch.rand(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2.4
        - 1.2
    )
    for level in range(3):
        rows, weight = GRID.corners(points, level)
        assert rows.min() >= 0 and rows.max() < 2**6
        torch.testing.assert_close(weight.sum(-1), torch.ones(2, 50, dtype=torch.float64))
    assert GRID.resolutions == [2, 5, 16]
    rows, weight = GRID.corners(
        torch.zeros(1, 1, 3), 0
    )  # the middle of a 2-cell grid is its corner (1, 1, 1)
    assert int(rows[0, 0, weight[0, 0].argmax()]) == (1 * 3 + 1) * 3 + 1


def test_features_of_a_linear_table_are_linear() -> None:
    """On an unhashed level, a table that holds x at every corner interpolates to x exactly."""
    tables = torch.zeros(1, 3, 2**6, 2)
    places = torch.arange(27)
    tables[0, 0, :27, 0] = (places // 9).float() - 1  # corners at x = -1, 0, 1
    points = torch.rand(1, 20, 3) * 2 - 1
    torch.testing.assert_close(GRID.features_of(tables, points)[..., 0], points[..., 0])


def test_a_hash_grid_has_second_derivatives_in_its_parameters() -> None:
    draw = torch.Generator().manual_seed(0)
    params = torch.stack([GRID.init(draw) for _ in range(2)]).double()
    params += 0.3 * torch.randn(params.shape, generator=draw, dtype=torch.float64)
    batch = Batch(rays(2, 3), torch.rand(2, 3, 3, generator=draw, dtype=torch.float64))
    linear = Autograd(GRID.loss).linearise(params, batch)
    direction = torch.randn(params.shape, generator=draw, dtype=torch.float64)
    ahead, behind = (
        Autograd(GRID.loss).gradient(params + s * 1e-6 * direction, batch)[1] for s in (1, -1)
    )
    torch.testing.assert_close(linear.hvp(direction), (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-7)
