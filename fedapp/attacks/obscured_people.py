"""Pictures for the attack study of heads: of the people it is about, and of strangers that
attackers learn from.

Of everybody there are pictures of two days. On the first one (the *upload's*: light of a studio, no
expression) the probes are taken, and a few more that an attacker may have in a gallery: the easiest
case there is. On *another day* the light comes from elsewhere and the face does something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedapp.store.kept import Kept
from fedapp.studies.side_by_side import side_by_side
from tasks.data.people.person import person
from tasks.data.people.photograph import LIGHTS, Light, Portrait, photographs
from tasks.head.task import BACKGROUND, FOCAL, NEUTRAL, SENSITIVE, HeadTask, around
from tasks.randomness import generator
from tasks.settings import TaskSettings

STRANGERS = 10_000  # number of the first person attackers learn from
SAME, OTHER = 4, 8  # pictures of a gallery: of the upload's day, of another one
GROUP = 8  # people whose pictures are taken in one go
SMILE = ("mouthSmileLeft", "mouthSmileRight")
MOVES = ("jawOpen", "mouthPucker", "browInnerUp", "browDownLeft", "browDownRight", "mouthFunnel")


@dataclass(frozen=True)
class Album:
    """Pictures of P people, as colours in 8 bits ``[P, V, S, S, 3]``, and how far they are covered,
    alike ``[P, V, S, S]``: first the probes, then ``SAME``, then ``OTHER``."""

    colours: Tensor
    cover: Tensor
    probes: int

    def __len__(self) -> int:
        return len(self.colours)

    def images(self, index: slice = slice(None)) -> Tensor:
        """Colours in [0, 1] of a slice of views."""
        return self.colours[:, index].float() / 255


def album(
    settings: TaskSettings,
    numbers: Sequence[int],
    side: str,
    kept: Kept,
    tell: Callable[[str], None],
    workers: int = 0,
) -> Album:
    """The pictures of people from one ``side``, ``front`` or ``rear``; made in parallel, once."""
    name = ["album", side, numbers[0], len(numbers)]
    found = kept.read(name)
    if found is None:
        tell(f"pictures of {len(numbers)} people, {side}")
        groups = [numbers[start : start + GROUP] for start in range(0, len(numbers), GROUP)]
        results = dict(
            side_by_side(
                _group,
                range(len(groups)),
                lambda index: (settings, groups[index], side),
                _silent,
                str,
                workers,
            )
        )
        parts = [part for index in range(len(groups)) for part in results[index]]
        tensors = {
            "colours": torch.stack([part[0] for part in parts]),
            "cover": torch.stack([part[1] for part in parts]),
        }
        kept.write(name, {}, tensors)
    else:
        tensors = found[1]
    return Album(tensors["colours"], tensors["cover"], tensors["colours"].shape[1] - SAME - OTHER)


def _silent(_: str) -> None:
    return


def _group(
    settings: TaskSettings, numbers: Sequence[int], side: str
) -> list[tuple[Tensor, Tensor]]:
    return [_taken(settings, number, side) for number in numbers]


def _taken(settings: TaskSettings, number: int, side: str) -> tuple[Tensor, Tensor]:
    """Pictures of one person ``[V, S, S, 3]`` and cover ``[V, S, S]``, in 8 bits."""
    data = HeadTask(settings).client_data(number)
    assert data.portrait is not None and data.cover is not None and data.neutral is not None
    size = settings.data.size
    stream = generator("gallery", side, number)
    who = person(number, settings.head.style)
    if side == "front":
        images, covers = [data.sensitive.images], [data.cover]
    else:  # nobody asks how far these are covered
        images, covers = [data.neutral.images], [torch.ones(data.neutral.images.shape[:3])]
    for count, other_day in ((SAME, False), (OTHER, True)):
        cameras = around(count, SENSITIVE if side == "front" else NEUTRAL, size, stream)
        portrait, light = data.portrait, Light.studio()
        if other_day:
            portrait, light = Portrait.of(who, _expression(stream)), _elsewhere(stream)
        shots = photographs(portrait, cameras.poses, FOCAL * size, size, BACKGROUND, light)
        images.append(shots.images)
        covers.append(shots.cover)
    return _bytes(torch.cat(images)), _bytes(torch.cat(covers))


def _bytes(values: Tensor) -> Tensor:
    return (values * 255).round().to(torch.uint8)


def _expression(stream: torch.Generator) -> dict[str, float]:
    draws = torch.rand(2 + len(MOVES), generator=stream).tolist()
    found = dict.fromkeys(SMILE, 0.6 * draws[0])
    for name, draw in zip(MOVES, draws[2:], strict=True):
        found[name] = max(0.0, 0.8 * draw - 0.4)
    return found


def _elsewhere(stream: torch.Generator) -> Light:
    """The studio's lights turned about the vertical, stronger and weaker."""
    angle = (2 * torch.rand((), generator=stream) - 1) * 1.2
    directions = torch.tensor([direction for direction, _ in LIGHTS])
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    strengths = torch.tensor([strength for _, strength in LIGHTS])
    strengths = strengths * (0.6 + 0.8 * torch.rand(len(LIGHTS), generator=stream))
    return Light(torch.nn.functional.normalize(directions @ turn.T, dim=1), strengths)
