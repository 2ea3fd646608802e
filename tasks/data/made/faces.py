"""Animals in PetFace's layout (:mod:`tasks.data.layouts.petface`): every other one a cat, the rest
people; two photographs each, of 112 pixels per side."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasks.data.people.person import person
from tasks.data.people.photograph import Portrait, photographs
from tasks.head.task import FOCAL, looking
from tasks.randomness import generator

SIDE = 112
PHOTOGRAPHS = 2
FACE = (20, 25, 320, 300)  # of the cat in scikit-image's photograph: left, top, right, bottom
WARP = 0.08  # of the side, how far a corner of a cat's face may move


def write(folder: Path, holders: int, first: int = 0) -> None:
    """``images/cat/<number>`` and ``images/person/<number>``, as many as ``holders`` together,
    from ``first`` on."""
    for number in range(first, first + holders):
        species = "person" if number % 2 else "cat"
        home = folder / "images" / species / f"{number:06d}"
        home.mkdir(parents=True)
        pictures = _person(number) if number % 2 else _cat(number)
        for index, picture in enumerate(pictures):
            values = (picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
            Image.fromarray(values).save(home / f"{index:02d}.png")


def _person(number: int) -> list[Tensor]:
    """From two sides near the front, each on a background of that day."""
    draw = generator("made person", number)
    turns = 30 * (torch.rand(PHOTOGRAPHS, generator=draw) - 0.5)
    cameras = looking(turns, torch.full((PHOTOGRAPHS,), 4.0), SIDE)
    shots = photographs(Portrait.of(person(number)), cameras.poses, FOCAL * SIDE, SIDE)
    behind = 0.15 + 0.7 * torch.rand(PHOTOGRAPHS, 1, 1, 3, generator=draw)
    cover = shots.cover[..., None]
    return list(shots.images + (1 - cover) * (behind - 1))  # they are on white


def _cat(number: int) -> list[Tensor]:
    """The one cat, its face pulled about and its fur coloured by its number; a photograph moves
    the corners a little more and changes the light."""
    import skimage.data

    draw = generator("made cat", number)
    photograph = Image.fromarray(np.asarray(skimage.data.cat()))
    own = torch.rand(4, 2, generator=draw) - 0.5
    fur = 0.7 + 0.6 * torch.rand(3, generator=draw)
    gamma = math.exp(float(torch.rand((), generator=draw)) - 0.5)
    mirrored = bool(torch.rand((), generator=draw) < 0.5)
    found = []
    for _ in range(PHOTOGRAPHS):
        moved = 2 * WARP * own + 0.5 * WARP * (torch.rand(4, 2, generator=draw) - 0.5)
        left, top, right, bottom = FACE
        corners = torch.tensor([[left, top], [left, bottom], [right, bottom], [right, top]])
        corners = corners + moved * (right - left)
        quad = tuple(float(value) for value in corners.flatten())
        face = photograph.transform(
            (SIDE, SIDE), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC
        )
        if mirrored:
            face = face.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        values = torch.from_numpy(np.array(face, dtype=np.float32)) / 255
        light = 0.85 + 0.3 * float(torch.rand((), generator=draw))
        found.append(values.pow(gamma) * fur * light)
    return found
