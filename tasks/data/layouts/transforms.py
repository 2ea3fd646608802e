"""Objects photographed from known cameras: ``transforms.json`` as the NeRF data sets and their
tools write it.

Mildenhall et al., "NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis", ECCV
2020, https://arxiv.org/abs/2003.08934 (Blender scenes); with ``fl_x`` in place of
``camera_angle_x`` as Instant NGP's converters write it,
https://github.com/NVlabs/instant-ngp. A folder is one object, or every folder in it is one::

    <object>/transforms.json         {camera_angle_x | fl_x,
                                      frames: [{file_path, transform_matrix}, ...]}
    <object>/<file_path>[.png]       below the json; with an alpha channel it is put on white

A Blender scene that has ``transforms_train.json`` instead gives its training views. Matrices are
camera-to-world, the camera looks along its -z with y up (OpenGL). ``near`` and ``far`` may stand in
the json; else they are Blender's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from tasks.data.cameras import Views
from tasks.data.layouts import DatasetLayout, Holder
from tasks.data.layouts.lens import Lens, focal_length
from tasks.data.layouts.reading import (
    MOST_VALUES,
    PICTURES,
    View,
    folder,
    header,
    read_json,
    refuse_other_size,
    subfolders,
    unusable,
    view,
)
from tasks.errors import InputError

log = logging.getLogger("flwr")

NAMES = ("transforms.json", "transforms_train.json")
NEAR = 2.0  # units of the scene, from the camera
FAR = 6.0
WHITE = 1.0  # grey level of the background
RIGID = 1e-2  # matrices rounded to two decimals still pass, a scale of 1 % does not
FACING = 0.9  # cosine between a camera's axis and the way to the object, from which it looks at it
CROSSING = 0.02  # of the cameras' axes: below that they are all but parallel
SAME_FOCAL = 0.01  # by which focal lengths of one object may differ


class Frame(Lens):
    """One photograph, with what its own camera says of itself. ``transform_matrix`` is read loosely
    here and held to its form by :func:`poses`."""

    file_path: str
    transform_matrix: list[list[float]]
    mask_path: str = ""


class Scene(Lens):
    """The parts of ``transforms.json`` that matter here."""

    frames: Sequence[Frame] = Field(min_length=1)
    near: float = Field(NEAR, gt=0)
    far: float = FAR


# ---------------------------------------------------------------------- cameras
def poses(file: Path, frames: Sequence[Frame], scale: float = 1.0) -> Tensor:
    """``[V, 4, 4]``, camera-to-world, translations divided by ``scale``; each has to be a finite
    rigid motion."""
    for frame in frames:
        rows = frame.transform_matrix
        if len(rows) != 4 or any(len(row) != 4 for row in rows):
            raise _no_pose(file, frame, "is not 4 x 4")
    matrices = torch.tensor([frame.transform_matrix for frame in frames], dtype=torch.float64)
    turns = matrices[:, :3, :3]
    away = (turns @ turns.mT - torch.eye(3, dtype=torch.float64)).abs().amax((1, 2))
    last = (matrices[:, 3] - torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)).abs().amax(1)
    finite = matrices.float().isfinite().all(2).all(1)  # as they are handed out
    rigid = (away < RIGID) & (last < RIGID)
    for index, frame in enumerate(frames):
        if not finite[index]:
            raise _no_pose(file, frame, "is not finite")
        if not rigid[index] or float(torch.linalg.det(turns[index])) < 0:
            raise _no_pose(
                file, frame, "is no rigid motion (a rotation, a translation and the row 0 0 0 1)"
            )
    matrices[:, :3, 3] /= scale
    return matrices.float()


def refuse_impossible(file: Path, every: Tensor, near: float, far: float) -> None:
    """Cameras around an object see it in front of them, between ``near`` and ``far``; raises
    :class:`InputError`.

    The object is taken to be where the optical axes come closest to each other (least squares).
    Axes that hardly cross, as of cameras side by side, say nothing.
    """
    eye = every[:, :3, 3].double()
    ahead = -every[:, :3, 2].double()
    across = torch.eye(3, dtype=torch.float64) - ahead[:, :, None] * ahead[:, None, :]
    total = across.sum(0)
    if len(every) < 2 or float(torch.linalg.eigvalsh(total)[0]) < CROSSING * len(every):
        return
    middle = torch.linalg.solve(total, (across @ eye[:, :, None]).sum(0)[:, 0])
    distance = ((middle - eye) * ahead).sum(1)
    if float(distance.median()) < 0:
        reason = "the cameras look away from what they stand around"
        raise unusable(
            file,
            reason,
            "write camera-to-world matrices in OpenGL's axes: OpenCV's have y and z reversed",
        )
    away = (middle - eye).norm(dim=1)
    at_it = distance > FACING * away  # who glances aside says nothing of where the object is
    outside = [
        index for index, one in enumerate(away.tolist()) if at_it[index] and not near <= one <= far
    ]
    if outside:
        first = outside[0]
        raise unusable(
            file,
            f"near = {near:g} and far = {far:g}, but {len(outside)} of {len(every)} cameras stand "
            f"outside of that from what all look at (frame {first}: {float(away[first]):.3g})",
            "write near and far of the scene into the json",
        )


def _no_pose(file: Path, frame: Frame, flaw: str) -> InputError:
    return unusable(
        file,
        f"transform_matrix of {frame.file_path!r} {flaw}",
        "write camera-to-world matrices in OpenGL's axes",
    )


# ---------------------------------------------------------------------- views
def photograph(file: Path, frame: Frame) -> Path:
    """The file of a frame: below the json's folder, with or without its ending; a leading slash
    means nothing."""
    relative = PurePosixPath(frame.file_path.replace("\\", "/").lstrip("/"))
    if not relative.name or ".." in relative.parts:
        reason = f"file_path {frame.file_path!r} names no file below the json's folder"
        raise unusable(file, reason, "put the photographs below it and write their relative paths")
    path = file.parent / relative
    candidates = [path] if path.suffix.lower() in PICTURES else []
    candidates += [path.with_name(path.name + ending) for ending in PICTURES]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise missing(candidates[0], file, frame)


def mask_of(file: Path, frame: Frame) -> Path | None:
    """The mask that a frame names, below the json's folder: white where the object is."""
    if not frame.mask_path:
        return None
    relative = PurePosixPath(frame.mask_path.replace("\\", "/").lstrip("/"))
    path = file.parent / relative
    if not relative.name or ".." in relative.parts or not path.is_file():
        raise unusable(
            file,
            f"mask_path {frame.mask_path!r} of {frame.file_path!r} names no file below it",
            "restore the mask, or take mask_path out of the json",
        )
    return path


