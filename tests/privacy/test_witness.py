"""A node's own count of what its rounds cost: Gaussian events add up as 1/z^2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import gaussian_epsilon
from privacy.secagg.primitives import public_bytes
from privacy.witness import Witness, witness_text

DELTA = 1e-5
KEY = Ed25519PrivateKey.generate()
SERVER = public_bytes(KEY)


def shown(seq: int) -> dict[str, object]:
    """A state of the server's ledger, well signed."""
    name, head = SERVER.hex(), f"{seq:064d}"
    signature = KEY.sign(witness_text(name, seq, head)).hex()
    return {"ledger": name, "seq": seq, "head": head, "signature": signature}


@settings(max_examples=25, deadline=None)
@given(multipliers=st.lists(st.floats(0.1, 10.0), min_size=1, max_size=6))
def test_rounds_of_any_noise_add_their_inverse_squares(
    tmp_path_factory: pytest.TempPathFactory, multipliers: list[float]
) -> None:
    """Kept on disk, so that a restarted node goes on with the count."""
    file = tmp_path_factory.mktemp("node") / "seen.json"
    for seq, multiplier in enumerate(multipliers):
        Witness(file, SERVER).see(shown(seq), multiplier)
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert kept["precision"] == pytest.approx(sum(z**-2 for z in multipliers))
    assert (kept["seq"], kept["head"]) == (len(multipliers) - 1, f"{len(multipliers) - 1:064d}")


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 2.0])
def test_a_limit_is_reached_exactly_and_not_passed(tmp_path: Path, multiplier: float) -> None:
    """Three rounds at z have mu = sqrt(3)/z; a refused round is neither counted nor remembered."""
    limit = gaussian_epsilon(3**0.5 / multiplier, DELTA) + 1e-9
    node = Witness(tmp_path / "seen.json", SERVER, limit, DELTA)
    for seq in range(3):
        node.see(shown(seq), multiplier)
    before = node.file.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="this node allows"):
        node.see(shown(3), multiplier)
    assert node.file.read_text(encoding="utf-8") == before
    node.see(shown(3), 1e6)  # next to nothing is still allowed


def test_without_noise_a_round_costs_more_than_any_limit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="epsilon would be inf"):
        Witness(tmp_path / "a.json", SERVER, 1e9, DELTA).see(shown(0), 0.0)
    unlimited = Witness(tmp_path / "b.json", SERVER, 0.0, DELTA)
    unlimited.see(shown(0), 0.0)  # it asks for no limit, but remembers
    with pytest.raises(ValueError, match="epsilon would be inf"):
        Witness(tmp_path / "b.json", SERVER, 1e9, DELTA).see(shown(1), 1e6)


def test_the_first_entry_counts_and_the_same_one_again_does_not(tmp_path: Path) -> None:
    node = Witness(tmp_path / "deep" / "seen.json", SERVER)
    node.see(shown(0), 1.0)
    with pytest.raises(ValueError, match="entry 0 is shown, entry 0 was seen"):
        node.see(shown(0), 1.0)
    node.see(shown(9), 1.0)
    with pytest.raises(ValueError, match="entry 8 is shown, entry 9 was seen"):
        node.see(shown(8), 1.0)
