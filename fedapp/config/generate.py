"""The configuration block of pyproject.toml, written from the settings' own defaults.

``make config`` (``python -m fedapp.config.generate``) writes it; a test holds the two together.
Flower reads only what stands in that block, so it cannot be left to the code alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fedapp.config.experiment import Experiment
from fedapp.place import ROOT
from tasks.atomic import write_bytes

TABLE = "tool.flwr.app.config"
BEGIN = f"[{TABLE}]\n"
END = "# ---------------------------------------------------------------- tools\n"


def block() -> str:
    """The TOML of every key with its default, a table per section."""
    return "\n".join(_tables(TABLE, Experiment().model_dump(by_alias=True))) + "\n"


def _tables(name: str, values: dict[str, Any]) -> list[str]:
    """A table's own keys first, then the tables inside it."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict)}
    lines = [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in plain.items()), ""]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _tables(f"{name}.{key}", value)
    return lines


def with_block(text: str) -> str:
    """The text of pyproject.toml with the block as it should be."""
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"pyproject.toml has no block between {BEGIN!r} and {END!r}")
    return pattern.sub(lambda _: block() + END, text)


def main(file: Path = ROOT / "pyproject.toml") -> None:
    """Write the block."""
    write_bytes(file, with_block(file.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    main()
