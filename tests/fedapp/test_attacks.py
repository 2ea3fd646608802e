"""What attacks look at is what a server would hold, and whom they compare with shares nothing with
a client."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fedapp.attacks import ATTACKS
from fedapp.attacks.base import Attack
from fedapp.attacks.field_round import FieldRound
from fedapp.attacks.head_round import HeadRound
from fedapp.attacks.linearised import LinearisedInversion
from fedapp.attacks.membership import Membership
from fedapp.attacks.recovery import Recovery
from fedapp.attacks.render import Render
from fedapp.cli.main import app
from fedapp.store.runfolder import RunFolder
from strategies.flower import rounds as flower_rounds
from strategies.flower.wire import Answer
from tasks.data.bundled import HELD_OUT, PRIVATE
from tasks.registry import load

Run = Callable[..., RunFolder]
SCAFFOLD = {
    "rule": "scaffold",
    "methods": "maml",
    "clients.total": 3,
    "evaluation.uploads": False,
    "learner.outer-steps": 2,
    "learner.outer-rate": 0.003,
    "rules.server-clip": 0.0,
}


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> dict[int, torch.Tensor]:
    """The last update of each client as it really arrived, one client a node."""
    found: dict[int, torch.Tensor] = {}
    unpack = flower_rounds.unpack_answer

    def listening(*arguments: Any) -> Answer:
        answer = unpack(*arguments)
        assert answer.result.payload is not None and len(answer.result.clients) == 1
        found[answer.result.clients[0]] = answer.result.payload.vector.chunk(2)[0].clone()
        return answer

    monkeypatch.setattr(flower_rounds, "unpack_answer", listening)
    return found


def test_attacked_updates_are_those_the_run_would_have_sent(
    run: Run, tmp_path: Path, uploads: dict[int, torch.Tensor]
) -> None:
    """SCAFFOLD's clients go on from their own control variates: round 6 as attacked is round 6 as
    it was sent."""
    short = run(nodes=3, rounds=5, **SCAFFOLD, **{"run-dir": str(tmp_path / "short")})
    files = {file: file.read_bytes() for file in short.client_state.rglob("*.safetensors")}
    attacked = FieldRound(short, 3).updates("maml", 0)
    run(nodes=3, rounds=6, **SCAFFOLD, **{"run-dir": str(tmp_path / "long")})
    for client in range(3):
        torch.testing.assert_close(attacked[client], uploads[client], atol=1e-6, rtol=1e-4)
    assert {
        file: file.read_bytes() for file in short.client_state.rglob("*.safetensors")
    } == files, "no trace is left"


def test_what_the_rule_adds_is_taken_off_before_data_are_looked_for(
    run: Run, tmp_path: Path
) -> None:
    """Two steps of 0.003 along c - c_i: what is left are the client's own gradients."""
    folder = run(nodes=3, rounds=2, **SCAFFOLD, **{"run-dir": str(tmp_path / "one")})
    view = FieldRound(folder, 3)
    control = view.federation("maml", 0).state["control"]
    from fedapp.store.client_state import ClientState

    own = ClientState(folder.client_state / "maml-0").load(1, 2)["control"]
    torch.testing.assert_close(view.corrections("maml", 0)[1], 2 * 0.003 * (control - own))
    assert float(view.corrections("maml", 0)[1].norm()) > 0
    plain = run(
        nodes=3, rounds=1, **{**SCAFFOLD, "rule": "fedavg"}, **{"run-dir": str(tmp_path / "two")}
    )
    assert not FieldRound(plain, 3).corrections("maml", 0).any()


def test_non_members_share_no_photograph_with_a_client(run: Run, tmp_path: Path) -> None:
    folder = run(
        **{
            "methods": "maml",
            "clients.total": 12,
            "rounds": 1,
            "evaluation.uploads": False,
            "learner.outer-steps": 1,
            "run-dir": str(tmp_path / "one"),
        }
    )
    view = FieldRound(folder, 12)
    names = {data.name.split(" ")[0] for data in view.others}
    assert len(view.others) == 12 and names <= set(HELD_OUT) and not names & set(PRIVATE)
    rows = {row["metric"]: row for row in Membership(view).run("maml", 0)}
    assert rows["auc"]["n"] == 24 and 0 <= rows["auc"]["chance"] <= 1
    assert abs(rows["auc"]["chance"] - rows["auc"]["value"]) < 0.1, (
        "one round of one step gives nothing away"
    )


