"""Finding and checking the ledger a path stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedapp.config.pieces import Pieces
from fedapp.running.protection import ledger_folder
from fedapp.store.checkpoint import LEDGER, list_checkpoints, read_header
from fedapp.store.runfolder import RunFolder
from privacy.budget.ledger import LEDGER_FILE, Head, line_hash, read_entries
from privacy.budget.spent import Spent
from tasks.errors import InputError


def check(path: Path) -> dict[str, Any]:
    """Verify the ledger of a run folder, a population's folder or a file; raises
    :class:`InputError` if it fails."""
    file = path
    anchor: Head | None = None
    number = None
    if not path.exists():
        raise InputError(
            "path",
            str(path),
            "there is no such file or folder",
            "give a run, a population or a ledger",
        )
    if path.is_dir() and (path / "config.json").exists():
        folder = RunFolder.open(path)
        experiment = folder.experiment
        if not Pieces(experiment).release_type.private:
            raise InputError(
                "run",
                str(path),
                f"release {experiment.release} keeps no ledger",
                "verify a private run",
            )
        file = ledger_folder(experiment) / LEDGER_FILE
        for newest in list_checkpoints(folder.checkpoints)[-1:]:
            header = read_header(newest)
            kept = header["state"].get(LEDGER)
            number = header["round"]
            anchor = Head(kept["seq"], kept["hash"]) if kept else None
    elif path.is_dir():
        file = path / LEDGER_FILE
    entries = read_entries(file)
    if not entries:
        raise InputError(
            "ledger", str(file), "is empty", "restore it: a ledger without entries proves nothing"
        )
    lines = file.read_bytes().split(b"\n")[:-1]
    if anchor is not None and (
        anchor.seq >= len(lines) or line_hash(lines[anchor.seq]) != anchor.hash
    ):
        raise InputError(
            "ledger",
            str(file),
            f"lacks entry {anchor.seq} that the checkpoint of round {number} was written after",
            "restore the full ledger: entries were removed or changed",
        )
    spent = Spent.of(entries)
    return {
        "ledger": str(file),
        "entries": len(entries),
        "head": line_hash(lines[-1]),
        "charged": spent.charged,
        "released": spent.released,
        "aborted": spent.aborted,
        "checkpoint_round": number if anchor else None,
    }
