"""A step size for each method: what learners make of it, and the rule that finds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from typer.testing import CliRunner

from fedapp.cli.main import app
from fedapp.config.experiment import Experiment
from fedapp.config.pieces import Pieces
from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder
from fedapp.studies.step_sizes import CLOSE, Candidate, chosen, rates_of, scored
from tasks.errors import InputError

Run = Callable[..., RunFolder]


def models(folder: RunFolder) -> dict[str, torch.Tensor]:
    found = load_file(list_checkpoints(folder.checkpoints)[-1])
    return {name: part for name, part in found.items() if name.endswith("/model")}


def test_a_methods_own_step_size_is_the_whole_runs_for_it_alone(run: Run, tmp_path: Path) -> None:
    both = {"methods": "maml,fomaml", "rounds": 1}
    own = models(
        run(**both, **{"learner.outer-rates": "maml=0.02", "run-dir": str(tmp_path / "a")})
    )
    base = models(run(**both, **{"run-dir": str(tmp_path / "b")}))
    large = models(run(**both, **{"learner.outer-rate": 0.02, "run-dir": str(tmp_path / "c")}))
    assert torch.equal(own["maml-0/model"], large["maml-0/model"])
    assert torch.equal(own["fomaml-0/model"], base["fomaml-0/model"])
    assert not torch.equal(own["maml-0/model"], base["maml-0/model"])


@pytest.mark.parametrize("method", ["reptile", "meta-nsgd"])
def test_methods_with_a_step_size_of_their_own_take_it_too(
    experiment: Callable[..., Experiment], method: str
) -> None:
    changes = {"methods": method, "learner.outer-rates": f"{method}=0.123"}
    assert Pieces(experiment(**changes)).learner(method).outer_rate == 0.123


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("maml", "method=step size"), ("maml=0", "method=step size"),
        ("maml=x", "method=step size"),
        ("maml=0.1,maml=0.2", "method=step size"), ("mamml=0.1", "did you mean 'maml'"),
    ],
)  # fmt: skip
def test_step_sizes_of_nobody_are_refused(
    experiment: Callable[..., Experiment], text: str, word: str
) -> None:
    with pytest.raises(InputError) as refused:
        experiment(**{"learner.outer-rates": text})
    assert refused.value.key == "learner.outer-rates" and word in str(refused.value)
    experiment(**{"learner.outer-rates": "fedmenf=0.1"})  # of a recipe, and not run here: allowed


def test_the_tuning_population_holds_what_no_client_of_the_run_does(
    experiment: Callable[..., Experiment],
) -> None:
    own, other = (Pieces(experiment(**{"data.skip": skip})).task for skip in (0, 4))
    seen = [own.client_data(client).truth for client in range(4)] + [
        s.truth for s in own.held_out()
    ]
    for client in range(4):
        theirs = other.client_data(client)
        assert not any(torch.equal(theirs.truth, one) for one in seen)
    for signal in other.held_out():
        assert not any(torch.equal(signal.truth, one) for one in seen)
    assert torch.equal(own.client_data(5).truth, other.client_data(1).truth)


@pytest.mark.parametrize(
    "changes", [{"task": "head"}, {"data.path": "/nowhere"}], ids=["no field", "a folder"]
)
def test_others_than_made_signals_are_not_passed_over(
    experiment: Callable[..., Experiment], changes: dict[str, Any]
) -> None:
    with pytest.raises(InputError) as refused:
        experiment(**{"data.skip": 3, **changes})
    assert refused.value.key in ("data.skip", "data.path")


CANDIDATES = st.lists(
    st.builds(
        Candidate, st.just("maml"), st.floats(1e-4, 1), st.none() | st.floats(0, 60),
        st.none() | st.floats(0, 60),
    ),
    max_size=8,
)  # fmt: skip


@given(CANDIDATES)
def test_the_rule_takes_the_papers_number_among_those_that_adapt(found: list[Candidate]) -> None:
    known = [one for one in found if one.psnr is not None and one.unseen is not None]
    pick = chosen(found)
    if not known:
        assert pick is None
        return
    assert pick in known
    best = max(one.unseen for one in known)
    assert pick.unseen >= best - CLOSE
    assert all(one.psnr <= pick.psnr for one in known if one.unseen >= best - CLOSE)


def test_a_field_that_learns_pixels_by_heart_is_not_chosen() -> None:
    """The case that the rule is for: 37.7 dB, and 14.8 between the pixels."""
    found = [
        Candidate("u", 0.002, 25.4, 23.5), Candidate("u", 0.01, 31.6, 22.7),
        Candidate("u", 0.06, 37.7, 14.8),
    ]  # fmt: skip
    assert chosen(found) == found[1] and rates_of(found[1:2]) == "u=0.01"
    row = {"psnr": {"0": 1.0, "64": 2.0}, "psnr_unseen_tuned": None, "psnr_tuned": {"64": 3.0}}
    assert scored({**row, "psnr_p": None}, "u", 0.1) == Candidate("u", 0.1, 2.0, 3.0, None)


def test_tuning_runs_every_candidate_once_and_says_what_to_set(
    tmp_path: Path, smoke: Callable[..., dict[str, Any]]
) -> None:
    changes = {"rounds": 1, "evaluation.rates": "0.01", "methods": "maml,local"}
    given = [part for key, value in changes.items() for part in ("-o", f"{key}={value}")]
    arguments = ["tune", "smoke", *given, "--rates", "0.001,0.01", "--folder", str(tmp_path / "t"),
                 "--json", str(tmp_path / "told.json")]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert [row["rate"] for row in told["rows"]] == [0.001, 0.01]
    assert set(told["chosen"]) == {"maml"}
    runs = sorted((tmp_path / "t").iterdir())
    stamps = [(one / "metrics.jsonl").stat().st_mtime_ns for one in runs]
    assert len(runs) == 2 and RunFolder(runs[0]).config["data.skip"] == 4
    assert CliRunner().invoke(app, arguments[:-2]).exit_code == 0
    assert [(one / "metrics.jsonl").stat().st_mtime_ns for one in runs] == stamps


def test_a_folder_of_others_is_a_tuning_population(tmp_path: Path) -> None:
    """Animals from number 8 on: none of those that a run on the first eight trains or judges."""
    for name, first in (("run", 0), ("others", 8)):
        made = ["made", "petface", str(tmp_path / name), "--holders", "8", "--first", str(first)]
        assert CliRunner().invoke(app, made).exit_code == 0
    pictures = {
        name: {file.read_bytes() for file in (tmp_path / name).rglob("*.png")}
        for name in ("run", "others")
    }
    assert len(pictures["others"]) == 16 and not pictures["run"] & pictures["others"]
    told = tmp_path / "told.json"
    arguments = ["tune", "smoke", "-o", f"data.path={tmp_path / 'others'}", "-o", "rounds=1",
                 "-o", "data.size=8", "-o", "evaluation.rates=0.01", "-o", "methods=maml",
                 "--others", "--rates", "0.01", "--folder", str(tmp_path / "t"),
                 "--json", str(told)]  # fmt: skip
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(told.read_text(encoding="utf-8"))["chosen"] == {"maml": 0.01}
    (run,) = sorted((tmp_path / "t").iterdir())
    assert RunFolder(run).config["data.skip"] == 0


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["smoke", "--rates", "x"], "--rates"),
        (["smoke", "-o", "methods=local"], "methods"),
        (["head"], "recipe"),
        (["smoke", "-o", "data.path=/nowhere"], "data.path"),
        (["smoke", "--others"], "--others"),
    ],
)
def test_what_cannot_be_tuned_is_named(tmp_path: Path, arguments: list[str], key: str) -> None:
    with pytest.raises(InputError) as refused:
        CliRunner().invoke(
            app, ["tune", *arguments, "--folder", str(tmp_path)], catch_exceptions=False
        )
    assert refused.value.key == key and refused.value.remedy


def test_a_folder_of_other_runs_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    """Whatever differs: an edited recipe as much as an option."""
    base = ["tune", "smoke", "-o", "methods=maml", "-o", "evaluation.rates=0.01",
            "--rates", "0.01", "--folder", str(tmp_path)]  # fmt: skip
    assert CliRunner().invoke(app, [*base, "-o", "rounds=1"]).exit_code == 0
    with pytest.raises(InputError, match="another rounds"):
        CliRunner().invoke(app, base, catch_exceptions=False)


def test_a_step_size_that_blows_up_is_no_candidate_and_ends_nothing(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    done = CliRunner().invoke(
        app,
        ["tune", "smoke", "-o", "methods=maml", "-o", "rounds=1", "-o", "evaluation.rates=0.01",
         "--rates", "0.01,100000", "--folder", str(tmp_path / "t"), "--json", str(told)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(told.read_text(encoding="utf-8"))
    assert found["chosen"] == {"maml": 0.01} and found["rows"][1]["psnr"] is None


def test_errors_go_from_process_to_process_by_their_parts() -> None:
    import pickle

    error = InputError("a key", 3, "a reason", "a remedy")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and (again.key, again.remedy) == ("a key", "a remedy")
