"""Keeps Flower's Ray simulation alive where flwr 1.41 and 1.42 do not.

1. A killed actor (out of memory, ``kill -9``) goes back into flwr's pool and fails every message it
   is given for the rest of the run. Here Ray restarts it and repeats the message; our clients'
   state is versioned by round, so a repeated message gives the same result.
2. flwr counts ``int(GPUs / share)`` actors, but a share cannot span two cards: 2 GPUs at 0.35 give
   5 actors of which Ray can place 4, and the run hangs. Here the pool is sized to what can be
   placed.

``install`` is called when the ClientApp module is imported; it does something only in the process
that drives a simulation, which imports that module before it builds its actor pool.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

DRIVER_MODULE = "flwr.server.superlink.fleet.vce.vce_api"
RETRIES = 2
RAY_QUANTUM = 1e-4  # Ray accounts for resources in steps of this size

log = logging.getLogger("flwr")


def placeable(nodes: Sequence[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """Number of actors of ``cpus`` cores and ``gpus`` cards that fit, given each machine's
    ``{"CPU": n, "GPU": n}``.

    >>> placeable([{"CPU": 16, "GPU": 2}], cpus=1, gpus=0.35)
    4
    """
    total = 0
    for resources in nodes:
        fit = int(resources.get("CPU", 0) / cpus) if cpus else sys.maxsize
        if gpus > 0:
            cards = int(resources.get("GPU", 0))
            share = round(gpus / RAY_QUANTUM)
            each = (
                cards * int(round(1 / RAY_QUANTUM) // share) if gpus <= 1 else cards // round(gpus)
            )
            fit = min(fit, each)
        total += fit
    return total


def install() -> bool:
    """Guard the actor pool of the simulation this process drives; False if it drives none."""
    if DRIVER_MODULE not in sys.modules:
        return False
    try:
        from flwr.simulation.ray_transport import ray_actor
    except ImportError as error:
        log.warning("ray guard not installed: %s", error)
        return False
    return guard(ray_actor)


def guard(ray_actor: Any) -> bool:
    """Patch the given ``ray_actor`` module once."""
    pool = getattr(ray_actor, "BasicActorPool", None)
    if pool is None or not hasattr(ray_actor, "pool_size_from_resources"):
        log.warning("ray guard not installed: this flwr names its actor pool differently")
        return False
    if getattr(pool, "fedapp_guarded", False):
        return True
    original_init = pool.__init__
    original_size = ray_actor.pool_size_from_resources

    def guarded_size(client_resources: dict[str, Any]) -> int:
        machines = [node["Resources"] for node in ray_actor.ray.nodes() if node["Resources"]]
        cpus = client_resources.get("num_cpus", 0)
        gpus = client_resources.get("num_gpus", 0.0)
        fit = placeable(machines, cpus, gpus)
        # an empty pool is refused by flwr itself, in its own words
        return fit if fit > 0 else original_size(client_resources)

    def guarded_init(
        self: Any, actor_type: Any, client_resources: dict[str, Any], actor_kwargs: Any
    ) -> None:
        original_init(self, actor_type, client_resources, actor_kwargs)
        options = {**client_resources, "max_restarts": -1, "max_task_retries": RETRIES}
        self.create_actor_fn = lambda: actor_type.options(**options).remote(**(actor_kwargs or {}))

    def guarded_terminate(self: Any) -> None:
        for actor in self.pool:  # flwr asks actors to exit; ours would be restarted and asked again
            ray_actor.ray.kill(actor)

    pool.terminate_all_actors = guarded_terminate
    ray_actor.pool_size_from_resources = guarded_size
    pool.__init__ = guarded_init
    pool.fedapp_guarded = True
    return True
