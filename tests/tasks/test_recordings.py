"""Recordings through real files: what is written comes back, at the right time, and what is
unusable says why."""

from __future__ import annotations

import sys
import wave
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from PIL import Image
from recording_kit import write_raw
from torch import Tensor
from torch.nn.functional import interpolate

from tasks.data.pictures import beside
from tasks.data.recordings.clips import (
    FPS,
    RATE,
    REASONS,
    SAMPLES_PER_FRAME,
    Clip,
    UnusableClipError,
)
from tasks.data.recordings.reading import probe, read_clip
from tasks.data.recordings.writing import write_clip, write_gif, write_wav
from tasks.errors import InputError
from tasks.talking_head.people import clip_of, identity

av = pytest.importorskip("av")
SIZE = 32


def speaking(frames: int, *key: int | str) -> Clip:
    return clip_of(identity(0, 1), "talk", frames, SIZE, "test", *key)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def flash(frames: int, at: int, heard: int | None = None) -> Clip:
    """Grey and silent but for a white frame ``at`` and 40 ms of noise at frame ``heard`` (``None``:
    the same)."""
    pictures = torch.full((frames, SIZE, SIZE, 3), 0.3)
    audio = torch.zeros(frames * SAMPLES_PER_FRAME)
    pictures[at] = 1.0
    first = (at if heard is None else heard) * SAMPLES_PER_FRAME
    noise = torch.rand(SAMPLES_PER_FRAME, generator=torch.Generator().manual_seed(0))
    audio[first : first + SAMPLES_PER_FRAME] = 1.6 * noise - 0.8
    return Clip("flash", pictures, audio)


def seen_and_heard(clip: Clip) -> tuple[int, int]:
    """The brightest frame and the frame with the loudest 40 ms."""
    loudness = clip.audio.view(-1, SAMPLES_PER_FRAME).square().sum(1)
    return int(clip.frames.mean((1, 2, 3)).argmax()), int(loudness.argmax())


# ---------------------------------------------------------------------- there and back
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_written_clip_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    if codec == "mpeg4":  # an FFmpeg without libx264
        monkeypatch.setattr(av, "codecs_available", {"mpeg4", "aac"})
    clip = speaking(50)
    path = tmp_path / "talk.mp4"
    write_clip(path, clip)
    assert probe(path) == (50, 25.0, SIZE, SIZE)
    read = read_clip(path, SIZE, 30, start=10)
    assert read.frames.shape == (30, SIZE, SIZE, 3) and read.audio.shape == (
        30 * SAMPLES_PER_FRAME,
    )
    assert read.name == "talk.mp4" and read.frames.min() >= 0 and read.frames.max() <= 1
    assert psnr(read.frames, clip.frames[10:40]) > 25
    assert (
        correlation(read.audio, clip.audio[10 * SAMPLES_PER_FRAME : 40 * SAMPLES_PER_FRAME]) > 0.9
    )


