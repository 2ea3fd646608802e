"""Cameras of heads as data sets write them: one reader each, all to the same :class:`Shot`.

- ``idr``: ``cameras.npz`` beside ``image/`` and ``mask/`` (IDR's layout of DTU; H3DS is in it too):
  ``world_mat_i`` times ``scale_mat_i`` is the projection, taken apart here;
- ``facescape``: ``params.json`` with ``i_K``, ``i_Rt``, ``i_distortion``, ``i_valid``;
- ``views``: ``neutral/`` and ``sensitive/``, each with a ``transforms.json`` (instant-ngp's).

All end in this project's conventions: poses are camera to world with x right, y up, z backwards;
pixel centres lie at halves (IDR's and FaceScape's matrices put them at whole numbers).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import RootModel

from tasks.data.layouts.reading import header, natural, read_json, unusable
from tasks.data.layouts.transforms import Scene, photograph

Matrix = NDArray[np.float64]
PICTURES = (".png", ".jpg", ".jpeg")
SKEW = 1e-3  # of the focal length
RIGID = 1e-3  # by which axes may be off right angles and unit length
BENT = 1e-3  # of a lens, at a corner, in picture widths
FLIP = np.diag([1.0, -1.0, -1.0])  # OpenCV's camera axes to OpenGL's
NEUTRAL, SENSITIVE, UNSAID = "neutral", "sensitive", ""


class Params(RootModel[dict[str, Any]]):
    """FaceScape's ``params.json``."""


@dataclass(frozen=True)
class Shot:
    """One photograph: its ``file``, its ``mask`` (``None``: the file's own alpha channel, if any),
    ``intrinsics [3, 3]`` in its own pixels, ``pose [4, 4]``, and which ``side`` its owner put it
    on."""

    file: Path
    mask: Path | None
    intrinsics: Matrix
    pose: Matrix
    side: str = UNSAID


def taken_apart(projection: Matrix) -> tuple[Matrix, Matrix]:
    """Intrinsics and pose of a projection ``[3, 4]`` (rows of pixels, OpenCV's axes).

    Raises:
        ValueError: it is that of a mirrored camera, or of none.
    """
    from scipy.linalg import rq

    whole = projection[:, :3]
    if not np.isfinite(projection).all() or abs(np.linalg.det(whole)) < 1e-12:
        raise ValueError("its matrix is no projection")
    intrinsics, turn = rq(whole)
    signs = np.sign(np.diag(intrinsics))
    intrinsics, turn = intrinsics * signs, turn * signs[:, None]
    # what the last row gives is depth: a mirrored camera has its depths the wrong way round
    if np.linalg.det(turn) < 0:
        raise ValueError("its axes are mirrored")
    if abs(intrinsics[0, 1]) > SKEW * abs(intrinsics[0, 0]):
        raise ValueError("its pixels are skewed, which is not modelled")
    pose = np.eye(4)
    pose[:3, :3] = turn.T @ FLIP
    pose[:3, 3] = -np.linalg.solve(whole, projection[:, 3])
    return intrinsics / intrinsics[2, 2], pose


def idr(folder: Path) -> list[Shot]:
    """Shots of ``cameras.npz``."""
    file = folder / "cameras.npz"
    images = numbered(folder / "image")
    masks = numbered(folder / "mask")
    with np.load(file) as listed:
        names = set(listed.files)
        found = []
        cameras = {int(name[10:]) for name in names if re.fullmatch(r"world_mat_[0-9]+", name)}
        if cameras != set(images):
            odd = sorted(cameras ^ set(images))[0]
            raise unusable(
                file, f"no picture of camera world_mat_{odd}" if odd in cameras
                else f"no camera world_mat_{odd} for {images[odd].name}",
                "pictures bear the numbers of their cameras: bring back what is missing, or take "
                "its camera out as well",
            )  # fmt: skip
        for index, image in images.items():
            if index not in masks:
                raise unusable(
                    folder / "mask", f"no mask for {image.name}",
                    "add a mask for every view, of the same number",
                )  # fmt: skip
            scale = listed[f"scale_mat_{index}"] if f"scale_mat_{index}" in names else (
                listed["scale_mat_0"] if "scale_mat_0" in names else np.eye(4)
            )  # fmt: skip
            try:
                refuse_uneven(scale)
                whole = shaped(listed[f"world_mat_{index}"], 4, 4) @ scale
                intrinsics, pose = taken_apart(whole[:3])
            except ValueError as error:
                raise unusable(file, f"camera {index}: {error}", "write it as IDR does") from None
            found.append(Shot(image, masks[index], halved(intrinsics), pose))
    return found


