"""Fitted heads of procedural people, kept on this machine: they follow from a number and settings,
take half a minute each, and every run of the same people needs them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.atomic import write_bytes
from tasks.caches import cache, ready

DIGEST = 32  # bytes behind the numbers: of a file that is damaged they do not match


def folder() -> Path:
    """Where they lie (:mod:`tasks.caches`)."""
    return cache("heads")


@lru_cache(1)
def sources() -> str:
    """Digest of the code that makes and fits people: another version of it has other heads."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256(f"{torch.__version__} {np.__version__}".encode())
    for file in sorted([*root.rglob("*.py"), *root.rglob("*.json")]):
        found.update(file.read_bytes())
    return found.hexdigest()


def remembered(asked: object, make: Callable[[], Tensor]) -> Tensor:
    """The vector of numbers that ``make`` makes, from disk if it has been made before.

    Args:
        asked: all it follows from, as JSON can hold it.
        make: it, if it is not there or its file is damaged.
    """
    text = json.dumps([sources(), asked], sort_keys=True, default=str)
    file = folder() / hashlib.sha256(text.encode()).hexdigest()[:40]
    if file.exists():
        data = file.read_bytes()
        if hashlib.sha256(data[:-DIGEST]).digest() == data[-DIGEST:]:
            return torch.from_numpy(np.frombuffer(data[:-DIGEST], np.float32).copy())
    ready(folder())  # before the work
    found = make()
    data = found.contiguous().numpy().astype(np.float32).tobytes()
    write_bytes(file, data + hashlib.sha256(data).digest())
    return found
