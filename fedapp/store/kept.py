"""Results of the parts of a long study, on disk as each is done: a study that is cut goes on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.atomic import write_json

if TYPE_CHECKING:
    from torch import Tensor


class Kept:
    """A folder of results, each under the digest of all it follows from.

    Args:
        folder: made if it is not there.
        about: what all results follow from: digest of the configuration, of the code, and so on.
    """

    def __init__(self, folder: Path, *about: str) -> None:
        self.folder = folder
        self.about = list(about)
        folder.mkdir(parents=True, exist_ok=True)

    def _stem(self, name: object) -> Path:
        text = json.dumps([*self.about, name], sort_keys=True)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def write(
        self, name: object, facts: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        """Keep a result under ``name`` (anything JSON can hold)."""
        from safetensors.torch import save_file

        stem = self._stem(name)
        if tensors:
            whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
            save_file(whole, stem.with_suffix(".safetensors"))
        # last: what it names is there
        write_json(stem.with_suffix(".json"), finite({"tensors": bool(tensors), "facts": facts}))

    def read(self, name: object) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The result under a name, if there is one; numbers that are none come back as ``None``."""
        from safetensors.torch import load_file

        stem = self._stem(name)
        file = stem.with_suffix(".json")
        if not file.exists():
            return None
        told = json.loads(file.read_text(encoding="utf-8"))
        tensors = load_file(stem.with_suffix(".safetensors")) if told["tensors"] else {}
        return told["facts"], tensors


def finite(value: object) -> object:
    """The same with ``None`` for numbers that are none (JSON has no other word for them)."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
