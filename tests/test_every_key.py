"""Every documented setting goes through a real round at a value that is not its default.

``RUNS`` are whole runs of real apps in process, each with many settings changed at once;
``ELSEWHERE`` names the test that runs a setting which needs more than a run (files, devices, Ray).
A setting that is in neither fails here.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layout_kit import paint
from split_kit import SMALL as SPLIT

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.pieces import Pieces
from fedapp.store.checkpoint import list_checkpoints, load_checkpoint
from fedapp.store.runfolder import RunFolder
from fedapp.workflows import UPLOAD

TESTS = Path(__file__).parent
NOISED = {"evaluation.uploads": False, "privacy.epsilon-max": 500.0, "clients.total": 6}
HEADS = {**UPLOAD.smallest, "clients.total": 2, "clients.min": 1, "head.grid": 16,
         "head.samples": 2000}  # fmt: skip

RUNS: dict[str, dict[str, Any]] = {
    "pictures": {
        "methods": "fedmenf,fedmenf-adaptive,reptile,local", "seeds": "3", "recipe": "all",
        "data.channels": 1, "data.skip": 2, "data.objects": 2, "data.alpha": 5.0,
        "field.omega": 20.0, "field.biases": "weights", "evaluation.rate": 0.02,
        "evaluation.uploads-every": 2, "evaluation.batch-size": 16, "evaluation.clip": 1.0,
        "learner.inner-steps": 2, "learner.inner-rate": 0.02, "learner.inner-clip": 1.0,
        "learner.inner-clip-derivative": "stopped", "learner.outer-rate": 0.01,
        "learner.outer-rates": "reptile=0.02", "learner.outer-clip": 1.0,
        "learner.fedmenf.gamma": 0.5, "learner.fedmenf.cap": 0.2, "learner.fedmenf.zeta": 0.05,
        "learner.fedmenf.total-steps": 50.0, "learner.reptile.outer-rate": 0.1,
        "rules.server-clip": 1.0, "clients.per-round": 3, "clients.min": 1, "report.page": True,
        "runtime.chunk": 2, "runtime.timeout": 60.0, "runtime.in-flight": 4,
        "runtime.device": "cpu", "runtime.nodes": 3, "runtime.threads": 2,
        "runtime.matmul-precision": "high", "report.attacks": "render",
    },
    "noise in learners, steps by examples": {
        "methods": "meta-nsgd", "learner.meta-nsgd.clip": 0.2,
        "learner.meta-nsgd.noise-multiplier": 1.0, "learner.meta-nsgd.proximal": 0.5,
        "learner.meta-nsgd.outer-rate": 0.05, "learner.steps-by-examples": True,
        "report.pictures": False,
    },
    "fedprox": {"methods": "maml", "rule": "fedprox", "rules.fedprox.mu": 0.5},
    "scaffold": {"methods": "maml", "rule": "scaffold", "rules.scaffold.scale": 2.0},
    "fednova": {"methods": "maml", "rule": "fednova", "rules.fednova.steps": 2,
                "rules.fednova.max-steps": 10.0},
    "fedexp": {"methods": "maml", "rule": "fedexp", "rules.fedexp.epsilon": 0.1},
    "fedacg": {"methods": "maml", "rule": "fedacg", "rules.fedacg.momentum": 0.5,
               "rules.fedacg.beta": 0.1},
    "clips": {"task": "video", "methods": "maml", "data.frames": 3, "data.channels": 3},
    "objects": {
        "task": "nerf", "methods": "maml", "data.shape": "heads", "data.support-views": 3,
        "data.query-views": 2, "data.views-alpha": 2.0,
        "data.channels": 3, "field.frequencies": 4, "field.max-frequency": 4.0,
        "field.samples": 8, "field.skip-empty": True, "evaluation.batch-size": 128,
    },
    "objects in a table": {
        "task": "nerf", "methods": "maml", "field.encoding": "hash", "field.samples": 8,
        "field.last-sample": "opaque", "evaluation.batch-size": 128, "data.channels": 3,
    },
    "noise at the server": {
        **NOISED, "release": "central-dp", "methods": "maml", "privacy.clip-norm": 0.5,
        "privacy.adaptive-clip": True, "privacy.clip-quantile": 0.7, "privacy.clip-rate": 0.1,
        "privacy.max-examples": 3, "privacy.metrics": '{"objective_min": [0, 1]}',
        "privacy.noise-multiplier": 1.5, "privacy.delta": 1e-4, "privacy.sampling": "poisson",
        "clients.per-round": 4, "clients.min": 1,
    },
    "noise for an epsilon": {**NOISED, "release": "central-dp", "methods": "maml",
                             "privacy.noise-multiplier": 0.0, "privacy.target-epsilon": 20.0},
    "noise in a secure sum": {
        **NOISED, "release": "distributed-dp", "methods": "maml", "runtime.nodes": 6,
        "privacy.colluding": 1, "privacy.threshold": 6, "privacy.graph": "complete",
    },
    "a provable sum": {
        "release": "secagg", "methods": "erm", "evaluation.uploads": False, "runtime.nodes": 10,
        "clients.total": 10, "privacy.exact": True, "privacy.group-size": 5,
        "learner.batch-size": 0, "learner.outer-steps": 1, "learner.outer-clip": 0.0,
        "rules.server-clip": 0.0, "report.attack-seconds": 0.0, "report.transcript": False,
        "runtime.miss-every": 2, "data.channels": 3,
    },
    "rooms": {
        **SPLIT, "methods": "sealed,s2nerf,label-noise,private-grid", "split.features": 2,
        "split.cells": "4,8", "split.hashed": 100, "split.cut": "features",
        "split.variant": "light", "split.rays": 32, "split.samples": 8, "split.batches": 2,
        "split.exchanges": 2, "split.rate": 0.02, "split.sealed-rate": 0.01,
        "split.noise-scale": 0.5, "split.noise-decay": 0.01, "split.label-noise": 1.0,
        "split.private-cells": "4", "split.texture": "plain", "split.train-views": 6,
        "split.test-views": 1, "split.metrics": True, "rounds": 1,
    },
    "people": {
        **HEADS, "head.operator": "smaller=2,modulus=sobel", "head.neutral-views": 4,
        "head.sensitive-views": 3, "head.style": "long", "head.field": "mlp=2x32",
        "head.first-steps": 8, "head.second-steps": 8, "head.sharp": 0.01, "head.rays": 64,
        "head.patches": 2, "head.patch": 6, "methods": "stage2",
    },
}  # fmt: skip
TEMPLATE = {
    "task": "head-template", "methods": "erm,local", "rounds": 1, "clients.total": 3,
    "data.size": 24, "data.held-out": 1, "head.grid": 16, "head.first-steps": 4,
    "head.second-steps": 4, "head.neutral-views": 4, "head.sensitive-views": 4, "head.rays": 64,
    "head.samples": 2000, "template.people": 4, "template.components": 2,
    "template.local-steps": 3, "template.views": 2, "template.style": "mixed",
    "template.shares": "mean", "template.smooth": True, "evaluation.uploads": False,
    "learner.outer-clip": 0.0, "rules.server-clip": 0.0,
}  # fmt: skip
TALKING: dict[str, dict[str, Any]] = {
    "a talking head": {
        "talking-head.clips": 1, "talking-head.held-out-clips": 2, "talking-head.window": 3,
        "talking-head.lora": "alternating", "talking-head.rank": 3, "talking-head.alpha": 2,
        "talking-head.adapter-seed": 5, "talking-head.tdc": 0.2, "talking-head.identity": 0.1,
        "talking-head.min-snr": 5.0, "talking-head.sampling-steps": 2, "talking-head.noise": 0.5,
        "talking-head.shared-noise": 0.5, "talking-head.guidance": 2.0,
        "talking-head.precision": "bfloat16", "talking-head.checkpointing": True,
        "learner.adapters.rate": 0.01, "learner.adapters.weight-decay": 0.1,
        "learner.adapters.personal-steps": 2, "rules.isfa.alpha": 0.5, "rules.isfa.gamma": 1.0,
        "rules.isfa.max-examples": 10,
    },
    "who stays away": {
        **NOISED, "release": "distributed-dp", "runtime.nodes": 6, "rules.isfa.attendance": 0.9,
    },
}  # fmt: skip
HERE = [  # through runs below that need files or classes
    "talking-head.judges", "talking-head.perceptual", "talking-head.layout", "data.path",
    "evaluation.lpips", "task-options", "learner.options", "rules.options", "data.layout",
]  # fmt: skip
ELSEWHERE = {  # where a setting goes through a run that needs more than its value
    "fedapp/test_devices.py": ["data.hosted"],
    "fedapp/test_own_data.py": ["data.near", "data.far"],
    "fedapp/test_cli.py": ["resume"],  # the command sets it
    "fedapp/test_resume.py": ["run-dir"],
    "fedapp/test_workflows.py": ["workflow"],
    "fedapp/test_talking_head_runs.py": ["talking-head.digest"],
    "fedapp/test_backbones.py": [
        "talking-head.unet", "talking-head.pretrain-people", "talking-head.pretrain-steps",
        "talking-head.channels",
    ],
    "fedapp/test_upload_runs.py": [
        "head.front", "head.up", "head.facing-neutral", "head.stages",
    ],
    "fedapp/test_private_runs.py": ["privacy.population"],
    "device_kit.py": ["privacy.roster"],  # of every test with devices
    "tasks/test_compiled.py": ["field.compiled"],
    "fedapp/test_failures.py": ["report.page"],
    "sim/test_launch.py": ["runtime.cpus-per-actor", "runtime.gpus-per-actor"],  # Ray's own
}  # fmt: skip


def counted(folder: RunFolder) -> list[dict[str, Any]]:
    return [e for e in folder.events() if e["event"] == "round" and not e.get("skipped")]


@pytest.mark.parametrize("name", RUNS)
def test_settings_go_through_a_round(name: str, run: Callable[..., RunFolder]) -> None:
    changes = {"rounds": 2, **RUNS[name]}
    folder = run(**{"nodes": changes.pop("runtime.nodes", 2), **changes})
    assert folder.status["state"] == "finished" and counted(folder)
    for key, value in changes.items():
        assert folder.config[key] == value


@pytest.mark.parametrize("name", TALKING)
def test_settings_of_talking_heads_go_through_a_round(
    name: str, run: Callable[..., RunFolder], head: dict[str, Any]
) -> None:
    changes = {**head, "rounds": 1, **TALKING[name]}
    folder = run(**{"nodes": changes.pop("runtime.nodes", 2), **changes})
    assert folder.status["state"] == "finished" and counted(folder)


def test_settings_of_a_template_go_through_a_round(
    run: Callable[..., RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDAPP_CACHE", str(tmp_path))
    folder = run(**TEMPLATE)
    assert folder.status["state"] == "finished" and counted(folder)


class Apart(torch.nn.Module):
    """A distance of pictures, as a network that is given."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().mean((1, 2, 3))


