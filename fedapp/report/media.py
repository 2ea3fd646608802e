"""Pictures and videos of a run as data URIs, so that a page can stand alone."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from fedapp.store.runfolder import RunFolder

if TYPE_CHECKING:
    from markupsafe import Markup

Film = tuple[str, str]  # (mp4 or gif, data URI)


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
    """A film in a page: plays by itself, silently, again and again."""
    from markupsafe import Markup

    if film[0] != "mp4":
        return picture(film[1], alt)
    return Markup(
        '<video src="{}" title="{}" controls loop autoplay muted playsinline></video>'
    ).format(film[1], alt)


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

    def video(self, name: str) -> tuple[str, str] | None:
        """``(kind, data URI)`` of an mp4, or of the gif where there is no mp4."""
        for kind in ("mp4", "gif"):
            file = self.folder.videos / f"{name}.{kind}"
            if file.exists():
                mime = "video/mp4" if kind == "mp4" else "image/gif"
                return kind, f"data:{mime};base64,{base64.b64encode(file.read_bytes()).decode()}"
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
