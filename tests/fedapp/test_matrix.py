"""The matrix of rules and learners: what runs, what its table and its sentences say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit import told_evaluation, told_round

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import read_recipe
from fedapp.store.runfolder import RunFolder
from fedapp.studies.matrix import LEARNERS, RECIPES, RULES, Case, cases, markdown, ordering, score
from tasks.atomic import write_json


def row(
    learner: str, delta: float | None, rule: str = "fedavg", psnr_unseen: float = 23.0
) -> dict[str, Any]:
    numbers = dict.fromkeys(("psnr_tuned", "psnr_floor", "member_minus_nonmember_over_floor"), 1.0)
    inversion = {"inversion_psnr": None if learner == "local" else 20.96, "inversion_floor": 12.25}
    return {
        "modality": "image",
        "rule": rule,
        "learner": learner,
        "delta": delta,
        "outside_range": learner == "fedmenf-published",
        "psnr_unseen": psnr_unseen,
        "psnr": 30.0,
        "psnr_half_width": 0.5,
        "psnr_p": None if learner == "local" else 10.0,
        **numbers,
        **inversion,
    }


def test_quick_runs_every_rule_on_pictures_and_fedavg_elsewhere(tmp_path: Path) -> None:
    quick, full = cases(True, tmp_path, ""), cases(False, tmp_path, "")
    assert {(c.modality, c.rule) for c in quick} == {("image", r) for r in RULES} | {
        ("video", RULES[0]),
        ("nerf", RULES[0]),
    }
    assert len(full) == len(RECIPES) * len(RULES) and {case.seeds for case in full} == {"0,1,2"}
    assert len({case.folder for case in [*quick, *full]}) == len(quick) + len(full)


def test_every_case_is_a_valid_experiment(tmp_path: Path) -> None:
    for case in cases(False, tmp_path, "0"):
        experiment = Experiment.from_run_config(
            known_keys() | read_recipe(RECIPES[case.modality]) | case.overrides
        )
        assert set(experiment.trained_methods) == set(LEARNERS)
        assert ("local" in experiment.method_list) == (case.rule == "fedavg")


def test_the_ordering_is_said_for_each_rule_and_leaves_out_what_outside_range() -> None:
    rows = [
        row("local", None, psnr_unseen=22.0),
        row("maml", 5.0),
        row("fedmenf", 7.0, psnr_unseen=21.1),
        row("reptile", 0.0),
        row("fedmenf-unbounded", 20.0, psnr_unseen=10.0),
        row("maml", 9.0, rule="fedacg"),
        row("fedmenf", 8.0, rule="fedacg"),
    ]
    first, second = ordering(rows)
    assert (
        "fedavg" in first
        and "fedmenf's, the paper's ordering but for its bounded variant" in first
        and "reptile 0.0" in first
    )
    assert first.endswith("Below no federation and not ranked: fedmenf-unbounded.")
    assert "fedacg" in second and "maml's, not the paper's ordering" in second


def test_a_row_that_renders_outside_the_range_and_adapts_is_ranked() -> None:
    rows = [row("local", None, psnr_unseen=22.0), row("maml", 5.0), row("fedmenf-published", 20.0)]
    (sentence,) = ordering(rows)
    assert "fedmenf-published's, the paper's ordering (" in sentence
    assert "not ranked" not in sentence


def test_the_table_shows_each_inversion_beside_its_own_floor() -> None:
    lines = markdown([row("maml", 5.0), row("local", None)]).splitlines()
    assert lines[2].startswith("| image | – | local | 30.0 ± 0.5") and lines[2].count("–") >= 3
    assert "21.0 (12.3)" in lines[3] or "21.0 (12.2)" in lines[3]


def test_delta_is_what_a_new_client_has_over_what_the_server_sees(
    told: Callable[..., RunFolder],
) -> None:
    """30 and 32 dB after the last step against 12 and 10 in the server's eyes: 18 and 22 dB, seed
    by seed."""
    events = [
        event
        for seed, new, seen in ((0, 30.0, 12.0), (1, 32.0, 10.0))
        for event in (
            told_round(1, seed=seed, psnr_p={"mean": seen, "max": seen + 5, "n": 4}),
            told_evaluation(1, seed=seed, psnr={"0": 5.0, "1": 9.0, "4": new}),
        )
    ]
    folder = told(events, methods="maml", seeds="0,1")
    write_json(folder.path / "inversions.json", {"maml": {"mean": 21.0, "floor": 12.0}})
    (found,) = score(Case("image", "fedavg", "0,1", folder.path), folder)
    assert (found["psnr"], found["psnr_p"], found["delta"], found["steps"]) == (
        31.0,
        11.0,
        (18.0 + 22.0) / 2,
        4,
    )
    assert (found["inversion_psnr"], found["inversion_floor"]) == (21.0, 12.0) and found[
        "psnr_p_max"
    ] == 16.0
