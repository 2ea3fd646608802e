"""Attackers of split radiance fields on a small transcript, beside ones that hold nothing."""

from __future__ import annotations

import pytest
import torch

from fedapp.attacks.split import METRICS, attack_case, attackers_of, by_chance, rows_of
from fedapp.attacks.split_transcript import Case
from fedapp.attacks.split_transcript import Recording as Record
from fedapp.report.split import grouped, told_of
from fedapp.report.split_figures import leak_frontier, points_of
from privacy.attacks.split import Guess, Score, affine, best, correlation, edges, ranks, score
from tasks.settings import SplitSettings
from tasks.split_nerf.rooms import photographs
from tasks.split_nerf.scene import Scene, scene_of

SETTINGS = SplitSettings(cells="6,12", rays=128, samples=12, batches=1)
STEPS = 150


def scene(size: int = 20) -> Scene:
    one = torch.ones(3)
    return scene_of(photographs(0, "plain", size, 8, 3), 3, (-one, one))


def outcome(case: Case):  # type: ignore[no-untyped-def]
    return attack_case(case, scene(), SETTINGS, STEPS, torch.rand(3, 20, 20))


def test_an_undefended_split_shows_the_scene_and_a_sealed_one_does_not() -> None:
    plain = outcome(Case("split", "split", 1))
    null = outcome(Case("null", "split", 1, null=1))
    sealed = outcome(Case("sealed", "sealed", 1))
    peer = outcome(Case("sealed", "sealed", 1, "peer"))
    pooled = outcome(Case("both", "sealed", 1, "both"))
    for name in ("gradient subspace", "one leaked picture"):
        assert plain.scores[name].edge > null.scores[name].edge + 0.15
        assert pooled.scores[name].edge > sealed.scores[name].edge + 0.1
        assert pooled.scores[name].edge > peer.scores[name].edge + 0.1
    control = "initial head known (control)"
    assert plain.scores[control].psnr_affine > null.scores[control].psnr_affine + 2
    assert control not in sealed.scores
    # a holder sees nothing of the training, which is none the worse for it
    assert sealed.psnr > plain.psnr - 1


def test_known_initial_weights_give_the_head_away() -> None:
    """After a few steps of a transcript without wire format the attacker's head is the client's."""
    record = Record(Case("split", "split", 1), scene(), SETTINGS, STEPS)
    attackers = attackers_of(record)
    control = attackers["initial head known (control)"]
    record.division = record.division.__class__(**{**record.division.__dict__, "steps": 5})
    record.play([control])
    assert torch.allclose(control.head.head.params, record.client.head.params, atol=5e-2)  # type: ignore[attr-defined]
    strange = attackers["surrogate, cosine"].head.head.params  # type: ignore[attr-defined]
    assert not torch.allclose(strange, record.client.head.params, atol=5e-2)


def test_gradients_lie_in_the_space_of_the_next_layer() -> None:
    """Rank 16 of 64: the subspace attack's premise."""
    record = Record(Case("split", "split", 1), scene(), SETTINGS, STEPS)
    seen: list[torch.Tensor] = []

    class Keep:
        def see(self, step) -> None:  # type: ignore[no-untyped-def]
            seen.append(step.gradient.double())

    record.division = record.division.__class__(**{**record.division.__dict__, "steps": 1})
    answer = record._answer
    record.play([Keep()])  # type: ignore[list-item]
    assert answer is not None and len(seen) == 1
    values = torch.linalg.svdvals(seen[0])
    assert float(values[16] / values[0]) < 2e-3, "half precision is all that is beyond"


def test_scores_are_those_of_the_definitions() -> None:
    truth = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    depth = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(1))
    turned = 0.2 + 0.5 * truth.flip(-1)  # another contrast, channels exchanged
    perfect = score(Guess(turned.flatten(1, 2), depth.flatten(1) * 3 + 1), truth, depth)
    assert perfect.psnr_affine > 60 and perfect.ssim > 0.99
    assert perfect.edge == pytest.approx(1, abs=1e-5)
    assert perfect.depth == pytest.approx(1)
    blank = score(Guess(torch.full((2, 256, 3), 0.5), torch.ones(2, 256)), truth, depth)
    assert blank.edge == 0 and blank.depth == 0 and blank.psnr_affine < 12
    guesses = [Guess(torch.full((2, 256, 3), 0.5), torch.ones(2, 256)),
               Guess(turned.flatten(1, 2), torch.ones(2, 256))]  # fmt: skip
    top, scored = best(guesses, truth, depth)
    assert top is guesses[1] and scored.edge == pytest.approx(1, abs=1e-5)


