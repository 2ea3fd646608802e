"""Pictures and videos of a run as data URIs, so that a page can stand alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fedapp.store.runfolder import RunFolder

if TYPE_CHECKING:
    from markupsafe import Markup


class Film(NamedTuple):
    """A film as data URIs; ``kind``: mp4 or gif; ``still``: one frame, for paper."""

    kind: str
    uri: str
    still: str


class Shot(NamedTuple):
    """A picture or film of the first screen."""

    caption: str
    colour: str
    shown: Markup


class Line(NamedTuple):
    """A row of shots under a sentence that says what they are; ``least``: px, the narrowest one;
    ``most``: px, the tallest one."""

    title: str
    shots: list[Shot]
    least: int = 260
    most: int = 340


def picture(uri: str, alt: str) -> Markup:
    """A picture in a page."""
    from markupsafe import Markup

    return Markup('<img src="{}" alt="{}">').format(uri, alt)


def moving(film: Film, alt: str) -> Markup:
    """A film in a page: plays by itself, silently, again and again; on paper a frame of it."""
    from markupsafe import Markup

    played = (
        Markup('<img class="played" src="{}" alt="{}">')
        if film.kind != "mp4"
        else Markup('<video src="{}" title="{}" controls loop autoplay muted playsinline></video>')
    )
    if not film.still:
        return played.format(film.uri, alt)
    still = Markup('<img class="still" src="{}" alt="{}">')
    return played.format(film.uri, alt) + still.format(film.still, f"{alt} (a frame of a film)")


def _frame(film: Path) -> str:
    """The frame in the middle of a gif, as a data URI of a picture."""
    from PIL import Image, ImageSequence

    with Image.open(film) as moving, io.BytesIO() as file:
        frames = ImageSequence.all_frames(moving)
        frames[len(frames) // 2].convert("RGB").save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def shots(
    methods: Iterable[str],
    found: dict[str, str | None] | dict[str, Film | None],
    titles: dict[str, str],
    colours: dict[str, str],
    alt: str,
) -> list[Shot]:
    """The picture or film of each method that has one."""
    made = []
    for m in methods:
        one = found.get(m)
        if one is not None:
            mark = picture(one, alt) if isinstance(one, str) else moving(one, alt)
            made.append(Shot(titles[m], colours[m], mark))
    return made


class Media:
    """Pictures and videos by name; ``None`` where the run has none."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def __call__(self, name: str) -> str | None:
        """The data URI of a picture."""
        file = self.folder.pictures / f"{name}.png"
        if not file.exists():
            return None
        return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()

    def video(self, name: str) -> Film | None:
        """The mp4, or the gif where there is no mp4 (a run writes a gif in any case)."""
        gif = self.folder.videos / f"{name}.gif"
        for kind in ("mp4", "gif"):
            file = self.folder.videos / f"{name}.{kind}"
            if file.exists():
                mime = "video/mp4" if kind == "mp4" else "image/gif"
                data = base64.b64encode(file.read_bytes()).decode()
                still = _frame(gif) if gif.exists() else ""
                return Film(kind, f"data:{mime};base64,{data}", still)
        return None

    def films(self, prefix: str) -> list[str]:
        """Names of the videos with a prefix."""
        return [
            file.stem.removeprefix(f"{prefix}-")
            for file in self.folder.videos.glob(f"{prefix}-*.gif")
        ]

    def indices(self, prefix: str) -> list[str]:
        """Rest behind the prefix in the names of pictures, in order."""
        names = sorted(file.stem for file in self.folder.pictures.glob(f"{prefix}-*.png"))
        return [name.removeprefix(f"{prefix}-") for name in names]
