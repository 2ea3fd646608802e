"""Is this process part of a simulation? Said where clients run, never by a message or a config.

A simulated node may show its pictures and takes folders the server names: they lie on the same
machine. A real one must not, whatever a run's configuration or its node-config says. So what counts
is how the process came to be: as an actor of Flower's Ray simulation, or inside a grid in memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_INSIDE: ContextVar[bool] = ContextVar("inside_a_simulation", default=False)


def inside() -> bool:
    """Whether clients that run here are simulated."""
    return _INSIDE.get() or _is_ray_actor()


@contextmanager
def simulating(really: bool = True) -> Iterator[None]:
    """Clients that run inside are simulated; ``really=False``: as if they were not."""
    token = _INSIDE.set(really)
    try:
        yield
    finally:
        _INSIDE.reset(token)


def _is_ray_actor() -> bool:
    """Whether Ray started this process to run an actor: a SuperNode never is one."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    return ray.get_runtime_context().get_actor_id() is not None
