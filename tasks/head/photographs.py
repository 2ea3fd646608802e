"""Own photographs of heads: folders with cameras and masks become a person's views.

Every subfolder of ``data.path`` (or the folder itself) is a person in one of the formats of
:mod:`tasks.head.formats`. What a data set leaves open is settled here, on the device: the head is
moved to the origin and scaled into the field by its masks, turned so that it looks along +z
(``head.front``, ``head.up``), pictures are padded to squares of ``data.size`` and put on white.

A view is *neutral* if its camera stands behind the head (``NEUTRAL_FROM`` degrees in space from
where the face looks, and more); all others are sensitive. An owner who sorts views into
``neutral/`` and ``sensitive/`` is believed about sensitive ones; a neutral one that faces the
camera is refused unless ``head.facing-neutral`` says so. On real devices all of this is the
owner's to say (node-config ``front``, ``up``, ``facing-neutral``), never a run's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.data.layouts.reading import folder, header, opened, subfolders, unusable
from tasks.data.pictures import flattened
from tasks.errors import InputError, nearest
from tasks.fields.sdf import BOX
from tasks.head.formats import NEUTRAL, READERS, RIGID, SENSITIVE, UNSAID, Matrix, Shot
from tasks.head.views import Cameras, Coloured
from tasks.settings import TaskSettings

NEUTRAL_FROM = 125.0  # degrees from the front, of views nobody sorted
FACING = 105.0  # a view that was sorted as neutral is refused below
REACH = 0.62  # of a head from its middle, once it is scaled: the field's cube ends at 0.70
WHITE = 1.0
MOST = 0.95  # of a picture that a head may cover
SORTED = "views"
AXES = {"x": 0, "y": 1, "z": 2}
CLOSEST = 1.2 * BOX


class Taken(NamedTuple):
    """A person's views: ``neutral`` (``None``: there are none) and ``sensitive`` in colour, and how
    far the sensitive ones are covered ``[V, H, W]``."""

    neutral: Coloured | None
    sensitive: Coloured
    cover: torch.Tensor


class Photographs:
    """People under ``data.path``."""

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self.root = folder(Path(settings.data.path))
        if not settings.head.front:
            raise InputError(
                "head.front",
                "",
                "which way the heads look is not known, so no view can be taken as neutral",
                "name the axis of the data along which the faces look, such as +z",
            )
        layout = settings.data.layout
        if layout != "auto" and layout not in READERS:
            raise InputError(
                "data.layout",
                layout,
                "no such layout of heads",
                nearest(layout, [*READERS, "auto"]),
            )
        self.people = [place for place in [self.root, *subfolders(self.root)] if self.layout(place)]
        if not self.people:
            raise unusable(
                self.root,
                "nobody with cameras: no cameras.npz, params.json or sensitive/ in it or "
                "in a folder of it",
                "add the cameras in one of these formats (docs/heads.md)",
            )

    def layout(self, place: Path) -> str:
        """The format a folder is in; empty if it is in none."""
        asked = self.settings.data.layout
        found = next((name for name, (there, _) in READERS.items() if there(place)), "")
        if asked not in ("auto", found) and found == SORTED:
            raise unusable(
                place,
                f"its views are sorted into neutral and sensitive, which {asked} does not read",
                "leave data.layout out",
            )
        return found if asked in ("auto", found) else ""

    def person(self, index: int) -> tuple[str, Taken]:
        """The name and views of a person; raises ``InputError`` naming what is wrong."""
        if index >= len(self.people):
            raise unusable(
                self.root,
                f"{len(self.people)} people, and client {index} is not among them",
                "add people, or lower clients.total",
            )
        place = self.people[index]
        try:
            shots = READERS[self.layout(place)][1](place)
        except (ValueError, KeyError, IndexError, TypeError, OSError, BadZipFile) as error:
            raise unusable(
                place, f"its cameras cannot be read ({error})", "write them anew (docs/heads.md)"
            ) from error
        if not shots:
            raise unusable(place, "no photographs with cameras", "add some")
        return place.name, self._taken(place, shots)

    def _taken(self, place: Path, shots: list[Shot]) -> Taken:
        refuse_mixed(shots)
        poses = np.stack([shot.pose for shot in shots])
        refuse_skewed(place, shots, poses)
        masks = [_mask(shot) for shot in shots]
        poses = placed(place, shots, poses, masks, self._turn())
        size = self.settings.data.size
        images, covers, intrinsics = [], [], []
        for shot, mask in zip(shots, masks, strict=True):
            image, cover, matrix = _square(shot, mask, size)
            images.append(image)
            covers.append(cover)
            intrinsics.append(matrix)
        eyes = poses[:, :3, 3] / np.linalg.norm(poses[:, :3, 3], axis=1, keepdims=True)
        away = np.degrees(np.arccos(np.clip(eyes[:, 2], -1, 1)))  # in space: above counts as well
        rear = np.array(
            [self._is_neutral(shot, float(a)) for shot, a in zip(shots, away, strict=True)]
        )
        if rear.all():
            raise unusable(
                place, "no sensitive views", "add views from the front, or check head.front"
            )

        def part(chosen: NDArray[np.bool_]) -> tuple[Coloured, torch.Tensor]:
            index = torch.from_numpy(np.flatnonzero(chosen))
            cameras = Cameras(
                torch.from_numpy(poses).float()[index], torch.stack(intrinsics)[index], size, size
            )
            return Coloured(torch.stack(images)[index], cameras), torch.stack(covers)[index]

        sensitive, cover = part(~rear)
        return Taken(part(rear)[0] if rear.any() else None, sensitive, cover)

    def _is_neutral(self, shot: Shot, away: float) -> bool:
        if shot.side == UNSAID:
            return away >= NEUTRAL_FROM
        if shot.side == SENSITIVE:
            return False
        assert shot.side == NEUTRAL
        if away < FACING and not self.settings.head.facing_neutral:
            raise unusable(
                shot.file,
                f"a neutral view from {away:.0f} degrees off the front: it shows the face",
                "move it to sensitive/, or set head.facing-neutral if it may leave in colour",
            )
        return True

    def _turn(self) -> Matrix:
        """Rotation from the data's axes to ours (x right, y up, z the way the face looks)."""
        front, up = (_axis(text) for text in (self.settings.head.front, self.settings.head.up))
        if abs(front @ up) > 0:
            raise InputError(
                "head.up",
                self.settings.head.up,
                "is along head.front",
                "name the axis to the crown",
            )
        return np.stack([np.cross(up, front), up, front])


