"""The guard around flwr's actor pool."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sim import ray_guard
from sim.ray_guard import placeable


@pytest.mark.parametrize(
    ("machines", "cpus", "gpus", "expected"),
    [
        ([{"CPU": 2}], 1, 0.0, 2),
        ([{"CPU": 5}, {"CPU": 2}], 3, 0.0, 1),  # per machine, not in sum
        ([{"CPU": 16, "GPU": 2}], 1, 0.35, 4),  # flwr counts 5; a share cannot span two cards
        ([{"CPU": 16, "GPU": 2}], 1, 0.6, 2),
        ([{"CPU": 16, "GPU": 8}], 1, 0.7, 8),
        ([{"CPU": 16, "GPU": 1}], 1, 0.33333334, 3),  # a third, as float32 sends it; flwr counts 2
        ([{"CPU": 16, "GPU": 1}], 1, 0.1, 10),
        ([{"CPU": 16, "GPU": 5}], 1, 2.0, 2),
        ([{"CPU": 1, "GPU": 4}], 1, 0.5, 1),
        ([{"CPU": 4}], 1, 0.5, 0),
    ],
)
def test_as_many_actors_as_ray_can_place(
    machines: Any, cpus: int, gpus: float, expected: int
) -> None:
    assert placeable(machines, cpus, gpus) == expected


def test_nothing_happens_outside_a_simulation_driver() -> None:
    """In a fresh process, because other tests import parts of flwr's simulation; looking must not
    import Ray."""
    code = (
        "import sys; from sim import ray_guard; "
        "assert ray_guard.install() is False; assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_actors_are_made_with_restarts_and_retries() -> None:
    made: list[dict[str, Any]] = []
    killed: list[str] = []

    class Actor:
        @staticmethod
        def options(**options: Any) -> SimpleNamespace:
            made.append(options)
            return SimpleNamespace(remote=lambda **_: "actor")

    class BasicActorPool:
        def __init__(
            self, actor_type: Any, client_resources: dict[str, Any], actor_kwargs: Any
        ) -> None:
            self.actors_capacity = module.pool_size_from_resources(client_resources)
            self.create_actor_fn = lambda: "unguarded"

    machines = [{"Resources": {"CPU": 16, "GPU": 2}}, {"Resources": {}}]
    module = SimpleNamespace(
        BasicActorPool=BasicActorPool,
        pool_size_from_resources=lambda _: 99,
        ray=SimpleNamespace(nodes=lambda: machines, kill=killed.append),
    )
    assert ray_guard.guard(module) and ray_guard.guard(module), "guarding twice is once"
    pool = module.BasicActorPool(Actor, {"num_cpus": 1, "num_gpus": 0.35}, None)
    assert pool.actors_capacity == 4 and pool.create_actor_fn() == "actor"
    pool.pool = ["one", "two"]
    pool.terminate_all_actors()
    assert killed == ["one", "two"]
    assert made == [
        {"num_cpus": 1, "num_gpus": 0.35, "max_restarts": -1, "max_task_retries": ray_guard.RETRIES}
    ]


def test_a_renamed_pool_is_reported_not_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert ray_guard.guard(SimpleNamespace()) is False
    assert "not installed" in caplog.text
