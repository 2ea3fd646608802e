"""``fedapp budget``, ``audit``, ``attack`` and ``enrol`` on real runs, through the command line's
own functions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedapp.cli.main import app
from fedapp.report.budget import budget_of
from fedapp.store.runfolder import RunFolder
from privacy.accounting import gaussian_epsilon
from privacy.budget.plan import Plan, predict
from privacy.flower.wire import OUTGOING
from privacy.secagg.identity import Roster
from tasks.errors import InputError

PRIVATE = {
    "methods": "maml",
    "clients.total": 8,
    "clients.per-round": 4,
    "evaluation.uploads": False,
    "rounds": 4,
    "release": "central-dp",
    "privacy.epsilon-max": 9.0,
    "privacy.noise-multiplier": 2.0,
    "privacy.sampling": "round-robin",
    "learner.outer-steps": 1,
    "report.page": False,
}


def cli(*arguments: str) -> tuple[int, dict[str, Any] | None, str]:
    result = CliRunner().invoke(app, [*arguments, "--json", "-"])
    if isinstance(result.exception, InputError):
        raise result.exception
    return (
        result.exit_code,
        json.loads(result.stdout) if result.stdout.strip() else None,
        result.stderr,
    )


@pytest.fixture
def private_run(run: Callable[..., RunFolder]) -> RunFolder:
    return run(nodes=2, **PRIVATE)


# ---------------------------------------------------------------- plan
@pytest.mark.parametrize(
    ("q", "z", "rounds", "delta", "upper"),
    [(0.1, 1.0, 100, 1e-3, 4.7949), (0.05, 1.0, 200, 1e-4, 4.0097), (1.0, 5.0, 100, 1e-5, 10.0077)],
)
def test_plan_prints_the_reference_epsilon(
    q: float, z: float, rounds: int, delta: float, upper: float
) -> None:
    code, found, _ = cli(
        "budget",
        "plan",
        "--sample-rate",
        str(q),
        "--noise-multiplier",
        str(z),
        "--rounds",
        str(rounds),
        "--delta",
        str(delta),
    )
    assert code == 0 and found is not None and found["epsilon"] == pytest.approx(upper, abs=0.02)


def test_plan_of_a_recipe_knows_its_sampling_size_and_cohort() -> None:
    code, found, _ = cli("budget", "plan", "quickstart-dp")
    assert code == 0 and found is not None
    assert (found["participations"], found["clients"], found["rounds"]) == (3, 60.0, 12)
    assert found["epsilon_known_cohort"] == pytest.approx(
        gaussian_epsilon(math.sqrt(3) / 1.5, 1e-5)
    )
    assert found["noise_to_signal"] == pytest.approx(1.5 * math.sqrt(found["parameters"]) / 60)


def test_plan_says_what_would_help() -> None:
    found = predict(Plan(1.0, 100, 1e-5, 0.1, clients=10.0, parameters=100_000))
    assert found["noise_to_signal"] == pytest.approx(math.sqrt(1e5) / 10)
    changes = {row["change"]: row for row in found["advice"]}
    assert (
        changes["clients a round"]["to"] == 317
        and changes["clients a round"]["noise_to_signal"] <= 1
    )
    assert changes["numbers shared (smaller field, lower rank)"]["to"] == 100
    assert changes["rounds"]["epsilon"] < found["epsilon"] > changes["noise multiplier"]["epsilon"]


def test_plan_finds_the_noise_for_a_target() -> None:
    _, found, _ = cli(
        "budget",
        "plan",
        "--target-epsilon",
        "4",
        "--rounds",
        "50",
        "--delta",
        "1e-5",
        "--sample-rate",
        "0.1",
    )
    assert found is not None and 3.95 < found["epsilon"] <= 4.0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rounds", "5"),
        ("quickstart-secagg",),
        ("quickstart-dp", "--rounds", "100"),
        ("quickstart-dp", "--clients", "9"),
    ],
)
def test_plan_refuses_what_it_cannot_compute(arguments: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        cli("budget", "plan", *arguments)


@pytest.mark.parametrize(
    "arguments",
    [("--delta", "2"), ("--rounds", "-10"), ("--noise-multiplier", "0"), ("--clients", "-5")],
)
def test_numbers_out_of_range_are_refused_by_their_option(arguments: tuple[str, str]) -> None:
    code, _, errors = cli(
        "budget", "plan", "--rounds", "5", "--delta", "1e-5", "--noise-multiplier", "1", *arguments
    )
    assert code == 2 and arguments[0] in errors


def test_advice_is_in_rounds_of_the_run_and_in_the_epsilon_that_is_held_against_the_limit() -> None:
    """Two methods for 12 rounds, each client in three of them: half the rounds cost what half the
    events do."""
    plan = Plan(4.0, 24, 1e-5, participations=6, arms=2)
    rounds = {row["change"]: row for row in predict(plan)["advice"]}["rounds"]
    assert rounds["to"] == 6 and rounds["epsilon"] == pytest.approx(
        gaussian_epsilon(math.sqrt(3) / 4, 1e-5)
    )
    assert rounds["epsilon"] < predict(plan)["epsilon_known_cohort"]


# ---------------------------------------------------------------- report, verify
def test_the_report_has_its_twelve_parts_and_recomputes_epsilon_from_the_ledger(
    private_run: RunFolder,
) -> None:
    code, found, _ = cli("budget", "report", str(private_run.path))
    assert code == 0 and found is not None
    parts = [
        "claim",
        "against",
        "mechanism",
        "sampling",
        "accounting",
        "meaning",
        "not_covered",
        "budget",
        "utility",
        "audit",
        "provenance",
        "checklist",
    ]
    assert list(found) == ["schema", *parts]
    lines = (
        (private_run.path / "population" / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    )
    times: dict[int, int] = {}
    for entry in map(json.loads, lines):
        for client in entry["clients"] if entry["type"] == "cohort" else []:
            times[client] = times.get(client, 0) + 1
    expected = gaussian_epsilon(math.sqrt(max(times.values())) / 2.0, 1e-5)
    assert (
        found["accounting"]["epsilon"] == pytest.approx(expected)
        and f"{expected:.4g}" in found["claim"]
    )
    assert found["accounting"]["epsilon_replace_one"] == pytest.approx(
        gaussian_epsilon(2 * math.sqrt(2) / 2, 1e-5)
    )
    assert found["sampling"]["participations"] == {
        "min": 2,
        "median": 2,
        "max": 2,
        "histogram": {"2": 8},
    }
    assert found["accounting"]["amplified"]["epsilon"] is None, "turns are not secret coins"
    assert (private_run.path / "privacy_report.html").exists()


def test_what_is_not_covered_comes_from_the_wire_schema(
    private_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OUTGOING, "clients.loss", ("public", "a field somebody added"))
    listed = {row["what"] for row in budget_of(private_run)["not_covered"]}
    assert {
        name for name, (kind, _) in OUTGOING.items() if kind == "public"
    } <= listed and "sum.vector" not in listed


def test_rounds_left_and_the_noise_to_finish(private_run: RunFolder) -> None:
    found = budget_of(private_run)["budget"]
    spent = 2 / 4  # two participations at z = 2
    from privacy.accounting import gaussian_mu

    left = gaussian_mu(9.0, 1e-5) ** 2 - spent
    assert found["rounds_left"] == math.floor(left * 4) * 2 and found["rounds_missing"] == 0


def test_poisson_rounds_report_the_amplified_number_with_its_assumption(
    run: Callable[..., RunFolder],
) -> None:
    folder = run(
        nodes=2,
        **{**PRIVATE, "privacy.sampling": "poisson", "clients.min": 1, "privacy.epsilon-max": 50.0},
    )
    found = budget_of(folder)["accounting"]
    assert found["amplified"]["epsilon"] < found["all_rounds"]["rdp"] + 1e-9
    assert "never the server" in found["amplified"]["assumption"]


def test_verify_finds_a_changed_byte_and_a_shorter_ledger(private_run: RunFolder) -> None:
    ledger = private_run.path / "population" / "ledger.jsonl"
    code, found, _ = cli("budget", "verify", str(private_run.path))
    assert (
        code == 0 and found is not None and found["charged"] == 4 and found["checkpoint_round"] == 4
    )
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    with pytest.raises(InputError):
        cli("budget", "verify", str(ledger))
    ledger.write_bytes(b"".join(whole.splitlines(keepends=True)[:-3]))
    with pytest.raises(InputError, match="lacks entry"):
        cli("budget", "verify", str(private_run.path))


def test_a_plain_run_has_no_budget(run: Callable[..., RunFolder]) -> None:
    folder = run(nodes=2, **{"rounds": 1, "methods": "maml"})
    with pytest.raises(InputError, match="has no budget"):
        cli("budget", "report", str(folder.path))


# ---------------------------------------------------------------- audit, attack
def test_audit_of_a_run_passes_and_enters_its_report(private_run: RunFolder) -> None:
    code, found, _ = cli("audit", str(private_run.path), "--canaries", "120")
    assert code == 0 and found is not None and found["verdict"] in ("PASS", "WARN")
    assert budget_of(private_run)["audit"]["verdict"] == found["verdict"]


def test_audit_of_a_run_without_its_noise_fails(
    private_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    import privacy.releases.lattice as lattice

    monkeypatch.setattr(
        lattice.Entropy, "integer_noise", lambda self, count, deviation: np.zeros(count, np.int64)
    )
    code, found, _ = cli("audit", str(private_run.path), "--canaries", "200")
    assert code == 1 and found is not None and found["verdict"] == "FAIL"


def test_attack_rows_have_their_stable_shape_and_pictures(run: Callable[..., RunFolder]) -> None:
    folder = run(
        nodes=2, **{"methods": "maml", "rounds": 1, "clients.total": 4, "learner.outer-steps": 6}
    )
    code, found, _ = cli("attack", str(folder.path), "--clients", "4")
    assert code == 0 and found is not None
    keys = {"attack", "release", "metric", "value", "floor", "chance", "n"}
    assert all(keys <= set(row) for row in found["rows"])
    ladder = {"render", "readout", "inversion", "inversion, 4 rounds", "inversion, batches known"}
    assert {row["attack"] for row in found["rows"]} == ladder | {"membership", "transcript"}
    seen = {(row["attack"], row["release"], row["metric"]): row["value"] for row in found["rows"]}
    assert seen["inversion", "plain", "psnr"] > seen["inversion", "secagg", "psnr"] + 2
    assert seen["inversion", "plain", "psnr"] > seen["render", "plain", "psnr"] + 2
    # draws of other rounds are other noise: what is common to them is the picture
    assert seen["inversion, 4 rounds", "plain", "psnr"] > seen["inversion", "plain", "psnr"]
    assert len(list(folder.pictures.glob("attack-maml-inversion-plain-*.png"))) == 4
    assert "Attacks on the updates" in (folder.path / "report.html").read_text(encoding="utf-8")


def test_one_gradient_of_a_field_gives_the_picture_away() -> None:
    """The field's gradient is linear in the picture: with as many parameters as values CGLS
    restores it."""
    import torch

    from privacy.attacks.inversion import invert_update
    from privacy.attacks.render import correlation
    from tasks.fields.siren import Siren
    from tasks.randomness import generator

    field = Siren(2, 1, 48, 3, 30.0)
    model = field.init(generator("init", 0)).double()
    axis = torch.linspace(-1, 1, 12, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    picture = torch.rand(144, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def forward(params: torch.Tensor) -> torch.Tensor:
        return field(params[None], grid[None])[0]

    loss = (forward(model.requires_grad_(True)) - picture).square().mean()
    (gradient,) = torch.autograd.grad(loss, model)
    found = invert_update(forward, model.detach(), -1e-6 * gradient, iterations=300)
    assert correlation(found, picture) > 0.95


# ---------------------------------------------------------------- enrol
def test_enrolling_nodes_gives_a_roster_everybody_can_read(tmp_path: Path) -> None:
    keys = [cli("enrol", str(tmp_path / name))[1] for name in ("a", "b", "server")]
    assert all(key is not None for key in keys)
    again = cli("enrol", str(tmp_path / "a"))[1]
    assert again == keys[0], "an existing key is kept"
    pairs = [
        f"{name}={key['public']}" for name, key in zip(("0", "1", "server"), keys, strict=True)
    ]  # type: ignore[index]
    cli("enrol", "--roster", str(tmp_path / "roster.json"), *pairs)
    roster = Roster.read(tmp_path / "roster.json")
    assert (
        sorted(roster.members) == [0, 1]
        and (tmp_path / "a" / "identity.key").stat().st_mode & 0o777 == 0o600
    )
    with pytest.raises(InputError, match="lacks the server"):
        cli("enrol", "--roster", str(tmp_path / "r.json"), *pairs[:2])
    with pytest.raises(InputError, match="repeated"):
        cli("enrol", "--roster", str(tmp_path / "r.json"), pairs[0], f"1={pairs[0][2:]}", pairs[2])


@pytest.mark.parametrize(
    ("option", "value"),
    [("--clients", "nan"), ("--target-epsilon", "inf"), ("--noise-multiplier", "inf")],
)
def test_numbers_that_are_none_are_refused_by_name(option: str, value: str) -> None:
    given = ["--noise-multiplier", "1"] if "z" not in option and "noise" not in option else []
    command = ["budget", "plan", "--rounds", "10", "--delta", "1e-5", *given, option, value]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, InputError) and done.exception.key == option


@pytest.mark.parametrize("threshold", [2, 6])
def test_a_threshold_that_no_round_could_have_is_refused_before_one(
    smoke: Callable[..., dict[str, Any]], threshold: int
) -> None:
    from fedapp.config.experiment import Experiment

    changes = {"release": "distributed-dp", "runtime.nodes": 5, "clients.total": 10,
               "evaluation.uploads": False, "privacy.epsilon-max": 9.0}  # fmt: skip
    Experiment.from_run_config(smoke(**changes, **{"privacy.threshold": 4}))
    with pytest.raises(InputError) as refused:
        Experiment.from_run_config(smoke(**changes, **{"privacy.threshold": threshold}))
    assert refused.value.key == "privacy.threshold"