def _axis(text: str) -> Matrix:
    found = np.zeros(3)
    found[AXES[text[1]]] = 1.0 if text[0] == "+" else -1.0
    return found


def refuse_mixed(shots: list[Shot]) -> None:
    """Raise ``InputError`` where a person's photographs differ in size."""
    first = header(shots[0].file, upright=False)
    for shot in shots[1:]:
        if (size := header(shot.file, upright=False)) != first:
            raise unusable(
                shot.file,
                f"{size[0]} x {size[1]} pixels, but {shots[0].file.name} has {first[0]} x "
                f"{first[1]}",
                "bring a person's photographs to one size, and their cameras with them",
            )


def refuse_skewed(place: Path, shots: list[Shot], poses: Matrix) -> None:
    """Raise ``InputError`` for a pose that is no rigid motion."""
    for shot, pose in zip(shots, poses, strict=True):
        turn = pose[:3, :3]
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            reason = "its pose is not 4 x 4 finite numbers"
        elif np.abs(turn @ turn.T - np.eye(3)).max() > RIGID:
            reason = "its pose is not normalised: axes are not at right angles and of unit length"
        elif np.linalg.det(turn) < 0:
            reason = "its pose is mirrored"
        else:
            continue
        raise unusable(
            place, f"{shot.file.name}: {reason}", "write camera-to-world matrices of rigid motions"
        )


