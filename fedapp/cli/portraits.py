"""``fedapp portraits``: a contact sheet of the procedural people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedapp.cli.output import PLAIN, JsonOption, console, write_json
from tasks.targets import new_file, whole

AZIMUTHS = (0.0, 40.0, -80.0, 180.0)
SMILE = {"jawOpen": 0.5, "mouthSmileLeft": 0.6, "mouthSmileRight": 0.6, "eyeSquintLeft": 0.5,
         "eyeSquintRight": 0.5}  # fmt: skip


def portraits(
    out: Annotated[Path, typer.Argument(help="a new PNG file")],
    count: Annotated[int, typer.Option(min=1, max=1000, help="how many people")] = 12,
    first: Annotated[int, typer.Option(min=0, help="number of the first one")] = 0,
    style: Annotated[str, typer.Option(help="hair: short, long or mixed")] = "mixed",
    size: Annotated[int, typer.Option(min=16, max=1024, help="pixels per side")] = 128,
    visemes: Annotated[
        bool, typer.Option("--visemes", help="one row a person: the fifteen shapes of a mouth")
    ] = False,
    target: JsonOption = "",
) -> None:
    """Draw procedural people from four sides, and with a smile: two in a row."""
    out = new_file("out", out, (".png",))
    import torch
    from PIL import Image

    from tasks.data.people.person import person
    from tasks.data.people.photograph import Portrait, photographs
    from tasks.head.task import FOCAL, looking

    cameras = looking(torch.tensor(AZIMUTHS), torch.full((len(AZIMUTHS),), 6.0), size)
    from tasks.data.people.visemes import VISEMES

    rows = []
    for number in range(first, first + count):
        someone = person(number, style)
        if visemes:
            shown = [Portrait.of(someone, units) for units in VISEMES.values()]
            front = [photographs(one, cameras.poses[:1], FOCAL * size, size) for one in shown]
            rows.append(torch.cat([one.images[0] for one in front], 1))
            continue
        shots = photographs(Portrait.of(someone), cameras.poses, FOCAL * size, size).images
        smile = photographs(Portrait.of(someone, SMILE), cameras.poses[:1], FOCAL * size, size)
        rows.append(torch.cat([*shots, smile.images[0]], 1))
    if visemes:
        console.print(f"from left to right: {' '.join(VISEMES)}", **PLAIN)
    if len(rows) % 2 and count > 1 and not visemes:
        rows.append(torch.ones_like(rows[0]))
    if count > 1 and not visemes:
        rows = [torch.cat(pair, 1) for pair in zip(rows[::2], rows[1::2], strict=True)]
    with whole(out) as beside:
        Image.fromarray((torch.cat(rows, 0) * 255).byte().numpy()).save(beside)
    console.print(f"{count} people: {out}", **PLAIN)
    write_json(target, {"picture": str(out), "people": count})