def test_no_start_means_the_centre(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", speaking(50))
    centre, same = (
        read_clip(tmp_path / "a.mp4", SIZE, 20, start) for start in (None, (50 - 20) // 2)
    )
    assert torch.equal(centre.frames, same.frames) and torch.equal(centre.audio, same.audio)


def test_other_shapes_are_cropped_to_the_centre_and_resized(tmp_path: Path) -> None:
    """The clip is the middle of 64 columns; enlarged three times and read back small, it is the
    same."""
    clip = speaking(10)
    path = tmp_path / "wide.mp4"
    border = torch.zeros(10, SIZE, 16, 3)
    write_clip(path, clip._replace(frames=torch.cat([border, clip.frames, border], 2)), scale=3)
    assert probe(path)[2:] == (3 * 64, 3 * 32)
    assert psnr(read_clip(path, SIZE, 10).frames, clip.frames) > 25


def test_odd_sizes_are_padded_for_the_encoder(tmp_path: Path) -> None:
    write_clip(tmp_path / "odd.mp4", Clip("odd", torch.rand(3, 17, 31, 3), torch.zeros(0)))
    assert probe(tmp_path / "odd.mp4")[2:] == (32, 18)


# ---------------------------------------------------------------------- time
@pytest.mark.parametrize(("start", "at"), [(0, 7), (20, 30), (90, 97)])
def test_picture_and_sound_share_the_window(tmp_path: Path, start: int, at: int) -> None:
    """The last start lies beyond PREROLL, so the file is entered in the middle."""
    write_clip(tmp_path / "a.mp4", flash(110, at))
    assert seen_and_heard(read_clip(tmp_path / "a.mp4", SIZE, 20, start)) == (
        at - start,
        at - start,
    )


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("shift", [5, -5])
def test_a_track_that_starts_later_is_heard_later(tmp_path: Path, rate: int, shift: int) -> None:
    """Frame 60 of the sound is played with frame 60 + shift of the picture (negative: the picture
    starts later)."""
    clip = flash(90, 40, heard=60)
    path = tmp_path / "a.mp4"
    audio = interpolate(clip.audio[None, None], size=90 * rate // FPS)[0, 0]
    write_raw(path, clip.frames, Fraction(25), [audio, audio], rate, shift / FPS)
    assert seen_and_heard(read_clip(path, SIZE, 50, 30)) == (40 - 30, 60 + shift - 30)
    if shift > 0:  # five frames without a track are more than the one that is filled up
        with pytest.raises(UnusableClipError) as caught:
            read_clip(path, SIZE, 40, 0)
        assert caught.value.reason == "too short"


def write_stamped(path: Path, clip: Clip, packet: int, late: Callable[[int], float]) -> None:
    """A Matroska file with plain PCM in packets of so many samples, the one at sample n ``late(n)``
    seconds late."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "1"})
        stream.width = SIZE
        stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for index, picture in enumerate((clip.frames * 255).round().byte()):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            frame.pts = index
            frame.time_base = Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for first in range(0, len(clip.audio), packet):
            samples = (clip.audio[first : first + packet] * 32767).round().short()
            frame = av.AudioFrame.from_ndarray(samples[None].numpy(), format="s16", layout="mono")
            frame.pts = first
            frame.time_base = Fraction(1, RATE)
            frame.sample_rate = RATE
            for piece in sound.encode(frame):
                piece.time_base = Fraction(1, RATE)
                piece.pts = piece.dts = first + round(late(first) * RATE)
                container.mux(piece)


def noisy(frames: int) -> Clip:
    audio = torch.rand(frames * SAMPLES_PER_FRAME, generator=torch.Generator().manual_seed(0)) - 0.5
    return Clip("noisy", torch.full((frames, SIZE, SIZE, 3), 0.3), audio)


@pytest.mark.parametrize("start", [20, 50, 26])
def test_sound_after_a_gap_is_not_early(tmp_path: Path, start: int) -> None:
    """0.4 s without sound after second 1: in the window from 0.8 s, in the preroll of that from 2
    s, around 1.04 s."""
    clip = noisy(90)
    write_stamped(tmp_path / "a.mkv", clip, 1600, lambda n: 0.4 if n >= RATE else 0.0)
    played = torch.cat([clip.audio[:RATE], torch.zeros(round(0.4 * RATE)), clip.audio[RATE:]])
    read = read_clip(tmp_path / "a.mkv", SIZE, 30, start).audio
    assert torch.allclose(read, played[start * SAMPLES_PER_FRAME :][: len(read)], atol=1 / 32767)


def test_of_sound_that_overlaps_the_later_is_dropped(tmp_path: Path) -> None:
    """From second 1 on all is 60 ms early: so much of it is covered by what was there before."""
    clip = noisy(60)
    write_stamped(tmp_path / "a.mkv", clip, 1600, lambda n: -0.06 if n >= RATE else 0.0)
    played = torch.cat([clip.audio[:RATE], clip.audio[RATE + round(0.06 * RATE) :]])
    read = read_clip(tmp_path / "a.mkv", SIZE, 30, 10).audio
    assert torch.allclose(read, played[10 * SAMPLES_PER_FRAME :][: len(read)], atol=1 / 32767)


def test_rounded_time_stamps_make_no_clicks(tmp_path: Path) -> None:
    """Packets of 62.5 ms, which Matroska rounds to the millisecond, every other one of them 1 ms
    late besides."""
    clip = noisy(60)
    write_stamped(tmp_path / "a.mkv", clip, 1000, lambda n: 0.001 * (n // 1000 % 2))
    read = read_clip(tmp_path / "a.mkv", SIZE, 30, 10).audio
    assert torch.allclose(read, clip.audio[10 * SAMPLES_PER_FRAME :][: len(read)], atol=1 / 32767)


@pytest.mark.parametrize("fps", [Fraction(24), Fraction(30000, 1001), Fraction(30), Fraction(50)])
def test_other_frame_rates_become_25(tmp_path: Path, fps: Fraction) -> None:
    """Frame j is grey level 4 j / 255; the nearest to i / 25 s is round(i fps / 25); the last stays
    until its end."""
    count = 60
    pictures = (torch.arange(count) * 4 / 255)[:, None, None, None].expand(count, SIZE, SIZE, 3)
    seconds = count / fps
    voice = 0.3 * torch.sin(torch.arange(int(seconds * RATE)) * 0.1)
    write_raw(tmp_path / "a.mp4", pictures, fps, [voice], RATE)
    frames = int(seconds * FPS)
    assert probe(tmp_path / "a.mp4").frames == frames
    read = read_clip(tmp_path / "a.mp4", SIZE, frames, 0).frames.mean((1, 2, 3)) * 255 / 4
    expected = [min(round(i * fps / FPS), count - 1) for i in range(frames)]
    assert read.round().int().tolist() == expected


def test_channels_are_averaged(tmp_path: Path) -> None:
    clip = speaking(30)
    write_raw(
        tmp_path / "a.mp4",
        clip.frames,
        Fraction(25),
        [clip.audio, torch.zeros_like(clip.audio)],
        RATE,
    )
    read = read_clip(tmp_path / "a.mp4", SIZE, 30).audio
    voice = clip.audio / 2
    assert correlation(read, voice) > 0.9
    assert float(read.std() / voice.std()) == pytest.approx(1, abs=0.1)


# ---------------------------------------------------------------------- sound of its own
def test_a_separate_track_replaces_the_own_one(tmp_path: Path) -> None:
    clip = speaking(40)
    other = speaking(40, "other")
    write_clip(tmp_path / "a.mp4", clip)
    write_wav(tmp_path / "a.wav", other.audio)
    read = read_clip(tmp_path / "a.mp4", SIZE, 20, 10, tmp_path / "a.wav")
    expected = other.audio[10 * SAMPLES_PER_FRAME : 30 * SAMPLES_PER_FRAME]
    assert torch.allclose(
        read.audio, expected, atol=1 / 32767
    )  # PCM rounds to half a step of 1 / 32767


def test_a_wav_is_16_bit_mono(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", torch.tensor([0.0, 0.5, -1.0, 2.0]))
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (1, 2, RATE, 4)
        values = torch.frombuffer(bytearray(file.readframes(4)), dtype=torch.int16)
    assert values.tolist() == [0, round(0.5 * 32767), -32767, 32767]


@pytest.mark.parametrize(
    ("missing", "usable"), [(SAMPLES_PER_FRAME, True), (2 * SAMPLES_PER_FRAME, False)]
)
def test_a_track_may_lack_one_frame(tmp_path: Path, missing: int, usable: bool) -> None:
    clip = speaking(20)
    write_clip(tmp_path / "a.mp4", clip)
    write_wav(tmp_path / "a.wav", clip.audio[:-missing])
    if usable:
        read = read_clip(tmp_path / "a.mp4", SIZE, 20, 0, tmp_path / "a.wav")
        assert not read.audio[-missing:].any() and len(read.audio) == 20 * SAMPLES_PER_FRAME
    else:
        with pytest.raises(UnusableClipError, match="too short"):
            read_clip(tmp_path / "a.mp4", SIZE, 20, 0, tmp_path / "a.wav")


# ---------------------------------------------------------------------- unusable
def truncated(path: Path) -> None:
    write_clip(path, speaking(20))
    path.write_bytes(path.read_bytes()[:500])


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            speaking(20).audio[None].numpy(), format="fltp", layout="mono"
        )
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


UNUSABLE: list[tuple[str, Callable[[Path], object]]] = [
    ("unreadable", lambda path: path.write_text("not a video", encoding="utf-8")),
    ("unreadable", truncated),
    ("no video", sound_only),
    ("no audio", lambda path: write_clip(path, speaking(20)._replace(audio=torch.zeros(0)))),
    (
        "silent",
        lambda path: write_clip(
            path, speaking(20)._replace(audio=torch.zeros(20 * SAMPLES_PER_FRAME))
        ),
    ),
    ("too short", lambda path: write_clip(path, speaking(19))),
]


@pytest.mark.parametrize(("reason", "make"), UNUSABLE)
def test_an_unusable_file_says_why(
    tmp_path: Path, reason: str, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "a.mp4")
    with pytest.raises(UnusableClipError, match=r"a\.mp4") as caught:
        read_clip(tmp_path / "a.mp4", SIZE, 20)
    assert caught.value.reason == reason and reason in REASONS


def test_without_pyav_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 'fedapp\[video\]'"):
        read_clip(tmp_path / "a.mp4", SIZE, 20)


# ---------------------------------------------------------------------- pictures to look at
def test_a_gif_lasts_as_long_as_the_clip(tmp_path: Path) -> None:
    frames = speaking(12).frames
    write_gif(tmp_path / "a.gif", frames, scale=2)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.size == (2 * SIZE, 2 * SIZE)
        shown = 0
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            shown += image.info["duration"]
        image.seek(0)
        first = (
            torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(
                64, 64, 3
            )
            / 255
        )
    assert shown == 12 * 40  # equal neighbours are stored once and shown longer
    assert psnr(first[::2, ::2], frames[0]) > 30


def test_videos_side_by_side_have_a_white_gap() -> None:
    left = torch.zeros(2, 4, 6, 3)
    right = torch.full((2, 4, 8, 3), 0.5)
    joined = beside([left, right], gap=3)
    assert joined.shape == (2, 4, 6 + 3 + 8, 3)
    assert joined[0, 0, :, 0].tolist() == [0.0] * 6 + [1.0] * 3 + [0.5] * 8
