"""The algebra of flat parameters."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.params import Layout, clip, clip_factor, norms

shapes = st.dictionaries(
    st.text("abc.", min_size=1, max_size=5),
    st.lists(st.integers(1, 4), max_size=3).map(tuple),
    min_size=1,
    max_size=5,
)


@given(shapes, st.integers(1, 3))
def test_flatten_inverts_unflatten(table: dict[str, tuple[int, ...]], clients: int) -> None:
    layout = Layout.of(table)
    vector = torch.arange(clients * layout.size, dtype=torch.float32).reshape(clients, layout.size)
    assert torch.equal(layout.flatten(layout.unflatten(vector)), vector)


def test_unflatten_gives_views() -> None:
    layout = Layout.of({"w": (2, 3), "b": (3,)})
    vector = torch.zeros(2, layout.size)
    layout.unflatten(vector)["b"][1] = 7.0
    assert vector[1].tolist() == [0.0] * 6 + [7.0] * 3 and not vector[0].any()


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_clip_bounds_the_norm_and_keeps_direction(scale: float, limit: float) -> None:
    rows = scale * torch.tensor([[3.0, 4.0], [0.0, 1e-6]])
    clipped = clip(rows, limit)
    assert bool((norms(clipped) <= limit * (1 + 1e-6)).all())
    torch.testing.assert_close(clipped / norms(clipped), rows / norms(rows))
    inside = norms(rows) <= limit
    torch.testing.assert_close(torch.where(inside, clipped, rows), rows)


def test_zero_is_legal_and_zero_limit_means_no_clip() -> None:
    assert clip(torch.zeros(1, 3), 1.0).tolist() == [[0.0, 0.0, 0.0]]
    assert clip(torch.full((1, 4), 9.0), 0.0).tolist() == [[9.0] * 4]
    assert clip_factor(torch.tensor([[18.0]]), 9.0).item() == 0.5
