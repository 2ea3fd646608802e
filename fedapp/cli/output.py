"""Parts every verb of the command line shares: the console, the JSON output, common options."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tasks.errors import InputError

console = Console(stderr=True)
PLAIN: dict[str, Any] = {
    "highlight": False,
    "soft_wrap": True,
    "markup": False,
}  # for lines with paths and reasons


def _writable(target: str) -> str:
    """Refuse a target that could not be written when the work is done."""
    folder = Path(target).expanduser().resolve().parent
    if target not in ("", "-") and (
        not folder.is_dir() or Path(target).is_dir() or not os.access(folder, os.W_OK)
    ):
        raise InputError(
            "--json", target, "cannot be written", "name a file in a folder that exists, or -"
        )
    return target


JsonOption = Annotated[
    str,
    typer.Option(
        "--json", callback=_writable, help="write one JSON object here; - is standard output"
    ),
]
OverrideOption = Annotated[
    list[str], typer.Option("-o", help="key=value, any config key; may be repeated")
]


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
        Path(target).expanduser().write_text(text + "\n", encoding="utf-8")
