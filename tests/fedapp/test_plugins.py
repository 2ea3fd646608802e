"""Pieces from outside are held to what ours are held to, and are no less visible."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fedapp.attacks import attack_run
from fedapp.attacks.field_round import FieldRound
from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.identity import ForeignCodeError, fingerprint, refuse_foreign
from fedapp.report import write_report
from fedapp.results import summarise
from fedapp.store.runfolder import RunFolder
from fedapp.studies.matrix import cases, markdown, ordering
from tasks.errors import InputError

Run = Callable[..., RunFolder]
SHORT = {
    "methods": "maml",
    "learner.outer-steps": 2,
    "evaluation.uploads": False,
    "clients.total": 3,
    "rounds": 1,
}
REGRESSION = {**SHORT, "task": "outsiders:Regression", "learner.outer-rate": 0.02}


def quiet(_: str) -> None:
    pass


# ---------------------------------------------------------------------- attacks
def test_an_attack_gets_what_clients_send_however_the_server_goes_on(
    run: Run, tmp_path: Path
) -> None:
    """After one round of no steps both runs have the same model, and the same clients train from
    it."""
    still = {**SHORT, "learner.outer-rate": 1e-30}
    found = {}
    for rule in ("fedavg", "outsiders:SmallSteps"):
        folder = run(**{**still, "rule": rule, "run-dir": str(tmp_path / rule.replace(":", "-"))})
        view = FieldRound(folder, 3)
        changed = {**folder.config, "learner.outer-rate": 0.05}
        view.pieces = Pieces(Experiment.from_run_config(changed))
        view.experiment = view.pieces.experiment
        found[rule] = view.updates("maml", 0)
    ours, small = found.values()
    assert float(ours.norm(dim=1).min()) > 1e-4
    torch.testing.assert_close(small, ours, rtol=1e-3, atol=1e-7)


def test_what_clients_of_a_rule_send_instead_of_an_update_is_not_inverted_as_one(run: Run) -> None:
    folder = run(**{**SHORT, "rule": "outsiders:Signs"})
    with pytest.raises(InputError, match="something else than the update") as caught:
        attack_run(folder, "inversion", 3, quiet)
    assert caught.value.key == "rule"


def test_a_learner_that_cannot_be_simulated_costs_the_others_nothing(run: Run) -> None:
    folder = run(**{**SHORT, "methods": "outsiders:Whole,maml"})
    rows = attack_run(folder, "all", 3, quiet)
    seen = {(row["method"], row["attack"]) for row in rows if row["value"] is not None}
    assert {
        ("maml", "inversion"),
        ("outsiders:Whole", "render"),
        ("outsiders:Whole", "membership"),
    } <= seen
    missing = [
        row for row in rows if row["method"] == "outsiders:Whole" and "inversion" in row["attack"]
    ]
    assert missing and all(row["value"] is None for row in missing)
    only = attack_run(folder, "render", 3, quiet, "maml")
    assert {row["method"] for row in only} == {"maml"}
    with pytest.raises(InputError, match="did not train it"):
        attack_run(folder, "render", 3, quiet, "reptile")


# ---------------------------------------------------------------------- a task without pictures
def test_a_task_of_numbers_is_trained_shown_and_attacked(run: Run) -> None:
    folder = run(**{**REGRESSION, "rounds": 8, "methods": "erm,local", "report.pictures": True})
    result = summarise(folder)["methods"]
    assert result["erm"]["mse"] < 0.5 * result["local"]["mse"], "the line is learned"
    assert result["erm"]["worst"]["mse"] >= result["erm"]["mse"]
    assert not folder.pictures.exists(), "a table is no picture"
    page = write_report(folder).read_text(encoding="utf-8")
    assert f"{result['erm']['mse']:.4f}" in page and f"{result['local']['mse']:.4f}" in page
    assert "neural field" not in page and "PSNR" not in page
    assert {row["attack"] for row in attack_run(folder, "all", 3, quiet)} == {"transcript"}
    with pytest.raises(InputError, match="no such attack on task"):
        attack_run(folder, "inversion", 3, quiet)


# ---------------------------------------------------------------------- held to the same
@pytest.mark.parametrize(
    ("key", "changes"),
    [
        (
            "rule",
            {
                "rule": "strategies.rules.fednova:FedNova",
                "learner.steps-by-examples": True,
                "release": "central-dp",
                "privacy.epsilon-max": 9.0,
            },
        ),
        (
            "rule",
            {
                "rule": "outsiders:Normalised",
                "learner.steps-by-examples": True,
                "release": "central-dp",
                "privacy.epsilon-max": 9.0,
            },
        ),
        (
            "learner.inner-steps",
            {"methods": "strategies.local.reptile:Reptile", "learner.inner-steps": 0},
        ),
        (
            "learner.fedmenf.total-steps",
            {"methods": "strategies.local.meta:FedMeNFAdaptive", "learner.steps-by-examples": True},
        ),
        ("methods", {"methods": "strategies.local.adapters:AdapterFit"}),
    ],
)
def test_a_combination_is_refused_by_what_it_is_not_by_its_name(
    smoke: Callable[..., dict[str, Any]], key: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as caught:
        Experiment.from_run_config(smoke(**{**SHORT, **changes}))
    assert caught.value.key == key


# ---------------------------------------------------------------------- the same code everywhere
def test_the_code_of_a_plug_in_is_part_of_what_must_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {
        "task": "image",
        "rule": "elsewhere.rules:Mine",
        "release": "plain",
        "methods": "maml,local",
    }
    ours = fingerprint({**config, "rule": "fedavg"})
    assert ours == fingerprint() and " " not in ours, "nothing from outside: our own code alone"
    missing = fingerprint(config)
    (tmp_path / "elsewhere").mkdir()
    for name, text in (("__init__.py", ""), ("rules.py", "class Mine: sign = 1\n")):
        (tmp_path / "elsewhere" / name).write_text(text, encoding="utf-8")
    sys.path_importer_cache.clear()
    from fedapp import identity

    identity._of_package.cache_clear()
    here = fingerprint(config)
    assert here.split(" ")[0] == ours and here != missing
    refuse_foreign(here, "/server", config)
    (tmp_path / "elsewhere" / "rules.py").write_text("class Mine: sign = -1\n", encoding="utf-8")
    identity._of_package.cache_clear()
    with pytest.raises(ForeignCodeError, match="the code of elsewhere differs"):
        refuse_foreign(here, "/server", config)
    with pytest.raises(ForeignCodeError, match="the code of elsewhere differs"):
        refuse_foreign(missing, "/server", config)
    identity._of_package.cache_clear()


# ---------------------------------------------------------------------- in the matrix
def test_anybodys_rules_and_learners_join_the_matrix(tmp_path: Path) -> None:
    found = cases(True, tmp_path, "", ("plug.rules:Mine", "fedavg"), ("maml", "plug:mine"))
    assert [case.rule for case in found if case.modality == "image"] == [
        "plug.rules:Mine",
        "fedavg",
    ]
    assert [case.learners[-1] for case in found if case.modality == "image"] == [
        "local",
        "plug:mine",
    ], "Local once"
    assert all(
        "plug:mine" in case.overrides["methods"] and ":" not in case.folder.name for case in found
    )
    assert not {case.folder for case in found} & {case.folder for case in cases(True, tmp_path, "")}
    numbers = (
        "psnr",
        "psnr_tuned",
        "psnr_unseen",
        "psnr_p",
        "psnr_floor",
        "inversion_psnr",
        "inversion_floor",
    )
    blank = {
        **dict.fromkeys(numbers, 20.0),
        "member_minus_nonmember_over_floor": 0.0,
        "outside_range": False,
    }
    rows = [
        {"modality": "image", "rule": rule, "learner": "maml", "delta": delta, **blank}
        for rule, delta in (("plug.rules:Mine", 1.0), ("fedavg", 2.0))
    ]
    lines = markdown(rows).splitlines()[2:]
    assert [line.split("|")[2].strip() for line in lines] == ["fedavg", "plug.rules:Mine"], (
        "ours first"
    )
    assert any("plug.rules:Mine" in sentence for sentence in ordering(rows))
