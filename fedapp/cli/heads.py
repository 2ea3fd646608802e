"""``fedapp pretrain``, ``people``, ``ablate``, ``export``, ``speak``: backbones in, adapters and
videos out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedapp.cli.output import PLAIN, JsonOption, OverrideOption, console, write_json
from tasks.errors import InputError, nearest
from tasks.targets import new_file, new_folder

if TYPE_CHECKING:
    from fedapp.store.runfolder import RunFolder

TUNING_RATE = 1e-5  # a usual step size for fine-tuning a denoiser of Stable Diffusion's size


def pretrain(
    task: Annotated[str, typer.Argument(help="talking-head")],
    out: Annotated[
        Path | None, typer.Option(help="folder to write; default: where runs look for it")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Stable-Diffusion weights or a backbone to go on from"),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(min=0, help="peak step size; 0: 2e-3 from nothing, 1e-5 from given weights"),
    ] = 0.0,
    batch: Annotated[
        int, typer.Option(min=0, help="frames a step; 0: 64 from nothing, 8 from given weights")
    ] = 0,
    recipe: Annotated[str, typer.Option(help="recipe whose settings count")] = "talking-head",
    overrides: OverrideOption = [],  # noqa: B006
    target: JsonOption = "",
) -> None:
    """Train a backbone on public (parametric) people, or make Stable-Diffusion weights listen, and
    save it."""
    from fedapp.cli.runs import progress_bar
    from fedapp.config.experiment import Experiment, known_keys
    from fedapp.config.recipes import read_overrides, read_recipe

    if task != "talking-head":
        raise InputError(
            "pretrain", task, "has no backbone to train", nearest(task, ["talking-head"])
        )
    settings = Experiment.from_run_config(
        known_keys() | read_recipe(recipe) | read_overrides(overrides)
    )
    from tasks.talking_head.backbone import Backbone
    from tasks.talking_head.model import backbone_folder, recipe_of, save_whole
    from tasks.talking_head.pretrain import check, going_on
    from tasks.talking_head.pretrain import pretrain as train

    if start is not None and out is None:
        raise InputError(
            "--out",
            "",
            "the usual place is for the small backbone alone",
            "name a folder with --out",
        )
    folder = out or backbone_folder(settings)
    if (folder / "unet").is_dir():
        raise InputError(
            "--out", str(folder), "already holds a backbone", "name another folder, or delete it"
        )
    first = Backbone.load(start) if start else None
    wanted = recipe_of(settings)
    if first is not None:  # weights that know something are moved gently
        wanted = replace(
            going_on(wanted, first, read_overrides(overrides)), rate=TUNING_RATE, batch=8
        )
    check(wanted, fitted=first is None)
    wanted = replace(wanted, rate=rate or wanted.rate, batch=batch or wanted.batch)
    with progress_bar() as tell:
        backbone = train(
            wanted, lambda step, steps, loss: tell(f"backbone, loss {loss:.2f}", step, steps), first
        )
    save_whole(backbone, folder)
    console.print(f"backbone: {folder}", **PLAIN)
    write_json(
        target, {"backbone": str(folder), "digest": backbone.digest, "about": backbone.about}
    )


def people(
    out: Annotated[Path, typer.Argument(help="a new or empty folder")],
    count: Annotated[int, typer.Option(min=1, max=10_000, help="how many people")] = 8,
    recipe: Annotated[str, typer.Option(help="recipe whose settings count")] = "talking-head",
    overrides: OverrideOption = [],  # noqa: B006
    target: JsonOption = "",
) -> None:
    """Write parametric people as mp4 and wav files in folders, with a manifest: how own recordings
    should lie."""
    from fedapp.config.experiment import Experiment, known_keys
    from fedapp.config.recipes import read_overrides, read_recipe
    from tasks.talking_head.source import write_people

    out = new_folder("out", out)
    settings = Experiment.from_run_config(
        known_keys() | read_recipe(recipe) | read_overrides(overrides)
    )
    manifest = write_people(out.resolve(), count, settings)
    console.print(f"{count} people: {manifest}", **PLAIN)
    write_json(target, {"manifest": str(manifest), "people": count})


def export(
    path: Annotated[Path, typer.Argument(help="a run folder")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    method: Annotated[str, typer.Option(help="default: the first one trained; of meshes all")] = "",
    seed: Annotated[int, typer.Option(help="default: the first; of meshes all")] = -1,
    client: Annotated[
        int | None,
        typer.Option(
            help="also this client's personal adapter, if it is on this machine; its mesh alone"
        ),
    ] = None,
    target: JsonOption = "",
) -> None:
    """Write a talking-head run's adapter as diffusers loads it, its backbone and a model card; or
    the meshes of fitted heads, as .ply, .obj and .glb."""
    from fedapp.export_meshes import MESHES, export_meshes
    from fedapp.store.runfolder import RunFolder

    folder = RunFolder.open(path.resolve())
    if (folder.path / MESHES).is_dir():
        files = export_meshes(folder, out.expanduser().resolve(), method, seed, client)
        console.print(f"{len(files['files'])} files: {out}", **PLAIN)
        return write_json(target, files)
    from fedapp.export import export_run

    facts = export_run(folder, out.expanduser().resolve(), method, seed, client)
    console.print(f"exported to {out}{_whose(folder, client)}", **PLAIN)
    write_json(target, facts)


def _whose(folder: RunFolder, client: int | None) -> str:
    """Owner of the personal adapter that was used: people know each other by name."""
    from fedapp.export import person_of

    return (
        ""
        if client is None
        else f", with the personal adapter of client {client}: {person_of(folder, client)}"
    )


def speak(
    path: Annotated[Path, typer.Argument(help="a talking-head run")],
    picture: Annotated[
        Path, typer.Option(help="a picture of the person; its centre square is taken")
    ],
    sound: Annotated[Path, typer.Option(help="what to say: any file with sound that FFmpeg reads")],
    out: Annotated[Path, typer.Option(help="mp4 to write")],
    client: Annotated[
        int | None,
        typer.Option(help="with this client's personal adapter on top, if it is on this machine"),
    ] = None,
    method: Annotated[str, typer.Option(help="default: the first one trained")] = "",
    seed: Annotated[int, typer.Option(help="default: the first")] = -1,
    force: Annotated[bool, typer.Option("--force", help="write over what is there")] = False,
    target: JsonOption = "",
) -> None:
    """One picture and speech in, a video of that person saying it out, with a run's adapters."""
    from fedapp.speak import speak as say
    from tasks.data.recordings.clips import FPS

    out = new_file("--out", out, (".mp4",), force, "name another file, or add --force")
    for own in (picture, sound):
        if out.exists() and own.exists() and out.samefile(own):
            raise InputError("--out", str(out), "is your own data", "name another file")
    from fedapp.store.runfolder import RunFolder

    folder = RunFolder.open(path.resolve())
    frames = say(folder, picture, sound, out, method, seed, client)
    console.print(f"{frames / FPS:.1f} s{_whose(folder, client)}: {out}", **PLAIN)
    write_json(target, {"out": str(out), "frames": frames})