def facescape(folder: Path) -> list[Shot]:
    """Shots of ``params.json``; those that are not valid are left out."""
    file = folder / "params.json"
    listed = read_json(file, Params).root
    found = []
    for image in pictures(folder):
        number = image.stem
        if not listed.get(f"{number}_valid", True):
            continue
        missing = [name for name in ("K", "Rt") if f"{number}_{name}" not in listed]
        if missing:
            raise unusable(
                file, f"no {number}_{missing[0]} for {image.name}", "add its camera, or take the "
                "picture out",
            )  # fmt: skip
        width, height = listed.get(f"{number}_width", 1), listed.get(f"{number}_height", 1)
        try:
            intrinsics = shaped(listed[f"{number}_K"], 3, 3)
            moved = shaped(listed[f"{number}_Rt"], 3, 4)
        except ValueError as error:
            raise unusable(
                file, f"camera {number}: {error}", "write it as FaceScape does"
            ) from None
        bends = listed.get(f"{number}_distortion") or []
        refuse_bent(file, image, bends, intrinsics, width, height)
        pose = np.eye(4)
        pose[:3, :3] = moved[:3, :3].T @ FLIP
        pose[:3, 3] = -moved[:3, :3].T @ moved[:3, 3]
        mask = folder / "mask" / f"{number}.png"
        found.append(Shot(image, mask if mask.exists() else None, halved(intrinsics), pose))
    return found


def views(folder: Path) -> list[Shot]:
    """Shots of ``neutral/transforms.json`` and ``sensitive/transforms.json``."""
    found = []
    for side in (NEUTRAL, SENSITIVE):
        file = folder / side / "transforms.json"
        if not file.exists():
            if side == SENSITIVE:
                raise unusable(file, "no cameras of the sensitive views", "write them there")
            continue
        scene = read_json(file, Scene)
        width, height = scene.w or 0, scene.h or 0
        if not (width and height and scene.fl_x):
            raise unusable(
                file, "has no w, h and fl_x", "write width, height and focal length in pixels"
            )
        intrinsics = np.eye(3)
        intrinsics[0, 0], intrinsics[1, 1] = scene.fl_x, scene.fl_y or scene.fl_x
        intrinsics[0, 2] = width / 2 if scene.cx is None else scene.cx
        intrinsics[1, 2] = height / 2 if scene.cy is None else scene.cy
        bends = [scene.k1, scene.k2, scene.p1, scene.p2, scene.k3]
        for frame in scene.frames:
            image = photograph(file, frame)
            refuse_bent(file, image, bends, intrinsics, width, height)
            if header(image, upright=False) != (round(width), round(height)):
                raise unusable(
                    image, f"it is not {width:g} x {height:g} pixels as {file} says",
                    "write the cameras of the pictures as they are",
                )  # fmt: skip
            mask = folder / side / "masks" / f"{image.stem}.png"
            try:
                pose = shaped(frame.transform_matrix, 4, 4)
            except ValueError as error:
                raise unusable(file, f"{image.name}: {error}", "write 4 x 4 matrices") from None
            found.append(Shot(image, mask if mask.exists() else None, intrinsics, pose, side))
    return found


def halved(intrinsics: Matrix) -> Matrix:
    """Intrinsics of pixel centres at halves, from those of centres at whole numbers."""
    moved = intrinsics.copy()
    moved[:2, 2] += 0.5
    return moved


def refuse_bent(
    file: Path, image: Path, bends: Any, intrinsics: Matrix, width: float, height: float
) -> None:
    """Raise ``InputError`` for a lens whose picture is not straight: rays are."""
    terms = [float(value) for value in bends] + [0.0] * 5
    k1, k2, p1, p2, k3 = terms[:5]
    focal = float(intrinsics[0, 0])
    radius = 0.5 * float(np.hypot(width, height)) / focal
    bent = abs(k1 * radius**3 + k2 * radius**5 + k3 * radius**7)
    bent = (bent + 3 * (abs(p1) + abs(p2)) * radius**2) * focal / max(width, 1)
    if not bent <= BENT:
        raise unusable(
            file,
            f"the lens of {image.name} bends a corner by {bent:.3f} picture widths, which is not "
            "modelled",
            "undistort the photographs, and write their cameras without distortion",
        )


def shaped(values: Any, rows: int, columns: int) -> Matrix:
    """A finite matrix of that shape; raises ``ValueError`` for anything else."""
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != (rows, columns) or not np.isfinite(found).all():
        raise ValueError(f"its matrix is not {rows} x {columns} finite numbers")
    return found


def refuse_uneven(scale: Any) -> None:
    """Raise ``ValueError`` for a scale matrix that is no similarity."""
    part = shaped(scale, 4, 4)[:3, :3]
    gram = part @ part.T
    if np.abs(gram - np.eye(3) * gram[0, 0]).max() > RIGID * gram[0, 0] or not gram[0, 0]:
        raise ValueError("its scale matrix is no similarity")


def numbered(folder: Path) -> dict[int, Path]:
    """Pictures of a folder by the last number in their names; raises ``InputError`` for one that
    has none, or another's."""
    found: dict[int, Path] = {}
    for path in pictures(folder):
        digits = re.findall(r"[0-9]+", path.stem)
        if not digits or int(digits[-1]) in found:
            raise unusable(path, "its name has no number of its own", "number pictures and cameras")
        found[int(digits[-1])] = path
    return found


def pictures(folder: Path) -> list[Path]:
    """Picture files of a folder, in natural order."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    return sorted(found, key=natural)


READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], list[Shot]]]] = {
    "views": (
        lambda folder: (folder / SENSITIVE).is_dir(),
        views,
    ),  # an owner's sorting comes first
    "idr": (lambda folder: (folder / "cameras.npz").is_file(), idr),
    "facescape-photographs": (lambda folder: (folder / "params.json").is_file(), facescape),
}
