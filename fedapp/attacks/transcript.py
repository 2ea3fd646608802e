"""Transcript of a secure sum of the clients' real updates: what its messages show by themselves."""

from __future__ import annotations

from collections.abc import Iterator

from fedapp.attacks.base import Attack
from fedapp.attacks.next_round import NextRound, Row
from privacy.attacks.secure_sum import simulate_secure_sum
from privacy.attacks.transcript import LARGEST_Z, SMALLEST_P, score_transcript


class Transcript(Attack):
    """Statistics that uniform masks leave alone, on the uploads of one simulated secure sum."""

    view: NextRound

    @classmethod
    def applies(cls, view: NextRound) -> bool:
        return True

    def run(self, method: str, seed: int) -> Iterator[Row]:
        updates = self.view.updates(method, seed).double().numpy()
        uploads, inputs = simulate_secure_sum(updates, self.view.experiment.privacy.clip_norm)
        score = score_transcript(uploads, inputs)
        count = len(updates)
        pairs = count * (count - 1) // 2
        base = {"attack": "transcript", "method": method, "release": "secagg", "n": count}
        yield base | {
            "floor": LARGEST_Z,
            "metric": "upload_input_z",
            "value": score.input_z,
            "chance": _expected_largest(count),
        }
        yield base | {
            "floor": LARGEST_Z,
            "metric": "upload_pair_z",
            "value": score.pair_z,
            "chance": _expected_largest(pairs),
        }
        yield base | {
            "floor": SMALLEST_P,
            "metric": "byte_uniformity_p",
            "value": score.bytes_p,
            "chance": 0.5,
        }


def _expected_largest(count: int) -> float:
    """Median of the largest of ``count`` absolute standard normals."""
    from scipy.stats import norm

    return float(norm.ppf((1 + 0.5 ** (1 / max(count, 1))) / 2))
