"""Shared by all tests: small settings, one thread, and a run over the in-process runtime."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedapp.config.experiment import Experiment, known_keys
from fedapp.config.recipes import read_recipe
from fedapp.store.runfolder import RunFolder
from fedapp.workflows import WORKFLOWS, kind_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two cores are quickly oversubscribed; one thread also keeps sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class _Fallbacks(logging.Handler):
    """Collects what chunks of clients fell back from."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "trained one by one" in record.getMessage():
            self.found.append(record.getMessage())


@pytest.fixture(autouse=True)
def no_hidden_fallback(request: pytest.FixtureRequest) -> Iterator[None]:
    """A chunk of clients that fails as a whole is trained one by one, which would hide code that
    only works for one client: whoever provokes that says so."""
    log, heard = logging.getLogger("fedapp.cohort"), _Fallbacks()
    log.addHandler(heard)
    yield
    log.removeHandler(heard)
    if heard.found and request.node.get_closest_marker("falls_back") is None:
        pytest.fail(f"fell back from a chunk to single clients: {heard.found[0]}")


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained denoiser of 16 x 16 pictures on disk: everything about it is right but what it
    knows."""
    from tasks.talking_head.backbone import fresh
    from tasks.talking_head.codec import PatchPCA
    from tasks.talking_head.people import person

    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    pictures = torch.cat(
        [person(9, number, "ordinary", 1, 0, 4, 16).train[0].frames for number in range(8)]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = fresh(PatchPCA.fit(pictures, 4, 6), "frame", (16, 32), {"trained": "no: a test"})
    backbone.codec.residual_scale = 0.5
    backbone.save(folder)
    return folder


@pytest.fixture
def head(tiny_backbone: Path) -> dict[str, Any]:
    """Config changes that make a run a tiny talking head."""
    return {
        "task": "talking-head",
        "methods": "adapters",
        "rule": "isfa",
        "evaluation.uploads": False,
        "data.size": 16,
        "data.held-out": 2,
        "talking-head.patch": 4,
        "talking-head.backbone": str(tiny_backbone),
        "talking-head.clips": 2,
        "talking-head.frames": 4,
        "talking-head.sampling-steps": 1,
        "talking-head.rank": 2,
        "talking-head.alpha": 4,
        "learner.outer-steps": 2,
        "learner.adapters.personal-steps": 1,
        "learner.batch-size": 4,
        "evaluation.steps": "0,1",
        "rules.server-clip": 0.0,
    }


@pytest.fixture
def smoke(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``smoke(**{"rounds": 3})``: the run config of the smallest recipe in a fresh folder, with
    changes."""

    def config(**changes: Any) -> dict[str, Any]:
        values = (
            known_keys()
            | read_recipe("smoke")
            | {"run-dir": str(tmp_path / "run"), "report.page": False}
        )
        workflow = {"split-nerf": "exchanges", "head": "upload"}.get(str(changes.get("task")), "")
        workflow = str(changes.get("workflow", "")) or workflow
        if workflow in WORKFLOWS:  # which may refuse what the recipe sets for others
            defaults = known_keys()
            ignored = [key for key in read_recipe("smoke") if kind_of(workflow).ignores(key)]
            values |= {key: defaults[key] for key in ignored}
        return values | changes

    return config


@pytest.fixture
def experiment(smoke: Callable[..., dict[str, Any]]) -> Callable[..., Experiment]:
    """The same, parsed."""
    return lambda **changes: Experiment.from_run_config(smoke(**changes))


@pytest.fixture
def run(smoke: Callable[..., dict[str, Any]]) -> Callable[..., RunFolder]:
    """Run the real apps in process and return the run folder."""

    def go(nodes: int = 2, grid: Any = None, **changes: Any) -> RunFolder:
        from fedapp.client_app import app as client_app
        from fedapp.server_app import app as server_app
        from sim.inprocess import run_in_process

        values = smoke(**{"runtime.nodes": nodes, **changes})
        run_in_process(
            server_app, client_app, values, nodes, grid(client_app, nodes, values) if grid else None
        )
        return RunFolder(Path(values["run-dir"]))

    return go


@pytest.fixture
def named_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes whose draws follow from the seed, as under ``plain``: to compare a private run with
    another one number by number."""
    from fedapp.node.sums import SumsNode

    monkeypatch.setattr(SumsNode, "_secret", lambda self, order: None)


@pytest.fixture
def told(smoke: Callable[..., dict[str, Any]]) -> Callable[..., RunFolder]:
    """``told(events, **changes)``: the folder of a run that never was, with events written by
    hand."""

    def write(events: list[dict[str, Any]], **changes: Any) -> RunFolder:
        config = smoke(**changes)
        folder = RunFolder(Path(config["run-dir"]))
        folder.create(config, {})
        for event in events:
            folder.append(event)
        return folder

    return write
