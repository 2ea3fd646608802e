"""Your own clips: a folder per client, in it films, gif files or folders of frames.

No data set of its own; FedMeNF (https://arxiv.org/abs/2508.06301) fits its fields to such clips::

    <client>/<clip>.mp4|mov|mkv|webm|avi|gif
    <client>/<clip>/*.png|jpg       frames in natural order: frame2 before frame10

Every frame counts, at the rate of the file; a task may take only the first ones (``data.frames``).
Films need PyAV (``pip install 'fedapp[video]'``), which is imported when the first one is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageSequence
from torch import Tensor

from tasks.data.layouts import DatasetLayout, Holder
from tasks.data.layouts.reading import (
    folder,
    header,
    is_named,
    natural,
    opened,
    passed_over,
    picture,
    pictures_in,
    stack,
    subfolders,
    told_of_others,
    unusable,
)
from tasks.data.pictures import prepare
from tasks.data.recordings.pyav import pyav
from tasks.data.recordings.upright import hides, main_video, upright

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer

FILMS = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif",
    ".3gp", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".ogv",
)  # fmt: skip


# ---------------------------------------------------------------------- mp4
@contextmanager
def _film(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A film, open at its first video stream; an error of FFmpeg, then or later, names the file."""
    av = pyav()
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = main_video(container)
            if stream is None:
                raise unusable(path, "has no video", "replace the file or take it out")
            if hides(stream):
                raise unusable(
                    path,
                    "its transparency cannot be decoded: what it hides would be shown",
                    "convert it to .mov (png or ProRes 4444), or flatten it",
                )
            yield container, stream
    except av.FFmpegError as error:
        raise unusable(
            path, f"cannot be decoded ({error})", "replace the file or take it out"
        ) from error


def _upright(path: Path) -> Iterator[Image.Image]:
    """The frames of a film, one at a time; telephones store how far to turn them."""
    with _film(path) as (container, stream):
        frames = container.decode(stream)
        first = next(frames, None)
        if first is None:
            raise unusable(path, "has no frames", "replace the file or take it out")
        for frame in chain([first], frames):
            yield Image.fromarray(upright(frame, stream))


# ---------------------------------------------------------------------- any clip
def _frames(path: Path, size: int, channels: int) -> Iterator[tuple[Path, Tensor]]:
    """Each frame with the file it comes from, scaled before the next one is decoded."""
    if path.is_dir():
        for file in pictures_in(path):
            yield file, picture(file, size, channels)
    elif path.suffix.lower() == ".gif":
        with opened(path) as image:
            for frame in ImageSequence.Iterator(image):
                yield path, prepare(frame, size, channels)
    else:
        for image in _upright(path):
            yield path, prepare(image, size, channels)


def _clips(client: Path) -> list[Path]:
    """Films and folders of frames of a client, in natural order."""
    return sorted((e for e in client.iterdir() if is_named(e, FILMS) or _is_folder(e)), key=natural)


def _is_folder(entry: Path) -> bool:
    return not entry.name.startswith(".") and entry.is_dir()


class Clips(DatasetLayout):
    """Clients with one clip or more; an item is a film or a folder of frames."""

    kind = "video"
    owned = True
    expected = "<client>/<clip>.mp4|gif, or <client>/<clip>/*.png|jpg"

    def found(self, root: Path) -> bool:
        clips = (clip for client in subfolders(root) for clip in _clips(client))
        return any(
            is_named(clip, FILMS) or any(is_named(entry) for entry in clip.iterdir())
            for clip in clips
        )

    def holders(self, root: Path) -> list[Holder]:
        root = folder(root)
        clients = []
        others: list[Path] = []
        for client in subfolders(root):
            clips = tuple(_clips(client))
            others += passed_over(client, FILMS)
            if not clips:
                raise unusable(
                    client, "a client's folder without clips", "put clips into it or remove it"
                )
            for clip in clips:
                if clip.is_dir() and not any(is_named(entry) for entry in clip.iterdir()):
                    raise unusable(
                        clip, "a clip's folder without pictures", "put frames into it or remove it"
                    )
            clients.append(Holder(client.name, clips))
        told_of_others(root, others, "films, gif files or folders of frames")
        if not clients:
            raise unusable(root, "nobody in layout 'clips'", f"expected {self.expected}")
        return clients

    def measure(self, item: Path) -> tuple[Path, tuple[int, int]]:
        if item.is_dir():
            first = pictures_in(item)[0]
            return first, header(first)
        if item.suffix.lower() == ".gif":
            return item, header(item)
        return item, next(
            _upright(item)
        ).size  # how a film is turned is known only with its first frame

    def load_video(self, item: Path, size: int, channels: int, most: int = 0) -> Tensor:
        return stack(islice(_frames(item, size, channels), most or None), "of the same clip")
