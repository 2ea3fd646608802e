"""A real run on Ray: 12 nodes, distributed noise, two node processes killed at each leg in turn."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import brentq
from scipy.stats import norm

from fedapp.store.checkpoint import list_checkpoints
from fedapp.store.runfolder import RunFolder

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
NODES = 12
SIZE = 60_000
ROUNDS = 5
Z = 2.0  # noise multiplier


def saboteur() -> ModuleType:
    """The module the run imports, without its deadly part."""
    spec = importlib.util.spec_from_file_location("saboteur", HERE / "saboteur.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sums_survive_two_killed_nodes_at_every_leg(tmp_path: Path) -> None:
    graves = tmp_path / "graves"
    graves.mkdir()
    changes = {
        "run-dir": tmp_path / "run",
        "rounds": ROUNDS,
        "task": "saboteur:KnownTask",
        "methods": "saboteur:KnownUpdate",
        "task-options": json.dumps({"parameters": SIZE}),
        "release": "distributed-dp",
        "clients.total": NODES,
        "runtime.nodes": NODES,
        "evaluation.uploads": "false",
        "evaluation.every": ROUNDS,
        "privacy.noise-multiplier": Z,
        "privacy.epsilon-max": 100,
        "rules.server-clip": 0,
    }
    options = [part for key, value in changes.items() for part in ("-o", f"{key}={value}")]
    # beside what the caller set: a checkout that is not the installed one tests itself
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "FEDAPP_TEST_GRAVES": str(graves)}
    done = subprocess.run(
        [sys.executable, "-m", "fedapp.cli.main", "run", "smoke", *options, "--json", "-"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    folder = RunFolder(tmp_path / "run")
    log = folder.path / "flower.log"
    assert done.returncode == 0, done.stderr[-3000:] + (
        log.read_text(encoding="utf-8")[-3000:] if log.exists() else ""
    )
    module = saboteur()
    assert {grave.name for grave in graves.iterdir()} == {
        f"{leg}-{number}-{member}"
        for number, leg in enumerate(module.LEGS, 1)
        for member in module.victims(number)
    }

    rounds = [event for event in folder.events() if event["event"] == "round"]
    # after the masked leg a dead node's vector is still in the sum
    counted = {1: 10, 2: 10, 3: 12, 4: 12, 5: 12}
    assert {event["round"]: event["clients"]["ok"] for event in rounds} == counted

    # the sum is the plain sum of the survivors plus the accounted noise
    expected = torch.zeros(SIZE, dtype=torch.float64)
    variance = 0.0
    # the least nodes in a sum, one of which may be the one who looks at it
    honest = 2 * NODES // 3 + 1 - 1
    for number in range(1, ROUNDS + 1):
        out = module.victims(number) if number <= 2 else ()
        members = [client for client in range(NODES) if client not in out]
        expected += sum(module.known_update(client, SIZE).double() for client in members) / NODES
        variance += len(members) / honest * Z**2 / NODES**2
    model = load_file(list_checkpoints(folder.checkpoints)[-1])[
        "saboteur:KnownUpdate-0/model"
    ].double()
    noise = (model - expected) / math.sqrt(variance)
    assert abs(float(noise.std()) - 1) < 5 / math.sqrt(2 * SIZE), "not the accounted noise"
    assert abs(float(noise.mean())) < 5 / math.sqrt(SIZE), "the sum is off"
    direction = expected / expected.norm()
    assert abs(float((noise * direction).sum())) < 5, "noise is not independent of the sum"

    # epsilon is what anyone can recompute from the ledger
    lines = (folder.path / "population" / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    multipliers = [entry["multiplier"] for entry in entries if entry["type"] == "reserve"]
    mu = math.sqrt(sum(z**-2 for z in multipliers))
    offline = brentq(
        lambda e: norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu) - 1e-5,
        0,
        50,
        xtol=1e-12,
    )
    assert json.loads(done.stdout)["epsilon"] == pytest.approx(offline, abs=1e-6)
    assert len(multipliers) == ROUNDS
