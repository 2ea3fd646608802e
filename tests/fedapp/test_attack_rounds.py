"""``fedapp attack RUN --name rounds``: it finds what is there, and does not find what is not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fedapp.attacks import rounds as study
from fedapp.attacks.rounds import ATTACKS, FILE, attack_rounds
from fedapp.cli.main import app
from fedapp.store.runfolder import RunFolder
from fedapp.store.transcript import HeardRound, HeardSum, TranscriptFile
from privacy.attacks import crafted
from privacy.attacks.many_rounds import likelihood_ratio, matched
from tasks.errors import InputError

Run = Callable[..., RunFolder]
CLIENTS = 5
PICTURES: dict[str, Any] = {
    "release": "secagg", "clients.total": CLIENTS, "data.size": 8, "data.channels": 1,
    "field.width": 64, "field.depth": 2, "learner.outer-steps": 1, "learner.batch-size": 0,
    "learner.outer-rate": 0.0002, "privacy.clip-norm": 0.05, "evaluation.uploads": False,
    "evaluation.steps": "0", "evaluation.every": 9, "data.held-out": 1, "rounds": 3,
    "rules.server-clip": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for five pictures of 8 x 8."""
    monkeypatch.setattr(study, "STARTS", 1)
    monkeypatch.setattr(study, "STEPS", 16)
    monkeypatch.setattr(crafted, "LEVELS", (0.25, 0.45, 0.65))


def rows(folder: RunFolder, *names: str) -> dict[str, dict[str, Any]]:
    found = {}
    for name in names:
        found |= {row["attack"]: row for row in attack_rounds(folder, print, only=name)["rows"]}
    return found


def test_the_provable_mode_withstands_every_attack_whose_control_succeeds(run: Run) -> None:
    folder = run(
        nodes=CLIENTS,
        **{**PICTURES, "methods": "erm", "privacy.exact": True, "runtime.miss-every": 3},
    )
    assert [e["clients"]["ok"] for e in folder.events() if e["event"] == "round"] == [5, 5, 0]
    target = folder.path / "rows.json"
    done = CliRunner().invoke(
        app, ["attack", str(folder.path), "--name", "rounds", "--json", str(target)]
    )
    assert done.exit_code == 0, done.output
    said = json.loads(target.read_text(encoding="utf-8"))
    assert said["exact"] and "nothing else" in said["says"]
    assert [row["attack"] for row in said["rows"]] == list(ATTACKS)
    for row in said["rows"]:
        if row["attack"] == "membership":
            continue  # what the sum of pictures tells is told
        assert row["psnr"] <= row["floor"] + 1, row
        assert row["right_client"] in (None, 1), row
        assert row["control"]["psnr"] > row["floor"] + 3, row
    (refused,) = [row for row in said["rows"] if row["attack"] == "active clip"]
    assert "refused by every node" in refused["note"]
    asked = [int(word) for word in refused["note"].split() if word.isdigit()]
    assert asked[1] >= 300 and asked[0] > 0.5 * asked[1]
    assert (folder.pictures / "attack-rounds-erm.png").exists()
    assert folder.read(FILE)["rows"] == said["rows"]


def test_one_sum_of_meta_learners_is_taken_apart(run: Run) -> None:
    folder = run(nodes=CLIENTS, **{**PICTURES, "methods": "maml", "learner.inner-steps": 2})
    found = rows(folder, "joint inversion", "active clip")
    assert found["joint inversion"]["psnr"] > 35
    assert found["joint inversion"]["verdict"] == "recovered"
    assert found["active clip"]["alone"] >= 2
    assert "hides who, not what" in folder.read(FILE)["says"]


def test_a_run_without_a_transcript_is_refused_with_the_remedy(run: Run) -> None:
    folder = run(nodes=CLIENTS, **{**PICTURES, "methods": "erm", "report.transcript": False})
    assert not (folder.path / "transcript").exists()
    with pytest.raises(InputError, match="transcript"):
        attack_rounds(folder, print)


def test_an_exact_run_ends_with_attacks_on_its_own_sums_in_the_time_it_has(run: Run) -> None:
    changes = {**PICTURES, "methods": "erm", "report.page": True, "report.attack-seconds": 4.0}
    folder = run(nodes=CLIENTS, **changes)
    found = folder.read(FILE)["rows"]
    assert [row["attack"] for row in found] == list(ATTACKS)
    assert found[0]["verdict"] == "not recovered by this attack"
    assert found[-1]["verdict"] == "not tried" and "no time left" in found[-1]["note"]
    page = folder.report_file.read_text(encoding="utf-8")
    assert "What all sums of the run give away together" in page
    assert "hides who, not what" in page


def test_a_transcript_is_what_was_unmasked(run: Run) -> None:
    """The model moves by what the transcript says was summed."""
    folder = run(nodes=CLIENTS, **{**PICTURES, "methods": "erm", "privacy.exact": True})
    heard = TranscriptFile(folder.path, "erm-0").read()
    assert [one.number for one in heard] == [1, 2, 3]
    for before, after in itertools.pairwise(heard):
        (total,) = before.sums
        assert total.clients == tuple(range(CLIENTS))
        moved = before.model.double() + total.total / CLIENTS
        torch.testing.assert_close(after.model.double(), moved, atol=1e-6, rtol=0)


def test_transcripts_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = TranscriptFile(tmp_path, "erm-0")
    sums = (HeardSum((0, 2), torch.arange(3).double()), HeardSum((1,), torch.ones(3).double()))
    file.keep(HeardRound(12, torch.zeros(3), sums))
    file.keep(HeardRound(3, torch.ones(3), sums[:1]))
    again = TranscriptFile(tmp_path, "erm-0").read()
    assert [one.number for one in again] == [3, 12]
    assert again[1].sums[0].clients == (0, 2)
    assert torch.equal(again[1].sums[1].total, sums[1].total)
    assert TranscriptFile.fits(1000, 1000) and not TranscriptFile.fits(10**8, 100)


def test_a_likelihood_ratio_tells_members_from_others_and_nothing_where_there_is_none() -> None:
    """Normal pictures: a sum of 4 of 16 numbers each is told apart, a sum of others is not."""
    stream = torch.Generator().manual_seed(0)
    people = torch.randn(300, 16, generator=stream).double()
    known, members, others = people[:200], people[200:204], people[204:]
    inside = likelihood_ratio(members.sum(0), members, known, 4)
    outside = likelihood_ratio(members.sum(0), others[4:], known, 4)
    assert float((inside[:, None] > outside).double().mean()) > 0.8
    foreign = likelihood_ratio(others[:4].sum(0), members, known, 4)
    beside = likelihood_ratio(others[:4].sum(0), others[4:], known, 4)
    assert 0.2 < float((foreign[:, None] > beside).double().mean()) < 0.8


def test_a_set_is_put_in_the_order_of_the_truth() -> None:
    truth = torch.eye(4).double()
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(matched(truth[order] * 0.9, truth), truth * 0.9)