@pytest.mark.parametrize("name", ["render", "membership"])
def test_a_folder_of_own_pictures_can_be_attacked(run: Run, tmp_path: Path, name: str) -> None:
    """Exactly as many pictures as the run needs: non-members are those that nobody held."""
    pictures = tmp_path / "mine"
    pictures.mkdir()
    draw = np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(draw.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(
            pictures / f"{index}.png"
        )
    folder = run(
        **{
            "methods": "maml",
            "clients.total": 4,
            "data.held-out": 2,
            "data.path": str(pictures),
            "rounds": 1,
            "evaluation.uploads": False,
            "learner.outer-steps": 1,
            "run-dir": str(tmp_path / "one"),
        }
    )
    result = CliRunner().invoke(app, ["attack", str(folder.path), "--name", name, "--clients", "4"])
    assert result.exit_code == 0, result.output
    rows = [row for row in folder.read("attack.json")["rows"] if row["attack"] == name]
    assert rows and all(row["value"] is not None for row in rows)


def test_an_audit_of_a_run_with_metrics_in_its_sum(run: Run, tmp_path: Path) -> None:
    folder = run(
        nodes=2,
        **{
            "methods": "maml",
            "clients.total": 8,
            "clients.per-round": 4,
            "evaluation.uploads": False,
            "rounds": 2,
            "release": "central-dp",
            "privacy.epsilon-max": 9.0,
            "privacy.noise-multiplier": 2.0,
            "privacy.metrics": '{"objective_min": [0, 1]}',
            "learner.outer-steps": 1,
            "run-dir": str(tmp_path / "one"),
        },
    )
    result = CliRunner().invoke(app, ["audit", str(folder.path), "--canaries", "60"])
    assert result.exit_code == 0 and "PASS" in result.output, result.output
    few = CliRunner().invoke(app, ["audit", str(folder.path), "--canaries", "3"])
    assert few.exit_code != 0 and "too few" in str(few.exception)


def test_every_name_of_the_registry_is_an_attack() -> None:
    for references in ATTACKS.values():
        for reference in references:
            kind = load("attack", reference, {})
            assert issubclass(kind, Attack) and kind.__doc__


# ---------------------------------------------------------------- what a score is
def test_a_gain_is_how_much_of_a_loss_an_update_takes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses 4 and 2 before; after the update 1 and 3: three quarters less, half more."""
    before, after = np.array([4.0, 2.0]), np.array([1.0, 3.0])
    monkeypatch.setattr(
        HeadRound, "losses", lambda self, params: after if float(params) else before
    )
    attacker = object.__new__(HeadRound)
    gains = attacker.gains(torch.zeros(1), torch.tensor([[1.0], [0.0]]))
    np.testing.assert_allclose(gains, [[0.75, -0.5], [0.0, 0.0]])


@pytest.mark.parametrize("attack", [LinearisedInversion, Render])
def test_chance_is_the_likeness_to_a_non_member(attack: type[Recovery]) -> None:
    """A picture 0.1 lighter than the client's (20 dB), whose negative the non-member holds:
    correlation 1, by chance -1.

    A rendering is compared with the non-member as that one looks at it (from other places): here
    0.01 off, 40 dB.
    """
    own = torch.linspace(0.1, 0.4, 16).reshape(4, 4, 1)
    other = SimpleNamespace(truth=0.5 - own)
    seen = {id(other): other.truth + 0.01}
    view = SimpleNamespace(
        cohort=[SimpleNamespace(truth=own)],
        others=[other],
        received=lambda *_: SimpleNamespace(model=torch.zeros(1)),
        fields=SimpleNamespace(render=lambda params, cohort: [seen[id(data)] for data in cohort]),
    )
    held = {0: torch.zeros(1)}.__getitem__
    found = attack(view).score(attack.rungs[0], "maml", 0, "plain", [0], held, [own + 0.1])
    rows = {row["metric"]: row for row in found}
    assert rows["psnr"]["value"] == pytest.approx(20.0, abs=1e-3)
    shown = other.truth + 0.01 if attack is Render else own + 0.1
    chance = -10 * math.log10(float((shown - other.truth).square().mean()))
    assert rows["psnr"]["chance"] == rows["psnr_best"]["chance"] == pytest.approx(chance, abs=1e-3)
    assert rows["correlation"]["value"] == pytest.approx(1.0)
    assert rows["correlation"]["chance"] == pytest.approx(1.0 if attack is Render else -1.0)
