"""Files that are either the old version or the new one, never half of each, whatever moment the
machine dies."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside the target, sync, rename over it, sync the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: Path, value: Any) -> None:
    """:func:`write_bytes` of readable JSON; refuses NaN, which JSON does not have."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
