"""What every verb of the command line shares: the console, the JSON output, common options."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

console = Console(stderr=True)

JsonOption = Annotated[str, typer.Option("--json", help="write one JSON object here; - is standard output")]
OverrideOption = Annotated[list[str], typer.Option("-o", help="key=value, any config key; may be repeated")]


def escape(text: str) -> str:
    """Text that Rich must not read as markup."""
    return text.replace("[", r"\[")


def write_json(target: str, value: dict[str, Any]) -> None:
    """One JSON object to a file or standard output; nothing if no target was given."""
    if not target:
        return
    text = json.dumps(value, indent=2, allow_nan=False)
    if target == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(target).write_text(text + "\n")
