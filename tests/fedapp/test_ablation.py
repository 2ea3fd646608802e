"""The ablation's arithmetic on runs that are written down instead of run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from kit import told_evaluation

from fedapp.config.experiment import known_keys
from fedapp.config.recipes import read_recipe
from fedapp.store.runfolder import FINISHED, RunFolder
from fedapp.studies.ablation import BASE, METRICS, ablate, variants


def test_a_gain_is_what_a_variant_has_more_than_the_base_seed_by_seed(tmp_path: Path) -> None:
    """The mouth follows the speech with 0.2 and 0.4 at the base, 0.6 and 0.7 with ISFA: 0.4 and 0.3
    more."""
    values = {"adapters-only": (0.2, 0.4), "ISFA": (0.6, 0.7), "TDC": (0.1, 0.3)}

    def write(wanted: dict[str, Any], path: Path) -> None:
        folder = RunFolder(path)
        folder.create(known_keys() | read_recipe("talking-head") | wanted, {})
        name = path.name.split("-", 1)[1].strip("-")
        for seed, value in enumerate(values.get(name, (0.2, 0.4))):
            own = dict.fromkeys(METRICS, 0.5) | {"mouth_corr": value}
            folder.append(
                told_evaluation(
                    1,
                    method="adapters",
                    seed=seed,
                    final=True,
                    **own | {"psnr": {"0": 20.0 + seed}},
                )
            )
        folder.set_status(FINISHED)

    rows = {
        row["variant"]: row
        for row in ablate("talking-head", "0,1", tmp_path, {}, write, lambda _: None)["rows"]
    }
    assert list(rows) == list(variants("talking-head"))
    better, worse = rows["+ ISFA"]["mouth_corr"], rows["+ TDC"]["mouth_corr"]
    assert better["mean"] == pytest.approx(0.65) and better["gain"] == pytest.approx(
        (0.4 + 0.3) / 2
    )
    deviation = math.sqrt(
        2 * 0.05**2
    )  # of 0.4 and 0.3; Student's t of one degree of freedom at 97.5 % is 12.706
    assert better["gain_half_width"] == pytest.approx(12.7062 * deviation / math.sqrt(2), rel=1e-4)
    assert worse["gain"] == pytest.approx(-0.1) and worse["verdict"] == "lower"
    assert rows[BASE]["mouth_corr"]["verdict"] == "base" and rows["+ ISFA"]["psnr"]["gain"] == 0.0
