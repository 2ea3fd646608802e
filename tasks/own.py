"""One's own picture, clip or object, prepared as a run's clients prepare theirs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tasks.data import folder
from tasks.data.layouts import detect, open_layout
from tasks.data.layouts.clips import FILMS, Clips
from tasks.data.layouts.reading import pictures_in
from tasks.errors import InputError
from tasks.fitting import FieldTask
from tasks.nerf import RADIUS, NerfTask, refuse_outside, signal_of
from tasks.settings import DataSettings
from tasks.signals import Signal, sampled
from tasks.video import VideoTask

SHARE = 5  # one view in five is judged on, and not fitted to


class Own(NamedTuple):
    """A signal; of objects how far their cameras stand from the origin, and where a field of
    them begins and ends if it has limits of its own."""

    signal: Signal
    radius: float = RADIUS
    limits: tuple[float, float] | None = None


def own(task: FieldTask, data: DataSettings, path: Path) -> Own:
    """What lies at ``path``, as a run of ``task`` on ``data`` fits it.

    Args:
        task: of the run.
        data: its settings: size, channels, frames.
        path: a picture (task image), a film or a folder of frames (video), a folder of photographs
            with their cameras, in any layout that is known (nerf).

    Raises:
        InputError: it is not there, or of another kind than the task fits.
    """
    path = path.expanduser()
    if not path.exists():
        raise InputError("own data", str(path), "no such file or folder", "check the path")
    if isinstance(task, NerfTask):
        return _views(task, data, path)
    if isinstance(task, VideoTask):
        if path.is_file() and path.suffix.lower() not in FILMS:
            raise InputError(
                "own data", str(path), "no film, and this run's fields are of clips",
                f"give one of {', '.join(FILMS)}, or a folder of frames",
            )  # fmt: skip
        if path.is_dir():
            pictures_in(path)  # names what is not a picture
        frames = Clips().load_video(path, data.size, data.channels, data.frames)
        return Own(sampled(path.stem, frames))
    if not path.is_file():
        raise InputError(
            "own data", str(path), "not a file, and this run's fields are of pictures",
            "give one picture",
        )  # fmt: skip
    return Own(folder.load(path, data.size, data.channels))


def _views(task: NerfTask, data: DataSettings, path: Path) -> Own:
    layout = open_layout(detect(path))
    if layout.kind != "views":
        raise InputError(
            "own data", str(path), f"holds {layout.kind}, and this run's fields are of objects",
            f"expected e.g. {open_layout('transforms').expected}",
        )  # fmt: skip
    item = layout.holders(path)[0].items[0]
    views = layout.load_views(item, data.size)
    space = task.space
    if views.background != space.background:
        raise InputError(
            "own data", str(path),
            f"its background is {views.background:g}, and the run's {space.background:g}",
            "choose a run whose data have this background",
        )  # fmt: skip
    refuse_outside(
        views, space, task.own_limits,
        remedy="write near and far into the json that lie in the run's space, and scale the "
        "cameras with them",
    )  # fmt: skip
    judged = max(1, len(views.images) // SHARE)
    dealt = data.model_copy(
        update={"support_views": max(1, len(views.images) - judged), "query_views": judged,
                "views_alpha": 0.0}
    )  # fmt: skip
    radius = float(views.poses[:, :3, 3].norm(dim=1).mean())
    limits = (views.near, views.far) if task.own_limits else None
    return Own(signal_of(views, dealt, task.cut, task.own_limits), radius, limits)
