"""Films as a player shows them: turned, mirrored, with pixels that are not square, and the sound
track that somebody speaks on."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from recording_kit import write_raw
from torch import Tensor

from tasks.data.layouts.clips import Clips
from tasks.data.recordings.clips import FPS, RATE, UnusableClipError
from tasks.data.recordings.reading import probe, read_clip, read_sound
from tasks.data.recordings.upright import upright
from tasks.talking_head.people import clip_of, identity

av = pytest.importorskip("av")
SIZE = 32


def speaking(frames: int) -> Any:
    return clip_of(identity(0, 1), "talk", frames, SIZE, "test")


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def test_a_rotated_recording_is_upright(tmp_path: Path) -> None:
    """Stored a quarter turn clockwise, to be turned back by the player."""
    clip = speaking(10)
    write_raw(
        tmp_path / "a.mp4",
        torch.rot90(clip.frames, -1, (1, 2)),
        Fraction(25),
        [clip.audio],
        RATE,
        turn=90,
    )
    assert psnr(read_clip(tmp_path / "a.mp4", SIZE, 10).frames, clip.frames) > 25


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("a", "b"), [(1, 0), (0, 1), (-1, 0), (0, -1)])
def test_a_film_is_shown_as_its_display_matrix_says(a: int, b: int, mirrored: bool) -> None:
    """All four quarters, and mirrored as front cameras store them: a stored pixel (x, y) is shown
    at (a x + c y, b x + d y), moved into the picture."""
    c, d = (b, -a) if mirrored else (-b, a)
    stored = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    numbers = np.array([a, b, 0, c, d, 0, 0, 0, 0], "<i4") * (1 << 16)

    class Frame:
        width = 3
        format = SimpleNamespace(components=[SimpleNamespace(is_alpha=False)])
        side_data: ClassVar[dict[str, bytes]] = {"DISPLAYMATRIX": numbers.tobytes()}

        def to_ndarray(self, format: str) -> Any:
            return stored

    class Square:
        sample_aspect_ratio = None

    shown = upright(Frame(), Square())  # type: ignore[arg-type]
    places = {(x, y): (a * x + c * y, b * x + d * y) for x in range(3) for y in range(2)}
    left, top = (min(place[axis] for place in places.values()) for axis in (0, 1))
    for (x, y), (right, down) in places.items():
        assert (shown[down - top, right - left] == stored[y, x]).all()


@pytest.mark.parametrize("turn", [0, 90])
def test_pixels_that_are_not_square_are_made_so(tmp_path: Path, turn: int) -> None:
    """A disc in the middle of a square picture, stored at half its width with pixels twice as wide
    as high: shown as a disc again, by both readers; taken as stored it would be an ellipse."""
    line = (torch.arange(64) + 0.5) / 32 - 1
    disc = ((line[:, None] ** 2 + line**2) < 0.36).float()
    stored = disc.view(64, 32, 2).mean(2)
    if turn:
        stored = torch.rot90(stored, -1, (0, 1))
    path = tmp_path / "one" / "a.mp4"
    path.parent.mkdir()
    pictures = stored[None, :, :, None].expand(10, -1, -1, 3).contiguous()
    # a player stretches what is stored, and turns it then: of a turned film pixels are high
    aspect = Fraction(1, 2) if turn else Fraction(2)
    sound = [0.1 * torch.rand(10 * RATE // FPS)]
    write_raw(path, pictures, Fraction(25), sound, RATE, turn=turn, aspect=aspect)
    shown = read_clip(path, 64, 10, 0).frames[0, ..., 0]
    wide = (shown > 0.5).any(0).sum() / (shown > 0.5).any(1).sum()
    assert float(wide) == pytest.approx(1, abs=0.06)
    assert psnr(Clips().load_video(path, 64, 1, 1)[0, ..., 0], disc) > 18
    if not turn:
        header = probe(path)
        assert (header.width, header.height) == (64, 64)


def two_tracks(path: Path, tracks: list[Tensor], default: int = 0) -> None:
    """A film with several sound tracks, of which one is named as default."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=FPS)
        picture.width = picture.height = SIZE
        picture.pix_fmt = "yuv420p"
        sounds = [container.add_stream("aac", rate=RATE, layout="mono") for _ in tracks]
        for number, sound in enumerate(sounds):
            sound.disposition = av.stream.Disposition.default if number == default else 0
        for index in range(25):
            grey = np.full((SIZE, SIZE, 3), 90, np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        for sound, samples in zip(sounds, tracks, strict=True):
            heard = av.AudioFrame.from_ndarray(samples[None].numpy(), format="fltp", layout="mono")
            heard.pts, heard.time_base, heard.sample_rate = 0, Fraction(1, RATE), RATE
            container.mux(sound.encode(heard))
            container.mux(sound.encode(None))


def tone(hertz: float) -> Tensor:
    return 0.5 * torch.sin(2 * torch.pi * hertz * torch.arange(RATE) / RATE)


def pitch(sound: Tensor) -> float:
    return float(torch.fft.rfft(sound).abs().argmax()) * RATE / len(sound)


def test_the_track_somebody_speaks_on_is_heard(tmp_path: Path) -> None:
    """The computer's silence first, the microphone second; then two voices, of which the file
    names the second as default."""
    path = tmp_path / "a.mkv"
    two_tracks(path, [torch.zeros(RATE), tone(400)])
    assert pitch(read_clip(path, SIZE, 20, 0).audio) == pytest.approx(400, abs=10)
    assert pitch(read_sound(path)) == pytest.approx(400, abs=10)
    two_tracks(path, [tone(300), tone(500)])
    assert pitch(read_clip(path, SIZE, 20, 0).audio) == pytest.approx(300, abs=10)
    two_tracks(path, [tone(300), tone(500)], default=1)
    assert pitch(read_clip(path, SIZE, 20, 0).audio) == pytest.approx(500, abs=10)
    pause = tone(400).clone()
    pause[RATE // 5 :] = 0
    two_tracks(path, [pause, tone(3000)])  # nobody else speaks for who pauses
    assert pitch(read_clip(path, SIZE, 5, 0).audio) == pytest.approx(400, abs=20)
    with pytest.raises(UnusableClipError, match="silent"):
        read_clip(path, SIZE, 10, 12)
    two_tracks(path, [torch.zeros(RATE), torch.zeros(RATE)])
    with pytest.raises(UnusableClipError, match="silent"):
        read_clip(path, SIZE, 20, 0)
