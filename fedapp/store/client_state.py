"""Memories of clients between rounds, on the node that hosts them: one safetensors file a client
and round.

The server names the round whose memory a client continues from (the last one it accepted), so a
lost reply, a repeated message or a resumed run can never continue from a memory the server does not
know of.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fedapp.store.checkpoint import KEEP
from tasks.atomic import PRIVATE, write_bytes
from tasks.errors import FedappError


class MissingMemoryError(FedappError):
    """This node does not have the memory a client must continue from."""


class ClientState:
    """A :class:`strategies.cohort.MemoryStore` in a folder, for one method and seed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, client: int, version: int) -> Path:
        return self.folder / f"client-{client:06d}" / f"round-{version:06d}.safetensors"

    def read(self, client: int, version: int) -> Mapping[str, Tensor]:
        """Memory a client left in round ``version``, for those who only look; raises
        :class:`MissingMemoryError`."""
        try:
            return load_file(self._file(client, version))
        except (OSError, SafetensorError) as error:
            raise MissingMemoryError(
                f"client {client} has no readable memory of round {version} ({error})"
            ) from error

    def load(self, client: int, version: int) -> Mapping[str, Tensor]:
        memory, file = self.read(client, version), self._file(client, version)
        older = sorted(file.parent.glob("round-*.safetensors"))
        for other in older[
            : max(older.index(file) - KEEP, 0)
        ]:  # a run may be resumed from either checkpoint there is
            other.unlink(missing_ok=True)
        return memory

    def prune(self, client: int, below: int) -> None:
        """Forget what a client left in rounds before ``below``."""
        for file in self._file(client, 0).parent.glob("round-*.safetensors"):
            if int(file.stem.removeprefix("round-")) < below:
                file.unlink(missing_ok=True)

    def save(self, client: int, version: int, memory: Mapping[str, Tensor]) -> None:
        tensors = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in memory.items()
        }
        write_bytes(self._file(client, version), save(tensors), PRIVATE)
