"""Draws of nodes that no server can name: the same on a node, others elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit import NODES, PRIVATE
from safetensors.torch import load_file

from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from privacy.node_secret import NodeSecret
from tasks.randomness import generator, seed_of

Run = Callable[..., RunFolder]
SECAGG: dict[str, Any] = {**PRIVATE, "release": "secagg", "privacy.clip-norm": 10.0}


def model(folder: RunFolder) -> torch.Tensor:
    return load_file(list_checkpoints(folder.checkpoints)[-1])["maml-0/model"]


def test_a_secret_stream_is_not_its_public_namesake_and_not_another_nodes() -> None:
    one, other = NodeSecret(bytes(32)), NodeSecret(bytes([1]) * 32)
    name = ("batches", 0, 1, 2)
    drawn = [
        torch.randint(1 << 30, (8,), generator=generator(*key)).tolist()
        for key in (name, (one, *name), (other, *name), (one, "batches", 0, 1, 3), (one, *name))
    ]
    assert drawn[1] == drawn[4]
    assert len({tuple(numbers) for numbers in drawn[:4]}) == 4
    with pytest.raises(ValueError, match="too short"):
        seed_of(one, *name)
    assert "0" * 8 not in repr(one)


def test_a_secret_stream_has_more_than_the_32_bits_of_a_seed() -> None:
    """torch keeps 32 bits of a seed (two that differ above are one stream), so a secret fills the
    whole state: that of seed 12345, set by its words, gives the same numbers."""
    from tasks.randomness import WORDS, _twister

    pair = [torch.Generator().manual_seed(seed) for seed in (7, 7 + (1 << 40))]
    assert torch.equal(*(torch.rand(9, generator=g) for g in pair))
    words = [12345]
    for index in range(1, WORDS):
        words.append((1812433253 * (words[-1] ^ (words[-1] >> 30)) + index) & 0xFFFFFFFF)
    made = _twister(b"".join(word.to_bytes(4, "little") for word in words))
    known = torch.Generator().manual_seed(12345)
    for draw in (torch.rand, torch.randn):
        assert torch.equal(draw(700, generator=made), draw(700, generator=known))


def test_batches_of_private_runs_follow_from_the_nodes_keys(run: Run, tmp_path: Path) -> None:
    """Two runs with one seed have other keys, so other batches; what rounding adds is far less."""
    changes = {**SECAGG, "rounds": 1}
    models = [model(run(nodes=NODES, **changes, **{"run-dir": str(tmp_path / n)})) for n in "ab"]
    assert float((models[0] - models[1]).abs().max()) > 100 * 10.0 / 2**27


def test_a_nodes_draws_are_another_runs_too_and_packing_is_not_in_them() -> None:
    secret = NodeSecret(bytes(32))
    runs = [secret.apart("draws of sums", run) for run in ("a", "b", "a")]
    numbers = [torch.rand(4, generator=generator(one, "batches", 0, 1, 2)) for one in runs]
    assert torch.equal(numbers[0], numbers[2]) and not torch.equal(numbers[0], numbers[1])
