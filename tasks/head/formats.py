"""Cameras of heads as data sets write them: one reader each, all to the same :class:`Shot`.

- ``idr``: ``cameras.npz`` beside ``image/`` and ``mask/`` (IDR's layout of DTU; H3DS is in it too):
  ``world_mat_i`` times ``scale_mat_i`` is the projection, taken apart here;
- ``facescape``: ``params.json`` with ``i_K``, ``i_Rt``, ``i_distortion``, ``i_valid``;
- ``views``: ``neutral/`` and ``sensitive/``, each with a ``transforms.json`` (instant-ngp's).

All end in this project's conventions: poses are camera to world with x right, y up, z backwards;
pixel centres lie at halves (IDR's and FaceScape's matrices put them at whole numbers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import RootModel

from tasks.data.layouts.reading import natural, read_json, unusable
from tasks.data.layouts.transforms import Scene, photograph

Matrix = NDArray[np.float64]
PICTURES = (".png", ".jpg", ".jpeg")
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
    pose = np.eye(4)
    pose[:3, :3] = turn.T @ FLIP
    pose[:3, 3] = -np.linalg.solve(whole, projection[:, 3])
    return intrinsics / intrinsics[2, 2], pose


def idr(folder: Path) -> list[Shot]:
    """Shots of ``cameras.npz``."""
    file = folder / "cameras.npz"
    images = pictures(folder / "image")
    masks = pictures(folder / "mask")
    with np.load(file) as listed:
        names = set(listed.files)
        found = []
        if len(masks) != len(images):
            raise unusable(
                folder / "mask", f"{len(masks)} masks for {len(images)} views",
                "add a mask for every view, of the same name",
            )  # fmt: skip
        for index, image in enumerate(images):
            if f"world_mat_{index}" not in names:
                raise unusable(
                    file, f"no camera world_mat_{index} for {image.name}", "add its camera, or "
                    "take the picture out",
                )  # fmt: skip
            scale = listed[f"scale_mat_{index}"] if f"scale_mat_{index}" in names else (
                listed["scale_mat_0"] if "scale_mat_0" in names else np.eye(4)
            )  # fmt: skip
            matrix = (listed[f"world_mat_{index}"] @ scale)[:3, :4].astype(np.float64)
            try:
                intrinsics, pose = taken_apart(matrix)
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
        intrinsics = np.asarray(listed[f"{number}_K"], float)
        refuse_bent(file, image, listed.get(f"{number}_distortion", []), intrinsics, width, height)
        moved = np.asarray(listed[f"{number}_Rt"], float)
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
            mask = folder / side / "masks" / f"{image.stem}.png"
            pose = np.asarray(frame.transform_matrix, float)
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


def pictures(folder: Path) -> list[Path]:
    """Picture files of a folder, in natural order."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    return sorted(found, key=natural)


READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], list[Shot]]]] = {
    "idr": (lambda folder: (folder / "cameras.npz").is_file(), idr),
    "facescape-photographs": (lambda folder: (folder / "params.json").is_file(), facescape),
    "views": (lambda folder: (folder / SENSITIVE).is_dir(), views),
}