def ablate(
    recipe: Annotated[str, typer.Argument(help="talking-head")],
    seeds: Annotated[str, typer.Option(help="seeds, separated by commas")] = "0,1,2",
    folder: Annotated[
        Path, typer.Option(help="where its runs lie; finished ones are not run again")
    ] = Path("runs/ablation"),
    overrides: OverrideOption = [],  # noqa: B006
    target: JsonOption = "",
) -> None:
    """Run a method with its parts switched on one by one; a table with intervals, gains within
    noise marked."""
    from typing import Any

    from fedapp.cli import runs as verbs
    from fedapp.config.recipes import read_overrides, written
    from fedapp.studies.ablation import ablate as run_all
    from fedapp.studies.ablation import markdown

    def run(changes: dict[str, Any], place: Path) -> None:
        given = [
            f"{key}={written(value)}" for key, value in {**changes, "run-dir": str(place)}.items()
        ]
        if place.exists():  # begun and cut off: it goes on
            experiment, run_folder, _ = verbs.reopen(place, "in-process")
        else:
            experiment, run_folder = verbs.prepare(recipe, given, place.parent, "in-process")
        verbs.execute(experiment, run_folder, "in-process", console)

    base = folder.resolve()
    result = run_all(
        recipe,
        seeds,
        base,
        read_overrides(overrides),
        run,
        lambda name: console.print(f"[bold]{name}[/]"),
    )
    table = markdown(result)
    (base / "ablation.md").write_text(table + "\n", encoding="utf-8")
    console.print(table, highlight=False, soft_wrap=True, markup=False)
    write_json(target, result)
