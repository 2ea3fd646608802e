"""A run's fitted heads as files that other programs open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedapp.store.runfolder import RunFolder
from tasks.errors import InputError
from tasks.head.export import FORMATS, read_ply

MESHES = "meshes"


def export_meshes(
    folder: RunFolder, out: Path, method: str = "", seed: int = -1, client: int | None = None
) -> dict[str, Any]:
    """Write a run's meshes into ``out`` as ``.ply``, ``.obj`` and ``.glb``.

    Args:
        folder: a run that fitted heads.
        out: a folder; made if it is not there.
        method, seed, client: only these; empty, below 0 and ``None``: all.

    Raises:
        InputError: the run has no such mesh.
    """
    pattern = "-".join(
        (method or "*", "*" if seed < 0 else str(seed), "*" if client is None else f"{client:04d}")
    )
    files = sorted((folder.path / MESHES).glob(f"{pattern}.ply"))
    if not files:
        there = sorted(file.stem for file in (folder.path / MESHES).glob("*.ply"))
        raise InputError(
            "--method, --seed, --client",
            pattern,
            "the run has no such mesh",
            f"it has {', '.join(there[:12])}" if there else "wait for its last evaluation",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            "--out", str(out), f"cannot be made ({error.strerror})", "name another"
        ) from error
    written = []
    for file in files:
        mesh = read_ply(file)
        for ending, write in FORMATS.items():
            write(out / f"{file.stem}.{ending}", mesh)
            written.append(f"{file.stem}.{ending}")
    return {"out": str(out), "files": written}
