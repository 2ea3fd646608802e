"""``fedapp made``: made-up data in a published layout, so that the paper's recipes run anywhere."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from typing import Annotated

import typer

from fedapp.cli.output import PLAIN, JsonOption, console, write_json
from tasks.data.made import LAYOUTS, writer
from tasks.errors import InputError, nearest
from tasks.targets import new_folder, whole


def made(
    layout: Annotated[str, typer.Argument(help="petface or golfdb")],
    out: Annotated[Path, typer.Argument(help="a new folder")],
    holders: Annotated[int, typer.Option(min=1, max=10_000, help="animals or players")] = 56,
    first: Annotated[
        int,
        typer.Option(
            min=0,
            max=1_000_000,
            help="number of the first one: others than\n        those of another folder",
        ),
    ] = 0,
    target: JsonOption = "",
) -> None:
    """Write made-up data in a published layout: warped cats and people, drawn golfers."""
    if layout not in LAYOUTS:
        raise InputError("layout", layout, "nothing is made in it", nearest(layout, LAYOUTS))
    out = out.expanduser()
    if out.exists() or not out.resolve().parent.is_dir():
        raise InputError("out", str(out), "not a new folder in one that is there", "name another")
    new_folder("out", out)
    with whole(out) as beside:
        beside.mkdir()
        try:
            writer(layout)(beside, holders, first)
        except BaseException:
            rmtree(beside, ignore_errors=True)
            raise
    files = sum(1 for path in out.rglob("*") if path.is_file())
    console.print(f"{files} files of {holders} holders in {out}", **PLAIN)
    write_json(target, {"layout": layout, "holders": holders, "files": files, "folder": str(out)})
