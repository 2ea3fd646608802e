"""Checkpoints: everything a run needs to go on as if it had never stopped.

One safetensors file a round, written atomically; its header carries the rest as JSON. No pickle.
Nothing random is stored because nothing random has a state: streams are derived from (seed, round,
client).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from strategies.federation import MODEL, Federation
from strategies.rule import Rule
from strategies.types import Snapshot
from tasks.atomic import write_bytes
from tasks.errors import InputError

FORMAT = 2
KEEP = 2
LEDGER = "ledger"


@dataclass
class Checkpoint:
    """State after ``round`` turns. ``identity`` is what must agree with the run: task, methods,
    rule, sizes.

    Keys: a tensor of an arm is ``<arm>/<name>``; ``state`` has one entry per arm, its facts, and
    :data:`LEDGER`, how far the ledger was. Nothing outside this class spells them.
    """

    round: int
    identity: dict[str, Any]
    state: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        round: int,
        identity: dict[str, Any],
        snapshots: Mapping[str, Snapshot],
        ledger: dict[str, Any] | None,
    ) -> Checkpoint:
        """Collect the snapshots of all arms, by name."""
        tensors = {
            f"{arm}/{name}": tensor
            for arm, snapshot in snapshots.items()
            for name, tensor in snapshot.tensors.items()
        }
        facts = {arm: snapshot.facts for arm, snapshot in snapshots.items()}
        return cls(round, identity, {**facts, LEDGER: ledger}, tensors)

    @property
    def arms(self) -> list[str]:
        """Names of the arms."""
        return [name for name in self.state if name != LEDGER]

    @property
    def ledger(self) -> dict[str, Any] | None:
        """Length and head of the ledger when this was written."""
        return self.state[LEDGER]

    def arm(self, name: str) -> Snapshot:
        """The snapshot of one arm; raises ``KeyError`` if there is none of that name."""
        prefix = f"{name}/"
        own = {
            key.removeprefix(prefix): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(prefix)
        }
        return Snapshot(own, self.state[name])

    def federation(self, name: str, rule: Rule) -> Federation:
        """An arm of rounds of sums as it was, with its ``rule``."""
        snapshot = self.arm(name)
        federation = Federation(rule, self.identity["clients"], snapshot.tensors[MODEL])
        federation.restore(self.round, snapshot)
        return federation


class CheckpointWriter:
    """Writes checkpoints beside the training: at most one is on its way, so at most one round is
    ever repeated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._on_its_way: Future[Path] | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Wait for the previous one (raising what it raised), then start this one.

        The tensors must not be written to afterwards; a round makes new ones.
        """
        self.flush()
        self._on_its_way = self._thread.submit(save_checkpoint, self.folder, checkpoint)

    def flush(self) -> None:
        """Return once everything given so far is on disk."""
        if self._on_its_way is not None:
            self._on_its_way.result()

    def close(self) -> None:
        self._thread.shutdown(wait=True)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint of its round and drop all but the newest two."""
    header = {
        "format": FORMAT,
        "round": checkpoint.round,
        "identity": checkpoint.identity,
        "state": checkpoint.state,
    }
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()
    }
    file = folder / f"round-{checkpoint.round:06d}.safetensors"
    write_bytes(file, save(tensors, metadata={"fedapp": json.dumps(header)}))
    for old in list_checkpoints(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return file


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, oldest first."""
    return sorted(folder.glob("round-*.safetensors"))


def read_header(file: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint; raises :class:`InputError` if it is damaged."""
    try:
        with safe_open(file, framework="pt") as content:
            return json.loads((content.metadata() or {})["fedapp"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            "checkpoint",
            str(file),
            f"unreadable ({type(error).__name__}: {error})",
            "delete it to use the one before",
        ) from error


def load_checkpoint(file: Path, identity: Mapping[str, Any]) -> Checkpoint:
    """Read a checkpoint; raises :class:`InputError` if it is damaged or belongs to another
    experiment."""
    remedy = "delete it to continue from the one before, or start a new run"
    try:
        with safe_open(file, framework="pt") as content:
            header = json.loads((content.metadata() or {})["fedapp"])
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            "checkpoint", str(file), f"unreadable ({type(error).__name__}: {error})", remedy
        ) from error
    if header["format"] != FORMAT:
        raise InputError(
            "checkpoint",
            str(file),
            f"has format {header['format']}, this version reads {FORMAT}",
            remedy,
        )
    for key, expected in identity.items():
        found = header["identity"].get(key)
        if found != expected:
            raise InputError(
                "checkpoint",
                str(file),
                f"was written by another experiment: its {key} is {found!r}, this run's is "
                f"{expected!r}",
                "resume the run that wrote it",
            )
    return Checkpoint(header["round"], header["identity"], header["state"], tensors)
