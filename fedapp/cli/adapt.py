"""``fedapp adapt`` and ``fedapp render``: a run's meta-learner on one's own data, at any size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedapp.cli.output import PLAIN, JsonOption, console, write_json
from tasks.errors import InputError
from tasks.targets import new_file, whole

if TYPE_CHECKING:
    from torch import Tensor

ForceOption = Annotated[bool, typer.Option("--force", help="write over what is there")]
PICTURE, FILM = (".png", ".jpg", ".jpeg"), ".gif"
FPS = 12
ANOTHER = "name another file, or add --force"


def adapt(
    path: Annotated[Path, typer.Argument(help="a run of task image, video or nerf")],
    picture: Annotated[Path | None, typer.Option(help="a picture of yours")] = None,
    clip: Annotated[
        Path | None, typer.Option(help="a film, or a folder of frames, of yours")
    ] = None,
    views: Annotated[
        Path | None, typer.Option(help="a folder of photographs of an object, with cameras")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="safetensors file to write; default: own.safetensors")
    ] = None,
    pixels: Annotated[
        int, typer.Option(min=0, max=2048, help="per side, of yours; 0: as the run's")
    ] = 0,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="of test-time optimisation")] = 64,
    rate: Annotated[
        float | None,
        typer.Option(help="step size (of SGD, unless --optimiser adam); default: see the docs"),
    ] = None,
    optimiser: Annotated[
        str, typer.Option(help="sgd or adam; default: whichever serves the data better")
    ] = "",
    render: Annotated[
        int, typer.Option(min=0, max=4096, help="also render, so many pixels per side")
    ] = 0,
    force: ForceOption = False,
    method: Annotated[str, typer.Option(help="default: the first one trained")] = "",
    seed: Annotated[int, typer.Option(min=-1, help="-1: the first")] = -1,
    target: JsonOption = "",
) -> None:
    """Fit a run's meta-learner to your own picture, clip or object, on this machine, and keep the
    field."""
    from fedapp.adapted import OPTIMISERS, Start
    from fedapp.store.runfolder import RunFolder
    from tasks.own import own

    given = {"--picture": picture, "--clip": clip, "--views": views}
    named = {option: value for option, value in given.items() if value is not None}
    wanted = {"image": "--picture", "video": "--clip", "nerf": "--views"}
    start = Start.of(RunFolder.open(path.resolve()), method, seed)
    option = wanted.get(start.experiment.task, "--picture")
    if list(named) != [option]:
        raise InputError(
            "adapt", " ".join(named) or "(nothing)",
            f"a run of task {start.experiment.task} is adapted to {option[2:]}",
            f"give {option}, alone",
        )  # fmt: skip
    file = new_file("--out", out or Path("own.safetensors"), (".safetensors",), force, ANOTHER)
    shown = None
    if render:
        beside = _beside(file, start.experiment.task, render)
        shown = new_file("--out", beside, (), force, ANOTHER)
    for written in filter(None, (file, shown)):
        if written.resolve() == named[option].expanduser().resolve():
            raise InputError("--out", str(written), "is your own data", "name another file")
    if pixels == 1:
        raise InputError("--pixels", 1, "one pixel is no picture", "2 or more, or leave it out")
    if rate is not None and not 0 < rate < 1e6:
        raise InputError("--rate", rate, "no step size", "a positive number, such as 0.01")
    if optimiser and optimiser not in OPTIMISERS:
        raise InputError("--optimiser", optimiser, "no such one", "sgd or adam")
    data = start.experiment.data
    if pixels:
        data = data.model_copy(update={"size": pixels})
    mine = own(start.task, data, named[option])
    told = sorted({0, *(4**k for k in range(1, 9) if 4**k < steps), steps})
    found = start.adapt(mine, told, rate, optimiser)
    found.save(file)
    for step, value in found.psnr.items():
        console.print(f"{step:6d} steps  {value:6.2f} dB", highlight=False)
    told_of = f"{found.about['optimiser']}, step size {found.about['rate']:g}, {start.arm}"
    console.print(f"{told_of}: {file}", **PLAIN)
    if shown is not None:
        write(found.render(render), shown)
        console.print(f"rendered: {shown}", **PLAIN)
    write_json(
        target,
        {
            "field": str(file), "psnr": {str(k): v for k, v in found.psnr.items()},
            "rate": found.about["rate"], "optimiser": found.about["optimiser"],
            "method": start.arm,
            "rendering": None if shown is None else str(shown),
        },
    )  # fmt: skip


def render(
    path: Annotated[Path, typer.Argument(help="a field that fedapp adapt wrote")],
    out: Annotated[Path, typer.Option(help="picture (.png, .jpg), or .gif of a clip or turntable")],
    size: Annotated[int, typer.Option(min=1, max=4096, help="pixels of the longer side")] = 512,
    frames: Annotated[int, typer.Option(min=0, help="of a clip or turntable; 0: its own")] = 0,
    force: ForceOption = False,
    target: JsonOption = "",
) -> None:
    """Render an adapted field at any size, without the run it came from."""
    from fedapp.adapted import Adapted

    found = Adapted.load(path)
    file = new_file(
        "--out", out, PICTURE if found.about["task"] == "image" else (FILM,), force, ANOTHER
    )
    write(found.render(size, frames), file)
    console.print(f"rendered: {file}", **PLAIN)
    write_json(target, {"out": str(file), "size": size})


def _beside(file: Path, task: str, size: int) -> Path:
    """``me-512.png`` beside ``me.safetensors``; ``me.png`` may be what it is made of."""
    return file.with_name(f"{file.stem}-{size}{'.png' if task == 'image' else FILM}")


def write(values: Tensor, file: Path) -> None:
    """A picture ``[H, W, 1 or 3]`` or frames ``[T, H, W, 1 or 3]`` as the file's ending says."""
    from PIL import Image

    pixels = (values * 255).round().byte().numpy()
    frames = [
        Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one)
        for one in (pixels if pixels.ndim == 4 else pixels[None])
    ]
    with whole(file) as beside:
        if file.suffix.lower() == FILM:
            rest = frames[1:]
            frames[0].save(beside, save_all=True, append_images=rest, duration=1000 // FPS, loop=0)
        else:
            frames[0].save(beside)
