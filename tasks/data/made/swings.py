"""Golf swings in GolfDB's layout (:mod:`tasks.data.layouts.golfdb`): a drawn figure, a club and a
course, two swings a player, eight events each, of 160 pixels per side."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tasks.data.layouts.golfdb import FRAMES, TABLE
from tasks.randomness import generator

SIDE = 160
SWINGS = 2
# of the club, degrees from hanging down, at address, toe-up, half-way back, top, half-way down,
# impact, half-way through, finish
ANGLES = (5.0, 80.0, 130.0, 230.0, 120.0, 0.0, -100.0, -220.0)


def write(folder: Path, holders: int, first: int = 0) -> None:
    """``golfDB_slice.csv`` and ``images_160``, of as many players as ``holders``, from ``first``
    on."""
    images = folder / FRAMES
    images.mkdir(parents=True)
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "id", "youtube_id", "player", "sex", "club", "view"])
        for number in range(first * SWINGS, (first + holders) * SWINGS):
            player = number // SWINGS
            table.writerow([number, number, "made", f"player {player}", "", "driver", "face-on"])
            for event, frame in enumerate(_swing(player, number % SWINGS)):
                values = (frame.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
                Image.fromarray(values).save(images / f"{number}_{event}.png")


def _swing(player: int, which: int) -> list[Tensor]:
    """Eight frames ``[SIDE, SIDE, 3]`` of a player, whose build, clothes and course are its own."""
    own = generator("made golfer", player)
    sky, grass, shirt, legs, skin = torch.rand(5, 3, generator=own)
    sky, grass = 0.5 + 0.5 * sky, 0.2 + 0.5 * grass
    tall, wide, lean, wave = torch.rand(4, generator=own).tolist()
    today = generator("made swing", player, which)
    shift, slow = (torch.rand(2, generator=today) - 0.5).tolist()
    line = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y], -1)
    horizon = 0.1 + 0.08 * torch.sin(4 * wave * x + 6 * lean)
    course = torch.where((y < horizon)[..., None], sky - 0.2 * (y[..., None] + 1), grass)
    frames = []
    for angle in ANGLES:
        turned = math.radians(angle * (1 + 0.15 * slow))
        picture = course
        hip = torch.tensor([0.1 * shift, 0.25])
        chest = hip + torch.tensor(
            [0.1 * (lean - 0.5) + 0.05 * math.sin(turned), -0.4 - 0.1 * tall]
        )
        hands = chest + 0.35 * torch.tensor([math.sin(turned), 0.3 + 0.7 * math.cos(turned)])
        head = hands + 0.55 * torch.tensor([math.sin(turned * 1.2), math.cos(turned * 1.2)])
        feet = [torch.tensor([0.1 * shift + side * (0.15 + 0.08 * wide), 0.8]) for side in (-1, 1)]
        limbs = [
            *((hip, foot, 0.07 + 0.03 * wide, legs) for foot in feet),
            (hip, chest, 0.12 + 0.05 * wide, shirt),
            (chest, hands, 0.05, skin * 0.6 + 0.3),
            (hands, head, 0.02, torch.full((3,), 0.15)),
            (chest + torch.tensor([0.0, -0.22]),) * 2 + (0.1, skin * 0.6 + 0.3),
        ]
        for start, end, radius, colour in limbs:
            picture = _capsule(picture, places, start, end, radius, colour)
        frames.append(picture)
    return frames


def _capsule(
    picture: Tensor, places: Tensor, start: Tensor, end: Tensor, radius: float, colour: Tensor
) -> Tensor:
    """A rounded line drawn over a picture, with an edge two pixels soft."""
    along = end - start
    share = ((places - start) @ along / along.square().sum().clamp(min=1e-9)).clamp(0, 1)
    apart = (places - start - share[..., None] * along).norm(dim=-1)
    inside = torch.sigmoid((radius - apart) * SIDE / 2)[..., None]
    return picture + (colour - picture) * inside
