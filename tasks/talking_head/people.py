r"""Parametric people: a face drawn from an identity, a voice made of syllables, a mouth that
follows the voice.

A stand-in for recordings that cannot be shipped. Identity decides palette, geometry and pitch;
speaking *style* decides how far the mouth opens and how much it widens for the same sound, which no
reference picture shows. The true mouth opening of every frame is known. Everything is drawn from
named random streams: a person looks the same everywhere.

Mouth opening: :math:`o_t = g\, e(t + \ell)^{p}`, with e the syllable envelope of the voice in [0,
1], gain g and exponent p (style) and a lead :math:`\ell`: lips move before they are heard. Private
populations lead by 20 ms, the public one by none, as if it had been dubbed: a backbone trained in
public cannot know it, and all clients share it. Head sway and blinks do not follow the voice: no
model can know them, so they bound every score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.recordings.clips import FPS, RATE, SAMPLES_PER_FRAME, Clip
from tasks.randomness import generator
from tasks.talking_head.person import Person

STYLES = ("ordinary", "reserved")  # reserved: the mouth opens 40 % as far
RESERVED_GAIN = 0.4
LEAD = 0.02  # seconds by which private people's lips precede their voice
HARMONICS = 8


@dataclass(frozen=True)
class Identity:
    """Looks and voice of a person. Colours are RGB in [0, 1]; lengths are in units of half the
    picture."""

    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    eyes: tuple[float, float, float]
    lips: tuple[float, float, float]
    clothes: tuple[float, float, float]
    backdrop: tuple[float, float, float]
    face: tuple[float, float]  # half width, half height
    fringe: float
    eye_gap: float
    mouth: float  # half width
    brow: float
    pitch: float  # Hz
    gain: float
    power: float
    spread: float
    lead: float  # seconds


def _between(low: float, high: float, draw: float) -> float:
    return low + (high - low) * draw


def identity(seed: int, number: int, style: str = "ordinary", lead: float = LEAD) -> Identity:
    """Looks, voice and style of one person.

    Args:
        seed: names the population.
        number: names the person in it.
        style: one of :data:`STYLES`.
        lead: seconds by which lips precede the voice.
    """
    u = torch.rand(40, generator=generator("person", seed, number), dtype=torch.float64).tolist()
    tone = u[0]
    skin = (
        _between(0.42, 0.96, tone),
        _between(0.27, 0.78, tone),
        _between(0.18, 0.66, tone) + 0.06 * (u[1] - 0.5),
    )
    dark = (0.08 + 0.1 * u[2], 0.06 + 0.08 * u[2], 0.05 + 0.05 * u[2])
    fair = (0.75 + 0.15 * u[3], 0.55 + 0.2 * u[4], 0.2 + 0.15 * u[5])
    red = (0.55 + 0.15 * u[3], 0.22 + 0.1 * u[4], 0.1)
    hair = (dark, dark, fair, red)[int(u[6] * 4)]
    gain = (0.9 + 0.1 * u[7]) * (RESERVED_GAIN if style == "reserved" else 1.0)
    return Identity(
        skin=skin,
        hair=hair,
        eyes=((0.25, 0.45, 0.65), (0.35, 0.22, 0.1), (0.25, 0.45, 0.25))[int(u[8] * 3)],
        lips=(skin[0] * 0.85, skin[1] * 0.55, skin[2] * 0.6),
        clothes=(u[9], u[10], u[11]),
        backdrop=(0.35 + 0.5 * u[12], 0.35 + 0.5 * u[13], 0.35 + 0.5 * u[14]),
        face=(_between(0.44, 0.54, u[15]), _between(0.60, 0.70, u[16])),
        fringe=_between(-0.52, -0.36, u[17]),
        eye_gap=_between(0.17, 0.23, u[18]),
        mouth=_between(0.17, 0.24, u[19]),
        brow=_between(0.0, 1.0, u[20]),
        pitch=_between(95.0, 230.0, u[21]),
        gain=gain,
        power=_between(0.85, 1.15, u[22]),
        spread=_between(-0.02, 0.04, u[23]),
        lead=lead,
    )


# ---------------------------------------------------------------------- voice
def speech(person: Identity, seconds: float, *key: int | str) -> tuple[Tensor, Tensor]:
    """``(audio [n] at 16 kHz, envelope [n] in [0, 1])``: syllables of random length and strength,
    with pauses."""
    draw = generator("speech", *key)
    count = round(seconds * RATE)
    time = torch.arange(count, dtype=torch.float64) / RATE
    envelope = torch.zeros(count, dtype=torch.float64)
    start = -0.1 + 0.1 * float(torch.rand((), generator=draw))
    while start < seconds:
        u = torch.rand(4, generator=draw, dtype=torch.float64).tolist()
        length = _between(0.14, 0.28, u[0])
        strength = 0.0 if u[1] < 0.12 else _between(0.35, 1.0, u[2])  # now and then a pause
        inside = (time >= start) & (time < start + length)
        bump = torch.sin(math.pi * (time - start) / length).clamp(min=0) ** 1.5
        envelope = torch.where(inside, torch.maximum(envelope, strength * bump), envelope)
        start += length * _between(0.85, 1.1, u[3])
    wander = 1 + 0.04 * torch.sin(
        2 * math.pi * 3.1 * time + 6.28 * float(torch.rand((), generator=draw))
    )
    phase = 2 * math.pi * torch.cumsum(person.pitch * wander, 0) / RATE
    voice = sum(torch.sin(k * phase) / k**1.2 for k in range(1, HARMONICS + 1))
    breath = torch.randn(count, generator=draw, dtype=torch.float64)
    audio = 0.25 * envelope * voice + 0.002 * breath
    return audio.clamp(-1, 1).float(), envelope.float()


# ---------------------------------------------------------------------- face
def _soft(distance: Tensor, width: float) -> Tensor:
    """1 inside (negative distance), 0 outside, with an edge of about ``width``."""
    return torch.sigmoid(-distance * (4.0 / width))


def _ellipse(
    x: Tensor,
    y: Tensor,
    cx: Tensor | float,
    cy: Tensor | float,
    a: Tensor | float,
    b: Tensor | float,
) -> Tensor:
    """Signed distance to an axis-parallel ellipse, to first order."""
    a, b = torch.as_tensor(a).clamp(min=1e-3), torch.as_tensor(b).clamp(min=1e-3)
    u, v = (x - cx) / a, (y - cy) / b
    radius = torch.sqrt(u * u + v * v + 1e-9)
    slope = torch.sqrt((u / a) ** 2 + (v / b) ** 2 + 1e-9) / radius
    return (radius - 1) / slope.clamp(min=1e-3)


def _paint(
    image: Tensor, cover: Tensor, colour: tuple[float, float, float], strength: float = 1.0
) -> Tensor:
    cover = (cover * strength)[..., None]
    return image * (1 - cover) + torch.tensor(colour, dtype=image.dtype) * cover


def _shade(colour: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    return tuple(min(1.0, c * factor) for c in colour)  # type: ignore[return-value]


def draw(person: Identity, opening: Tensor, sway: Tensor, blink: Tensor, size: int) -> Tensor:
    """Frames ``[T, size, size, 3]`` in [0, 1].

    Args:
        person: looks.
        opening: of the mouth, ``[T]`` in [0, 1].
        sway: of the head, ``[T, 2]`` (x, y) in units of half the picture.
        blink: closing of the eyes, ``[T]`` in [0, 1].
        size: pixels per side.
    """
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size * 2 - 1
    grid_y, grid_x = torch.meshgrid(axis, axis, indexing="ij")
    frames = len(opening)
    edge = 4.0 / size
    still_x = grid_x.expand(frames, -1, -1)
    still_y = grid_y.expand(frames, -1, -1)
    x, y = still_x - sway[:, 0, None, None], still_y - sway[:, 1, None, None]
    opening = opening[:, None, None]
    blink = blink[:, None, None]

    light = 1.0 - 0.25 * still_y[..., None]
    image = (torch.tensor(person.backdrop) * light).clamp(0, 1)
    image = _paint(
        image, _soft(_ellipse(still_x, still_y, 0.0, 1.15, 0.85, 0.55), edge), person.clothes
    )
    image = _paint(
        image, _soft(_ellipse(x, y, 0.0, 0.62, 0.2, 0.35), edge), _shade(person.skin, 0.82)
    )
    a, b = person.face
    image = _paint(image, _soft(_ellipse(x, y, 0.0, -0.12, a + 0.09, b + 0.06), edge), person.hair)
    face = _soft(_ellipse(x, y, 0.0, 0.02, a, b), edge)
    forehead = _soft(person.fringe - y - 0.12 * x * x, edge)
    image = _paint(image, face * forehead, person.skin)
    image = _paint(image, face * forehead * (x / a).clamp(0, 1), _shade(person.skin, 0.8), 0.35)
    for side in (-1.0, 1.0):
        cx = side * person.eye_gap
        eye = _soft(_ellipse(x, y, cx, -0.12, 0.085, 0.05 * (1 - 0.85 * blink)), edge)
        image = _paint(image, eye, (0.96, 0.96, 0.95))
        image = _paint(
            image, eye * _soft(_ellipse(x, y, cx, -0.12, 0.045, 0.045), edge), person.eyes
        )
        image = _paint(
            image, eye * _soft(_ellipse(x, y, cx, -0.12, 0.02, 0.02), edge), (0.05, 0.05, 0.05)
        )
        brow = _soft(
            _ellipse(x, y, cx, -0.24 - 0.03 * person.brow, 0.1, 0.018 + 0.012 * person.brow), edge
        )
        image = _paint(image, brow, _shade(person.hair, 0.8))
    nose = _soft(_ellipse(x, y, 0.02, 0.08, 0.035, 0.11), edge)
    image = _paint(image, nose, _shade(person.skin, 0.85), 0.5)

    width = person.mouth + person.spread * opening
    middle = 0.34 + 0.05 * opening
    lips = _soft(_ellipse(x, y, 0.0, middle, width + 0.035, 0.05 + 0.15 * opening), edge)
    inside = (
        lips
        * _soft(_ellipse(x, y, 0.0, middle, width, 0.01 + 0.13 * opening), edge)
        * (opening * 8).clamp(0, 1)
    )
    image = _paint(image, lips, person.lips)
    image = _paint(image, inside, (0.16, 0.04, 0.05))
    teeth = inside * _soft(y - (middle - 0.075 * opening - 0.02), edge)
    image = _paint(image, teeth, (0.93, 0.92, 0.88), 0.9)
    return image.clamp(0, 1)


def clip_of(person: Identity, name: str, frames: int, size: int, *key: int | str) -> Clip:
    """One recording.

    Args:
        person: looks and voice.
        name: of the clip.
        frames: its length.
        size: pixels per side.
        key: names its random streams.
    """
    audio, envelope = speech(person, frames / FPS + person.lead, *key)
    middle = torch.arange(frames) * SAMPLES_PER_FRAME + SAMPLES_PER_FRAME // 2
    opening = person.gain * envelope[middle + round(person.lead * RATE)] ** person.power
    stream = generator("motion", *key)
    u = torch.rand(6, generator=stream).tolist()
    time = torch.arange(frames) / FPS
    sideways = torch.sin(6.28 * ((0.4 + 0.4 * u[0]) * time + u[1]))
    updown = torch.sin(6.28 * ((0.5 + 0.5 * u[2]) * time + u[3]))
    sway = 0.016 * torch.stack([sideways, updown], 1)
    blink = torch.exp(-(((time - 4.0 * u[4] + 0.5) / 0.08) ** 2))
    return Clip(
        name, draw(person, opening, sway, blink, size), audio[: frames * SAMPLES_PER_FRAME], opening
    )


def person(
    seed: int,
    number: int,
    style: str,
    train: int,
    held_out: int,
    frames: int,
    size: int,
    lead: float = LEAD,
) -> Person:
    """A person with clips; the reference is the calmest frame of one more.

    Args:
        seed: names the population.
        number: names the person in it.
        style: one of :data:`STYLES`.
        train: number of clips to train on.
        held_out: number of clips held out.
        frames: length of each.
        size: pixels per side.
        lead: seconds by which lips precede the voice.
    """
    who = identity(seed, number, style, lead)
    name = f"person-{number:04d}"
    recorded = [
        clip_of(who, f"{name}/clip-{index:02d}", frames, size, seed, number, index)
        for index in range(train + held_out)
    ]
    other = clip_of(who, f"{name}/reference", frames, size, seed, number, -1)
    assert other.opening is not None, "parametric clips know their opening"
    return Person(
        name, other.frames[int(other.opening.argmin())], recorded[:train], recorded[train:]
    )