def placed(
    place: Path, shots: list[Shot], poses: Matrix, masks: list[NDArray[np.bool_]], turn: Matrix
) -> Matrix:
    """Poses around a head that is at the origin and fills the field, by its masks."""
    origins, rays, spans = [], [], []
    for shot, pose, mask in zip(shots, poses, masks, strict=True):
        rows, columns = np.nonzero(mask)
        if not len(rows):
            raise unusable(shot.file, "its mask is empty", "mark the head in it")
        matrix = shot.intrinsics
        middle = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        local = np.array(
            [
                (middle[0] - matrix[0, 2]) / matrix[0, 0],
                -(middle[1] - matrix[1, 2]) / matrix[1, 1],
                -1.0,
            ]
        )
        origins.append(pose[:3, 3])
        ray = pose[:3, :3] @ local
        rays.append(ray / np.linalg.norm(ray))
        far = np.hypot(columns + 0.5 - middle[0], rows + 0.5 - middle[1]).max()
        spans.append(far / matrix[0, 0])
    eye, ahead = np.stack(origins), np.stack(rays)
    across = np.eye(3) - ahead[:, :, None] * ahead[:, None]
    if len(shots) < 2 or np.linalg.eigvalsh(across.sum(0))[0] < 1e-3 * len(shots):
        raise unusable(
            place, "the cameras do not stand around the head", "add views from other sides"
        )
    middle = np.linalg.solve(across.sum(0), (across @ eye[:, :, None]).sum(0)[:, 0])
    depth = ((middle - eye) * ahead).sum(1)
    missed = np.linalg.norm(np.cross(middle - eye, ahead), axis=1)
    reach = float(np.median(np.array(spans) * depth))
    for index, shot in enumerate(shots):
        if depth[index] <= 0:
            raise unusable(
                shot.file,
                "its camera looks away from the head",
                "check its axes: poses are camera to world, the camera looks along -z (OpenGL)",
            )
        if missed[index] > reach:
            raise unusable(
                shot.file,
                f"what its mask shows lies {missed[index] / reach:.1f} head sizes from where "
                "the other cameras see the head",
                "check its camera, its principal point and its mask",
            )
        if depth[index] < CLOSEST / REACH * reach:
            raise unusable(shot.file, "its camera stands inside the head's field", "check its pose")
    found = poses.copy()
    found[:, :3, 3] = (eye - middle) * (REACH / reach)
    found[:, :3] = turn @ found[:, :3]
    return found


def _mask(shot: Shot) -> NDArray[np.bool_]:
    """Mask of the head ``[H, W]``."""
    if shot.mask is not None:
        with opened(shot.mask) as image:
            if image.has_transparency_data:
                raise unusable(
                    shot.mask,
                    "a mask with an alpha channel of its own: which of the two is meant?",
                    "save it as grey, white where the head is",
                )
            found = np.asarray(flattened(image, WHITE)[0].convert("L")) > 127
        width, height = header(shot.file, upright=False)
        if found.shape != (height, width):
            raise unusable(
                shot.mask,
                f"{found.shape[1]} x {found.shape[0]}, but its picture has {width} x {height}",
                "make masks of the pictures' size",
            )
        refuse_whole(shot.mask, found)
        return found
    with opened(shot.file) as image:
        alpha = flattened(image, WHITE)[1]
    if alpha is None:
        raise unusable(
            shot.file,
            "a view without a mask: neither a mask file nor an alpha channel",
            "add masks of the head (white on black), or save PNGs whose background is transparent",
        )
    there: NDArray[np.bool_] = np.asarray(alpha) > 127
    refuse_whole(shot.file, there)
    return there


def refuse_whole(file: Path, mask: NDArray[np.bool_]) -> None:
    """Raise ``InputError`` for a mask that leaves nothing out: the room would leave with the
    head."""
    if mask[0, [0, -1]].all() or mask.mean() > MOST:
        raise unusable(
            file,
            "its mask covers both upper corners or nearly all of the picture: it marks no head",
            "mark the head in white, everything else in black",
        )


def shares(before: int, after: int) -> Matrix:
    """How much of each of ``after`` pixels lies in each of ``before``, ``[after, before]``: exact
    area means (libraries' "area" and "box" move edges by up to half a pixel where sizes do not
    divide)."""
    edges = np.arange(after + 1) * (before / after)
    pixel = np.arange(before)
    low = np.maximum(edges[:-1, None], pixel)
    high = np.minimum(edges[1:, None], pixel + 1)
    found: Matrix = np.clip(high - low, 0, None) * (after / before)
    return found


def _square(
    shot: Shot, mask: NDArray[np.bool_], size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Picture on white ``[S, S, 3]``, cover ``[S, S]`` and intrinsics of the padded square."""
    with opened(shot.file) as image:
        colours = np.asarray(flattened(image, WHITE)[0], np.float32) / 255
    colours = np.where(mask[..., None], colours, WHITE).astype(np.float32)
    height, width = mask.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    whole = np.full((side, side, 3), WHITE, np.float32)
    whole[top : top + height, left : left + width] = colours
    cover = np.zeros((side, side), np.float32)
    cover[top : top + height, left : left + width] = mask
    weights = shares(side, size)
    small = [
        torch.from_numpy(weights @ part @ weights.T).float()
        for part in (*whole.transpose(2, 0, 1), cover)
    ]
    matrix = shot.intrinsics.copy()
    matrix[0, 2] += left
    matrix[1, 2] += top
    matrix[:2] *= size / side
    return torch.stack(small[:3], -1), small[3], torch.from_numpy(matrix).float()
