"""What a server saw of secure sums over a whole run, kept so that attacks can be tried on it.

``transcript/<arm>/<round>.safetensors`` of a run holds the model that was sent and one sum per
group of nodes, as it was unmasked: nothing that the server did not have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from tasks.atomic import make_folder

FOLDER = "transcript"
MOST_BYTES = 1 << 30  # of an arm's


class HeardSum(NamedTuple):
    """A sum over ``clients``, ``[P]``, in double precision."""

    clients: tuple[int, ...]
    total: Tensor


class HeardRound(NamedTuple):
    """A round as the server saw it: ``model [P]`` that it sent, and what came back."""

    number: int
    model: Tensor
    sums: tuple[HeardSum, ...]


class TranscriptFile:
    """The rounds of one arm, a file each: a resumed run goes on in the same folder.

    Args:
        run: folder of the run.
        arm: method and seed.
    """

    def __init__(self, run: Path, arm: str) -> None:
        self.folder = run / FOLDER / arm

    @staticmethod
    def fits(parameters: int, rounds: int) -> bool:
        """Whether a whole run's transcript is small enough to be kept."""
        return 12 * parameters * rounds <= MOST_BYTES

    def keep(self, heard: HeardRound) -> None:
        """Write a round down."""
        from safetensors.torch import save_file

        make_folder(self.folder)
        tensors = {"model": heard.model.contiguous().clone()}
        for index, one in enumerate(heard.sums):
            tensors[f"sum.{index}"] = one.total.contiguous().clone()
        members = json.dumps([list(one.clients) for one in heard.sums])
        save_file(tensors, self.folder / f"{heard.number:06d}.safetensors", {"clients": members})

    def read(self) -> list[HeardRound]:
        """All rounds of which a sum was unmasked, in order."""
        from safetensors import safe_open

        found = []
        for file in sorted(self.folder.glob("*.safetensors")):
            with safe_open(file, "pt") as content:
                members: Sequence[Sequence[int]] = json.loads(content.metadata()["clients"])
                sums = tuple(
                    HeardSum(tuple(clients), content.get_tensor(f"sum.{index}"))
                    for index, clients in enumerate(members)
                )
                found.append(HeardRound(int(file.stem), content.get_tensor("model"), sums))
        return found
