"""Bad config: the one clear error that names key, value, reason and remedy, before anything
starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import read_overrides, read_recipe, recipe_names
from tasks.errors import InputError


def test_defaults_survive_the_trip_through_flowers_flat_config() -> None:
    assert Experiment.from_run_config(known_keys()) == Experiment()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_parses_and_says_what_it_is(name: str) -> None:
    assert recipe_names()[name]
    assert Experiment.from_run_config(known_keys() | read_recipe(name)).recipe == name


@pytest.mark.parametrize(
    ("key", "value", "reason", "remedy"),
    [
        ("learner.inner-stepz", 4, "no such config key", "learner.inner-steps"),
        ("inner-steps", 4, "no such config key", "learner.inner-steps"),
        ("learner.fedmenf.gamma", 1.5, "less than or equal to 1", "0.75"),
        ("rounds", "abc", "must be a number", "10"),
        ("rounds", 0, "greater than or equal to 1", "10"),
        ("rounds", 2.5, "valid integer", "10"),
        ("resume", 1, "must be a bool", "false"),
        ("rule", "fedavgg", "no such rule", "did you mean 'fedavg'"),
        ("methods", "fedmenf,mamll", "no such learner", "did you mean 'maml'"),
        ("task", "imag", "no such task", "did you mean 'image'"),
        ("release", "secag", "no such release", "plain"),
        ("task", "nowhere:Task", "", ""),
        ("evaluation.steps", "1,x", "whole numbers", "0,1,4,16,64"),
        ("evaluation.rates", "0.1,-1", "positive", "0.003"),
        ("seeds", "1,1", "different", "0"),
        ("runtime.matmul-precision", "low", "'highest', 'high' or 'medium'", "highest"),
        ("runtime.device", "gpu", "pattern", "auto"),
        ("learner.outer-rate", float("nan"), "finite", "0.006"),
        ("task-options", "[1]", "JSON object", "{}"),
    ],
)
def test_bad_values(key: str, value: Any, reason: str, remedy: str) -> None:
    if value == "nowhere:Task":  # a reference is resolved when the piece is built
        from fedapp.config.pieces import Pieces

        with pytest.raises(InputError, match="cannot import"):
            assert Pieces(Experiment.from_run_config({key: value})).task
        return
    with pytest.raises(InputError) as caught:
        Experiment.from_run_config({key: value})
    error = caught.value
    assert error.key == key and reason in error.reason and remedy in error.remedy


def test_whole_numbers_pass_for_floats() -> None:
    assert Experiment.from_run_config({"learner.fedmenf.cap": 1}).learner.fedmenf.cap == 1.0


def test_overrides_are_typed_and_checked() -> None:
    assert read_overrides(
        ["rounds=3", "learner.inner-rate=0.5", "rule=scaffold", "resume=true"]
    ) == {
        "rounds": 3,
        "learner.inner-rate": 0.5,
        "rule": "scaffold",
        "resume": True,
    }
    for bad, reason in (
        ("rounds", "key=value"),
        ("rounds=x", "whole number"),
        ("nope=1", "no such"),
        ("resume=7", "true or false"),
    ):
        with pytest.raises(InputError, match=reason):
            read_overrides([bad])


def test_recipes_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        "rounds = 3\n[learner]\ninner-steps = 2\n", encoding="utf-8"
    )
    assert read_recipe(str(tmp_path / "mine.toml")) == {
        "rounds": 3,
        "learner.inner-steps": 2,
        "recipe": "mine",
    }
    with pytest.raises(InputError, match="did you mean 'quickstart'"):
        read_recipe("quickstar")
    (tmp_path / "bad.toml").write_text("rounds = = 3", encoding="utf-8")
    with pytest.raises(InputError, match="not valid TOML"):
        read_recipe(str(tmp_path / "bad.toml"))


def test_a_relative_run_dir_is_refused_by_the_server_app(run: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="relative path depends on where the SuperLink"):
        run(**{"run-dir": "here"})


def test_plugins_by_reference(run: Callable[..., Any]) -> None:
    """A rule that is in no table: only its reference is given."""
    folder = run(
        rule="strategies.rules.fedavg:FedAvg", methods="strategies.local.meta:Maml", rounds=1
    )
    (event,) = [event for event in folder.events() if event["event"] == "round"]
    assert event["clients"]["ok"] == 4


@pytest.mark.parametrize(
    ("key", "name"),
    [("methods", "json:dumps"), ("rule", "json:JSONDecoder"), ("release", "json:dumps")],
)
def test_a_reference_to_something_else_is_refused_by_name(key: str, name: str) -> None:
    with pytest.raises(InputError, match="is no class derived from") as caught:
        Experiment.from_run_config({key: name})
    assert caught.value.key == key
