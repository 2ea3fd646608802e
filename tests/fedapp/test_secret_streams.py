"""Draws of nodes that no server can name: the same on a node, others elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from device_kit import Town
from kit import NODES, PRIVATE
from safetensors.torch import load_file

from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from privacy.node_secret import NodeSecret
from privacy.secagg.identity import KEY_FILE, load_identity
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
    # a stream of a secret is none that any seed could have made: all 624 words are the secret's
    # (a seed fixes each word by the one before it)
    state = generator(NodeSecret(bytes(32)), "batches").get_state().numpy()[24:]
    found = [int(word) for word in state[: 8 * WORDS].view("<u8")]
    follows = [
        (1812433253 * (before ^ (before >> 30)) + index) & 0xFFFFFFFF
        for index, before in enumerate(found[:-1], 1)
    ]
    assert sum(a == b for a, b in zip(follows, found[1:], strict=True)) < 3
    seeded = torch.Generator().manual_seed(5).get_state().numpy()[24:]
    words = [int(word) for word in seeded[: 8 * WORDS].view("<u8")]
    assert words[1] == (1812433253 * (words[0] ^ (words[0] >> 30)) + 1) & 0xFFFFFFFF  # control


def test_batches_of_private_runs_follow_from_the_nodes_keys(run: Run, tmp_path: Path) -> None:
    """Two runs with one seed have other keys, so other batches; what rounding adds is far less."""
    changes = {**SECAGG, "rounds": 1}
    models = [model(run(nodes=NODES, **changes, **{"run-dir": str(tmp_path / n)})) for n in "ab"]
    assert float((models[0] - models[1]).abs().max()) > 100 * 10.0 / 2**27


def test_a_node_draws_from_its_key_and_the_runs_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As its messages name the run: the same node in two runs, and two nodes in one."""
    from fedapp.node.sums import SumsNode

    found: dict[tuple[str, int], bytes] = {}
    secret = SumsNode._secret

    def noted(self: SumsNode, order: Any) -> Any:
        made = secret(self, order)
        assert made is not None
        found[order.run, self.device.partition] = made.key
        return made

    monkeypatch.setattr(SumsNode, "_secret", noted)
    town = Town(tmp_path, NODES)
    for name in "ab":
        there = {**town.changes("secagg"), "rounds": 1, "run-dir": str(tmp_path / name)}
        run(nodes=NODES, grid=town.grid(), **{**SECAGG, **there})
    runs = {name for name, _ in found}
    assert len(runs) == 2 and len(set(found.values())) == len(found) == 2 * NODES
    for (name, number), key in found.items():
        identity = load_identity(town.home(number) / KEY_FILE)
        assert NodeSecret.of(identity).apart("draws of sums", name).key == key


def test_a_nodes_draws_are_another_runs_too_and_packing_is_not_in_them() -> None:
    secret = NodeSecret(bytes(32))
    runs = [secret.apart("draws of sums", run) for run in ("a", "b", "a")]
    numbers = [torch.rand(4, generator=generator(one, "batches", 0, 1, 2)) for one in runs]
    assert torch.equal(numbers[0], numbers[2]) and not torch.equal(numbers[0], numbers[1])