def _refuse_strange(file: Path, scene: Scene) -> None:
    """Keys that bend pictures are refused by name; those that nobody here knows are logged."""
    unknown: dict[str, None] = {}
    for where, lens in [("", scene), *((f" of {one.file_path!r}", one) for one in scene.frames)]:
        if lens.axes != "opengl":
            raise unusable(
                file,
                f"camera_convention = {lens.axes!r}{where} is not read",
                "write camera-to-world matrices in OpenGL's axes: OpenCV's have y and z reversed",
            )
        bending, others = lens.strange()
        unknown |= dict.fromkeys(others)
        for name, value in bending.items():
            raise unusable(
                file,
                f"{name} = {value!r}{where} is not read, and says that the camera is no plain "
                "pinhole camera",
                "undistort the photographs and take it out, or write it as k1, k2, k3, p1, p2",
            )
    if unknown:
        log.warning("%s: nothing is done with %s", file, ", ".join(unknown))


def missing(path: Path, file: Path, frame: Frame) -> InputError:
    """A photograph that the json names is not there."""
    reason = f"no such file, but {file} has a frame {frame.file_path!r}"
    return unusable(path, reason, "restore the photograph or take the frame out of the json")


def load(
    file: Path,
    name: str,
    scene: Scene,
    size: int,
    most: int,
    *,
    near: float = NEAR,
    far: float = FAR,
    background: float = WHITE,
    scale: float = 1.0,
    find: Callable[[Path, Any], Path] = photograph,
) -> Views:
    """The scene's frames as :class:`Views`; every matrix is looked at, however few are decoded.

    Args:
        file: the json, for errors and as the place that photographs are relative to.
        name: of the object.
        scene: the parsed json.
        size: pixels per side that the central square is scaled to, the focal length with it; 0:
            photographs stay whole.
        most: number of photographs to decode at most (0: all), spread evenly over the list:
            neighbours there are neighbours in space.
        near: least distance of the object from a camera, in units of the scene after scaling.
        far: greatest one.
        background: grey level in [0, 1] put behind transparent pixels.
        scale: divisor of the cameras' translations.
        find: ``find(file, frame)`` is the photograph of a frame.
    """
    _refuse_strange(file, scene)
    if not 0 < near < far < math.inf:
        raise unusable(
            file, f"near = {near} and far = {far} enclose nothing", "write 0 < near < far"
        )
    every = poses(file, scene.frames, scale)
    count = len(scene.frames)
    chosen = (
        [index * count // most for index in range(most)] if 0 < most < count else list(range(count))
    )
    taken: list[View] = []
    first = file
    focal = 0.0
    for index in chosen:
        path = find(file, scene.frames[index])
        if (
            not taken
            and size == 0
            and len(chosen) * 3 * math.prod(header(path, upright=False)) > MOST_VALUES
        ):
            raise unusable(
                file, f"{len(chosen)} photographs at their own size are too many", "set data.size"
            )
        one = view(path, size, background, mask_of(file, scene.frames[index]))
        lens = scene.seen_by(scene.frames[index])
        length = focal_length(file, lens, one.native) * (size / one.side if size else 1.0)
        if not taken:
            first = path
            focal = length
        # Scaling makes squares of one size of anything, but photographs of unlike proportions lose
        # unlike margins.
        elif size == 0 or abs(length - focal) > SAME_FOCAL * focal:
            refuse_other_size(first, taken[0].native, path, one.native, f"of {name!r}")
        if abs(length - focal) > SAME_FOCAL * focal:
            raise unusable(
                file,
                f"{scene.frames[index].file_path!r} has a focal length of {length:.4g} pixels, the "
                f"first photograph {focal:.4g}: one is read for all",
                "give every camera an object of its own, or take the others out",
            )
        taken.append(one)
    masks: Tensor | None = None
    if any(one.mask is not None for one in taken):
        whole = torch.ones(taken[0].image.shape[:2], dtype=torch.bool)
        masks = torch.stack([whole if one.mask is None else one.mask for one in taken])
    images = torch.stack([one.image for one in taken])
    return Views(name, images, every[chosen], focal, near, far, background, masks)


# ---------------------------------------------------------------------- layout
def scene_file(parent: Path) -> Path | None:
    """The json of an object's folder, if it has one."""
    return next((parent / name for name in NAMES if (parent / name).is_file()), None)


def objects(folders: Sequence[Path], root: Path) -> list[Holder]:
    """One holder an object, named by its path below ``root``; an empty folder is an error, another
    one is logged."""
    found: list[Holder] = []
    for parent in folders:
        file = scene_file(parent)
        if file is not None:
            found.append(
                Holder(
                    parent.relative_to(root).as_posix() if parent != root else root.name, (file,)
                )
            )
        elif next(parent.iterdir(), None) is None:
            raise unusable(
                parent,
                "an empty folder in the place of an object",
                "remove it or restore its files",
            )
        else:
            log.warning("passed over, no %s in it: %s", NAMES[0], parent)
    return found


class Transforms(DatasetLayout):
    """Any objects with a ``transforms.json``; a client may hold several."""

    kind = "views"
    owned = False
    expected = "[<object>/]transforms.json (or transforms_train.json) with its photographs below it"

    def found(self, root: Path) -> bool:
        return scene_file(root) is not None or any(
            scene_file(parent) for parent in subfolders(root)
        )

    def holders(self, root: Path) -> list[Holder]:
        root = folder(root)
        found = objects([root] if scene_file(root) else subfolders(root), root)
        if not found:
            raise unusable(root, "no objects in layout 'transforms'", f"expected {self.expected}")
        return found

    def measure(self, item: Path) -> tuple[Path, tuple[int, int]]:
        path = photograph(item, read_json(item, Scene).frames[0])
        return path, header(path, upright=False)

    def load_views(self, item: Path, size: int, most: int = 0) -> Views:
        scene = read_json(item, Scene)
        views = load(item, item.parent.name, scene, size, most, near=scene.near, far=scene.far)
        refuse_impossible(item, poses(item, scene.frames), scene.near, scene.far)
        return views