def test_networks_that_judge_and_train_go_through_a_round(
    run: Callable[..., RunFolder], head: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "apart.pt"
    torch.jit.script(Apart()).save(str(file))
    spoken = run(
        **{**head, "rounds": 1, "talking-head.judges": json.dumps({"lpips": str(file)}),
           "talking-head.perceptual": 0.5, "run-dir": str(tmp_path / "spoken")}
    )  # fmt: skip
    assert spoken.read("result.json")["methods"]["adapters"]["lpips"] is not None
    fitted = run(**{"methods": "maml", "rounds": 1, "evaluation.lpips": str(file)})
    assert fitted.read("result.json")["methods"]["maml"]["lpips"] is not None


def test_folders_in_a_layout_that_is_named_go_through_a_round(
    run: Callable[..., RunFolder], head: dict[str, Any], tmp_path: Path
) -> None:
    from tasks.talking_head.source import write_people

    asked = Experiment.from_run_config(known_keys() | head)
    write_people(tmp_path / "people", 4, asked)
    spoken = run(
        **{**head, "rounds": 1, "clients.total": 2, "data.path": str(tmp_path / "people"),
           "talking-head.layout": "own", "run-dir": str(tmp_path / "spoken")}
    )  # fmt: skip
    assert counted(spoken)
    for day in ("2024-01-03", "2024-01-04", "2024-01-05"):
        for number in range(2):
            paint(tmp_path / "cats" / day / f"{number}.png", (50 * number, 0, 0))
    fitted = run(
        **{"methods": "maml", "rounds": 1, "clients.total": 2, "data.held-out": 1,
           "data.path": str(tmp_path / "cats"), "data.layout": "petface"}
    )  # fmt: skip
    assert counted(fitted)


def test_options_of_plug_ins_go_through_a_round(
    run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    """They are read: a share or a rate of nothing leaves the model where it was."""

    def moved(share: float, rate: float) -> float:
        folder = run(
            **{"methods": "outsiders:OptionedLearner", "rule": "outsiders:OptionedRule",
               "rules.options": json.dumps({"share": share}), "rounds": 1,
               "learner.options": json.dumps({"rate": rate}), "evaluation.uploads": False,
               "run-dir": str(tmp_path / f"{share}-{rate}")}
        )  # fmt: skip
        state = load_checkpoint(list_checkpoints(folder.checkpoints)[-1], {})
        start = Pieces.of(folder).task.init(0)
        arm = state.federation("outsiders:OptionedLearner-0", Pieces.of(folder).rule)
        return float((arm.model - start).norm())

    assert moved(1.0, 0.01) > 0 and moved(0.0, 0.01) == moved(1.0, 0.0) == 0


def test_options_of_a_task_go_through_a_round(run: Callable[..., RunFolder]) -> None:
    folder = run(
        **{"task": "sim.bench.toy:ToyTask", "task-options": '{"parameters": 7}', "rounds": 1,
           "methods": "sim.bench.toy:Idle", "evaluation.uploads": False}
    )  # fmt: skip
    assert counted(folder) and Pieces.of(folder).task.layout.size == 7


def test_no_setting_is_left_out(head: dict[str, Any]) -> None:
    defaults = known_keys()
    every = [*RUNS.values(), TEMPLATE, *({**head, **one} for one in TALKING.values())]
    moved = {key for changes in every for key, value in changes.items() if value != defaults[key]}
    moved |= {"rounds", "field.width", "field.depth", "learner.outer-steps", "learner.batch-size",
              "data.size", "data.held-out", "evaluation.every", "evaluation.steps",
              "evaluation.rates", "clients.total"}  # fmt: skip
    named = {*HERE, *(key for keys in ELSEWHERE.values() for key in keys)}
    assert sorted(set(defaults) - moved - named) == []
    assert named <= set(defaults)


@pytest.mark.parametrize("file", ELSEWHERE)
def test_what_is_said_to_be_run_elsewhere_is_written_there(file: str) -> None:
    source = (TESTS / file).read_text(encoding="utf-8")
    written = {
        node.value for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }  # fmt: skip
    for key in ELSEWHERE[file]:
        assert any(re.search(rf"(^|\W){re.escape(key)}($|[=\W])", text) for text in written), key
