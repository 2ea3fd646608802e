"""Parts every verb of the command line shares: the console, the JSON output, common options."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from tasks.targets import new_file, not_written, whole

console = Console(stderr=True)
PLAIN: dict[str, Any] = {
    "highlight": False,
    "soft_wrap": True,
    "markup": False,
}  # for lines with paths and reasons


def _writable(target: str) -> str:
    """Refuse a target that could not be written when the work is done, or is something already."""
    if target not in ("", "-"):
        new_file("--json", target, remedy="name another file, or - for standard output")
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
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    file = new_file("--json", target)  # the work may have made it: --out of the same name
    if file.exists():  # a device or a pipe
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise not_written(file, error) from error
        return
    with whole(file) as beside:
        beside.write_text(text, encoding="utf-8")