def test_helpers() -> None:
    assert edges(torch.zeros(5, 5, 3)).sum() == 0
    assert ranks(torch.tensor([3.0, 1.0, 1.0])).tolist() == [3, 1.5, 1.5]
    assert correlation(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 5.0])) == 0
    truth = torch.rand(50, 3)
    assert torch.allclose(affine(truth * 2 + 1, truth), truth, atol=1e-4)


def test_rows_hold_a_floor_a_band_and_a_verdict() -> None:
    """An attack succeeds where it exceeds mean + 3 sd of its own null scores."""
    from fedapp.attacks.split import Outcome

    def told(case: Case, edge: float) -> Outcome:
        return Outcome(case, 20.0, {"a": Score(10, 0.5, edge, 0.9)}, {}, {})

    nulls = [told(Case("null", "split", 1, null=n), 0.1 + 0.01 * n) for n in (1, 2, 3, 4, 5)]
    rows = list(
        rows_of([*nulls, told(Case("x", "split", 1), 0.5), told(Case("y", "split", 1), 0.14)])
    )
    assert len(rows) == 2 * len(METRICS)
    verdicts = {row["release"]: row["succeeds"] for row in rows if row["metric"] == "edge"}
    assert verdicts == {"x": True, "y": False}
    edge = next(row for row in rows if row["metric"] == "edge")
    assert edge["floor"] == pytest.approx(0.13)
    assert edge["chance"] == pytest.approx(0.13 + 3 * 0.0158, abs=1e-3)


def test_attacks_on_one_holder_are_counted_beside_what_chance_gives() -> None:
    """Normal scores on five nulls: a further score exceeds mean + 3 sd in 2.6 of 100 cases."""
    from fedapp.attacks.split import Outcome

    stream = torch.Generator().manual_seed(3)
    cases = [Case("null", "sealed", 1, null=n) for n in range(1, 6)]
    cases += [Case("x", "sealed", 1), Case("y", "sealed", 4), Case("both", "sealed", 1, "both")]
    cases += [Case("null", "sealed", 1, "both", null=n) for n in range(1, 6)]
    draws = torch.rand(len(cases), generator=stream).tolist()
    edge = {case: 0.9 if case.name in ("y", "both") else draws[i] / 10
            for i, case in enumerate(cases)}  # fmt: skip
    rows = list(
        rows_of([Outcome(c, 20.0, {"a": Score(10, 0.5, edge[c], 0.9)}, {}, {}) for c in cases])
    )
    found = by_chance(rows)
    assert found["attacks"] == 2 and found["succeed"] == 1
    assert found["expected"] == pytest.approx(2 * 0.026, abs=0.002)
    trials = torch.randn(200_000, 6, generator=stream)
    beyond = trials[:, 5] > trials[:, :5].mean(1) + 3 * trials[:, :5].std(1)
    assert found["expected"] / 2 == pytest.approx(float(beyond.double().mean()), abs=0.002)
    assert "Of 2 attacks" in told_of(found) and "1 succeed" in told_of(found)


def test_the_frontier_leaves_controls_out_and_keeps_leaked_pictures_apart() -> None:
    def row(design: str, attack: str, edge: float) -> dict[str, object]:
        return {"release": design, "attack": attack, "metric": "edge", "value": edge,
                "chance": 0.2, "client_psnr": 20.0, "succeeds": True, "sees": "server"}  # fmt: skip

    rows = grouped(
        [
            row("split", "a", 0.5),
            row("split", "b", 0.7),
            row("split", "one leaked picture", 0.9),
            row("split", "initial head known (control)", 1.0),
            row("secret signs on rows (control)", "a", 1.0),
        ]
    )
    (point,) = points_of(rows)
    assert point["alone"]["value"] == 0.7 and point["leaked"]["value"] == 0.9
    drawn = leak_frontier(rows, {"private-grid": 24.0})
    assert drawn.startswith("<svg") and "private-grid" in drawn
    assert leak_frontier([], {}) == ""
