"""A template of heads through real rounds: it moves to its clients, and sums hide who they are only
as far as the table says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from split_kit import Run, apart

from fedapp.attacks import attack_run, shape_linkage
from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.pieces import Pieces
from fedapp.store.checkpoint import list_checkpoints, load_checkpoint
from fedapp.studies.heads import METHODS, table
from tasks.head import template
from tasks.head.template_task import HeadTemplate
from tasks.settings import TaskSettings

TINY: dict[str, Any] = {
    "task": "head-template",
    "methods": "erm,local",
    "rounds": 3,
    "clients.total": 6,
    "clients.min": 3,
    "data.size": 24,
    "data.held-out": 1,
    "head.style": "long",
    "head.grid": 16,
    "head.first-steps": 12,
    "head.second-steps": 12,
    "head.neutral-views": 4,
    "head.sensitive-views": 4,
    "head.rays": 64,
    "head.samples": 2000,
    "template.people": 4,
    "template.components": 2,
    "template.local-steps": 4,
    "learner.outer-steps": 4,
    "learner.outer-rate": 0.2,
    "learner.outer-clip": 0.0,
    "rules.server-clip": 0.0,
    "evaluation.every": 3,
    "evaluation.uploads": False,
}


@pytest.fixture
def heads(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return apart(run, tmp_path)


def test_the_template_moves_to_its_clients_under_a_secure_sum(heads: Run) -> None:
    folder = heads(nodes=6, **{**TINY, "release": "secagg", "privacy.clip-norm": 50.0})
    found = folder.read("result.json")["methods"]
    assert {"chamfer_face", "chamfer_head_start", "mean_residual"} <= found["erm"].keys()
    task = HeadTemplate(Experiment.from_run_config(known_keys() | TINY))
    shapes = torch.stack([task.client_data(client).truth for client in range(6)])
    start = task.parts(task.init(0)[None])[0]
    state = load_checkpoint(list_checkpoints(folder.checkpoints)[-1], {})
    model = state.federation("erm-0", Pieces.of(folder).rule).model
    mean = task.parts(model[None])[0]
    above = template.counted()
    before, after = (float(((shapes.mean(0) - m) * above).norm()) for m in (start, mean))
    # 12 steps of 0.2 leave 0.8^12 = 0.07 of the way, and clients clip at privacy.clip-norm
    assert after < 0.5 * before


def test_plain_updates_name_their_owners_and_a_sum_its_members_unless_there_is_noise(
    heads: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients whose fits are perfect: the attack's best case."""

    def perfect(task: HeadTemplate, client: int) -> torch.Tensor:
        return template.cut(template.of_person(client, "long", template.LATTICE))

    monkeypatch.setattr(HeadTemplate, "_fitted", perfect)
    monkeypatch.setattr(shape_linkage, "STRANGERS", 6)
    folder = heads(**{**TINY, "rounds": 1, "evaluation.every": 1, "privacy.noise-multiplier": 20.0})
    rows = attack_run(folder, "linkage", 6, lambda _: None)
    assert {row["metric"] for row in rows} == {
        "top1", "auc", "membership auc", "members among the n named",
    }  # fmt: skip
    plain = next(r for r in rows if r["release"] == "plain" and r["metric"] == "top1")
    assert plain["value"] >= 5 / 6 and plain["chance"] == 1 / 12
    summed, noised = (
        next(r["value"] for r in rows if r["metric"] == "membership auc" and said(r["release"]))
        for said in (lambda name: name == "secagg", lambda name: name.startswith("central-dp"))
    )
    # without noise the sum tells exactly who of a known gallery is in it; noise of 20 clips hides
    # them (0.95 and more happens to 1 % by chance).
    assert summed == 1.0 and noised < 0.95


def test_the_mean_alone_can_travel() -> None:
    settings = TaskSettings.model_validate(
        {"template": {"shares": "mean", "people": 3}, "data": {"size": 24}}
    )
    task = HeadTemplate(settings)
    assert task.layout.size == template.SIZE == len(task.init(0))


def test_the_bench_table_counts_people_and_never_guesses() -> None:
    def person(scale: float, lost: bool = False) -> dict[str, Any]:
        one = {
            "chamfer_face": 0.01 * scale,
            "chamfer_head": 0.02,
            "normals": 0.9,
            "watertight": 1.0,
        }
        found: dict[str, Any] = {method: dict(one) for method in METHODS}
        found["stage1"]["chamfer_face"] = 0.04 * scale
        found["joint"]["chamfer_face"] = 0.009 if scale > 1 else 0.02
        if lost:
            found["full_rgb"]["chamfer_face"] = None
        return found | {
            "floor": one,
            "grid": one,
            "work": {"seconds_per_step": 1.0, "memory_mb": 2},
        }

    rows = {row["case"]: row for row in table("", [person(1.0), person(2.0)], asked=True)}
    assert rows["stage2"]["face"] == pytest.approx(15)
    assert rows["stage2"]["face_half_width"] == pytest.approx(
        12.706 * 5, rel=1e-3
    )  # t of one degree
    assert rows["face, stage2 over stage1"]["ours"] == pytest.approx(0.25)
    assert rows["face, stage2 over stage1"]["holds"] is True
    assert rows["face, stage2 over joint"]["nearer_for"] == 1
    lost = {row["case"]: row for row in table("", [person(1.0), person(2.0, True)], asked=True)}
    assert lost["full_rgb"]["face"] is None and "holds" not in lost["face, stage2 over full_rgb"]
