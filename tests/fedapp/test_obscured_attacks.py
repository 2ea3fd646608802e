"""The attack study of obscured uploads, small, and what its table claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedapp.attacks import obscured
from fedapp.attacks.obscured import COLOURS, Study, frontier, pictures, study
from fedapp.attacks.obscured_people import OTHER, SAME
from fedapp.cli.attack_recipe import Asked, attack_recipe
from fedapp.config.experiment import Experiment, known_keys
from fedapp.store.runfolder import RunFolder
from fedapp.workflows import UPLOAD
from tasks.errors import InputError

CHAIN = "modulus=sobel,erase=1"


def small(place: Path) -> Study:
    values = known_keys() | UPLOAD.smallest
    values |= {"data.size": 16, "head.operator": CHAIN, "head.sensitive-views": 3}
    experiment = Experiment.from_run_config(values)
    return Study(experiment, place, 4, 4, 2, 5, (COLOURS, "modulus=sobel"), 1)


def test_every_attack_is_tried_under_every_operator_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, told = small(tmp_path), []
    found = study(asked, told.append)
    names = {"colours (no operator)", "modulus=sobel", CHAIN, "rear views alone"}
    assert {row["operator"] for row in found["rows"]} == names
    assert {point["operator"] for point in found["frontier"]} == names
    for name in names:
        own = [row for row in found["rows"] if row["operator"] == name]
        ranks = [row for row in own if row["metric"] == "rank-1"]
        assert {row["attack"] for row in ranks} == {
            f"{what}, {day}"
            for what in ("one picture", "all pictures")
            for day in ("same day", "another day")
        } | {"fitted geometry"}
        assert all(row["low"] <= row["value"] <= row["high"] for row in ranks)
        assert all(row["chance"] == 1 / 4 for row in ranks)
        inverted = {row["attack"] for row in own if row["metric"] == "PSNR (dB)"}
        assert len(inverted) == (3 if name in ("modulus=sobel", CHAIN) else 0)
    rear = next(p for p in found["frontier"] if p["operator"] == "rear views alone")
    assert rear["face_ratio"] == 1
    assert pictures(asked).shape[:2] == (3 * 16, 4 * 3 * 16)
    album = asked.album("front", False, told.append)
    assert album.probes == 3 and album.colours.shape[1] == 3 + SAME + OTHER

    def never(*_: object) -> None:
        raise AssertionError("a part that is on disk is made again")

    monkeypatch.setattr(obscured, "_worked", never)
    assert study(asked, told.append) == found


def test_an_operator_is_worth_it_only_if_it_hides_and_serves() -> None:
    def rows(name: str, rank: float, ratio: float) -> list[dict[str, object]]:
        return [
            {"operator": name, "attack": "one picture, another day", "metric": "rank-1",
             "value": rank / 2, "low": 0.0, "high": rank / 2},
            {"operator": name, "attack": "all pictures, same day", "metric": "rank-1",
             "value": rank, "low": 0.0, "high": rank},
            {"operator": name, "attack": "(use)", "metric": "face ratio", "value": ratio},
        ]  # fmt: skip

    found = frontier(rows("a", 0.04, 0.5) + rows("b", 0.05, 0.5) + rows("c", 0.04, 0.7), 0.02)
    assert [(p["operator"], p["worth"], p["rank1"]) for p in found] == [
        ("a", True, 0.04), ("b", False, 0.05), ("c", False, 0.04),
    ]  # fmt: skip


def test_a_runs_report_shows_what_the_study_found(
    run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    from fedapp.report import write_report
    from tasks.atomic import write_json

    folder = run(**{**UPLOAD.smallest, "methods": "stage1", "rounds": 1, "clients.total": 2,
                    "evaluation.every": 9, "run-dir": str(tmp_path / "run")})  # fmt: skip
    assert "not measured in this run" in write_report(folder).read_text(encoding="utf-8")
    found = study(small(tmp_path / "parts"), lambda _: None)
    write_json(folder.path / "attack.json", found)
    page = write_report(folder).read_text(encoding="utf-8")
    assert "Whom the uploads name" in page and "<svg" in page
    assert all(point["operator"] in page for point in found["frontier"])


@pytest.mark.parametrize(
    ("overrides", "asked", "reason"),
    [
        ([], Asked("linkage", "", None, None), "attacked as a whole"),
        ([], Asked("", "stage2", None, None), "attacked as a whole"),
        (["data.size=20"], Asked("", "", None, None), "multiple of 8"),
        (["methods=gradient_only", "head.neutral-views=0"], Asked("", "", None, None), "neutral"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    overrides: list[str], asked: Asked, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=reason):
        attack_recipe("head", overrides, tmp_path, asked)


def test_options_that_mean_nothing_to_a_study_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--clients"):
        attack_recipe("split-nerf", [], tmp_path, Asked("", "", 5, None))
