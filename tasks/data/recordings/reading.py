"""Recordings out of files: mp4, mov, webm and the like to clips, any sound track to samples.

Whatever the file's own rates, a clip has 25 frames and 16 000 samples per second, and frame i and
samples ``[640 i, 640 (i + 1))`` cover the same 40 ms: both are cut by time stamp, with the first
video frame as time zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tasks.data.recordings.clips import (
    FPS,
    RATE,
    SAMPLES_PER_FRAME,
    Clip,
    UnusableClipError,
    is_silent,
)
from tasks.data.recordings.pyav import pyav
from tasks.data.recordings.upright import hides, main_video, shown_width, upright

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, VideoFrame, VideoStream
    from av.container import InputContainer

PREROLL = 1.0  # seconds decoded before a window: codecs need a little to get going after a jump
# Many containers round time stamps to the millisecond: a step of fewer seconds is no gap.
JITTER = 0.002


class VideoHeader(NamedTuple):
    """Length, rate and size from a file's header. ``frames`` counts whole frames at 25 per second;
    ``fps`` is the file's own rate."""

    frames: int
    fps: float
    width: int
    height: int


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    """The file, open; an error of FFmpeg, then or later, is the reason "unreadable"."""
    av = pyav()
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            yield container
    except av.FFmpegError as error:
        raise UnusableClipError("unreadable", path, str(error)) from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    stream = main_video(container)
    if stream is None:
        raise UnusableClipError("no video", path)
    if hides(stream):
        raise UnusableClipError("transparent", path, "its transparency cannot be decoded")
    return stream


def _origin(stream: VideoStream | AudioStream) -> float:
    """Seconds at which the stream begins on the clock of its file."""
    return (
        float(stream.start_time * stream.time_base)
        if stream.start_time and stream.time_base
        else 0.0
    )


def _enter(container: InputContainer, stream: VideoStream | AudioStream, begin: float) -> None:
    """Make decoding start at least :data:`PREROLL` before ``begin`` (seconds), or at the stream's
    own start."""
    if begin - PREROLL > _origin(stream) and stream.time_base:
        container.seek(int((begin - PREROLL) / stream.time_base), stream=stream)


def _time(frame: VideoFrame | AudioFrame, path: Path) -> float:
    if frame.time is None:
        raise UnusableClipError("unreadable", path, "its frames have no time stamps")
    return frame.time


def probe(path: Path) -> VideoHeader:
    """Length, rate and picture size without decoding; raises :class:`UnusableClipError`
    (unreadable, no video)."""
    with _opened(path) as container:
        stream = _video_stream(container, path)
        if stream.time_base is None:
            raise UnusableClipError("unreadable", path, "no time base")
        ticks = stream.duration
        if ticks is None:  # some containers do not say: walk through the packets
            ends = [p.pts + (p.duration or 0) for p in container.demux(stream) if p.pts is not None]
            ticks = max(ends, default=0) - (stream.start_time or 0)
        # Lengths are rounded, some to the millisecond: a little less than a frame counts as one.
        whole = int(float(ticks * stream.time_base) * FPS + 0.1)
        return VideoHeader(
            whole, float(stream.average_rate or 0), shown_width(stream.width, stream), stream.height
        )


def _picture(frame: VideoFrame, stream: VideoStream, size: int) -> Tensor:
    """``[size, size, 3]`` in [0, 1]: upright (telephones store a rotation), centre square,
    antialiased."""
    image = torch.from_numpy(upright(frame, stream))
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side].permute(2, 0, 1)[None].float() / 255
    return (
        interpolate(square, (size, size), mode="bilinear", antialias=True)[0]
        .permute(1, 2, 0)
        .clamp(0, 1)
    )


def _pictures(path: Path, start: int, frames: int, size: int) -> tuple[Tensor, float]:
    """``([frames, size, size, 3], origin)``: for each time i / 25 the frame nearest to it, and the
    second at which the video begins."""
    with _opened(path) as container:
        stream = _video_stream(container, path)
        origin = _origin(stream)
        times = [origin + (start + index) / FPS for index in range(frames)]
        chosen: list[Tensor] = []
        before: VideoFrame | None = None
        earlier = 0.0  # when the frame before was due
        shown = 0.0  # for how long it was shown
        _enter(container, stream, times[0])
        for frame in container.decode(stream):
            now = _time(frame, path)
            if before is None and now > times[0] + 1 / FPS:
                raise UnusableClipError(
                    "unreadable", path, "cannot be entered where the window starts"
                )
            # All moments up to this frame: each is nearer to it or to the frame before.
            while len(chosen) < frames and times[len(chosen)] <= now:
                due = times[len(chosen)]
                nearest = frame if before is None or now - due < due - earlier else before
                chosen.append(_picture(nearest, stream, size))
            if len(chosen) == frames:
                return torch.stack(chosen), origin
            shown = now - earlier if before is not None else 0.0
            before = frame
            earlier = now
        # The last frame stays on the screen for as long as the one before it did.
        while before is not None and len(chosen) < frames and times[len(chosen)] < earlier + shown:
            chosen.append(_picture(before, stream, size))
    if len(chosen) < frames:
        raise UnusableClipError(
            "too short", path, f"{len(chosen)} of {frames} frames from frame {start}"
        )
    return torch.stack(chosen), origin


class _Stretch:
    """Sound without a gap from second ``now`` on: one resampler, whose pieces join without a seam.

    ``due`` is when its next frame should start; ``at`` is where its next sample belongs, counted
    from ``begin``.
    """

    def __init__(self, now: float, begin: float) -> None:
        self.due = now
        self.at = round((now - begin) * RATE)
        self._resampler = pyav().AudioResampler(format="fltp", rate=RATE)

    def take(self, frame: AudioFrame | None) -> Iterator[tuple[int, Tensor]]:
        """The mean of the channels, with the place of its first sample; ``None``: the rest that the
        resampler still holds."""
        if frame is not None:
            self.due += frame.samples / frame.sample_rate
        for piece in self._resampler.resample(frame):
            yield self.at, torch.from_numpy(piece.to_ndarray()).mean(0)
            self.at += piece.samples


def _placed(
    decoded: Iterator[AudioFrame], begin: float, path: Path
) -> Iterator[tuple[int, Tensor]]:
    """Decoded sound at :data:`RATE`, each piece with the place its time stamp gives it, in samples
    from ``begin``."""
    stretch: _Stretch | None = None
    for frame in decoded:
        now = stretch.due if stretch is not None and frame.time is None else _time(frame, path)
        # Joining pieces that lie apart would shift all that follows.
        if stretch is None or abs(now - stretch.due) > JITTER:
            if stretch is not None:
                yield from stretch.take(None)
            stretch = _Stretch(now, begin)
        yield from stretch.take(frame)
    if stretch is not None:
        yield from stretch.take(None)


def _sound(path: Path, start: int, frames: int, origin: float | None) -> Tensor:
    """``[frames * 640]`` of the file's track (:func:`_track`); time zero is ``origin``, or the
    track's own start if ``None``."""
    return _heard(path, _track(path, path.stat().st_mtime_ns), start, frames, origin)


@lru_cache(maxsize=4096)
def _track(path: Path, changed: int) -> int:
    """Number of the first sound track that is not silent from end to end, in the order of
    :func:`_tracks`; the first of that order where all are.

    A screen recording's first track is often the computer's own silence and the second one the
    microphone. It is one track for a whole file: where its speaker pauses, nobody else is heard.
    """
    order = _tracks(path)
    for number in order if len(order) > 1 else ():
        if not is_silent(_whole(path, number)):
            return number
    return order[0]


def _tracks(path: Path) -> list[int]:
    """Numbers of the file's sound tracks: the one it names as default, then the others in their
    order."""
    with _opened(path) as container:
        tracks = container.streams.audio
        if not tracks:
            raise UnusableClipError("no audio", path)
        named = [bool(track.disposition & track.disposition.default) for track in tracks]
    return sorted(range(len(named)), key=lambda number: not named[number])


def _heard(path: Path, number: int, start: int, frames: int, origin: float | None) -> Tensor:
    """``[frames * 640]`` of one sound track, the mean of the channels.

    Every sample lies where its time stamp says: gaps are silent, and of two that overlap the later
    is dropped.
    """
    need = frames * SAMPLES_PER_FRAME
    with _opened(path) as container:
        stream = container.streams.audio[number]
        begin = (_origin(stream) if origin is None else origin) + start / FPS
        _enter(container, stream, begin)
        sound = torch.zeros(need)
        front = need  # where the track begins
        filled = 0  # up to where the window is done
        for at, piece in _placed(container.decode(stream), begin, path):
            front = min(front, max(at, 0))
            place = max(at, filled)
            inside = piece[place - at : max(need - at, 0)]
            sound[place : place + len(inside)] = inside
            filled = max(filled, at + len(piece))
            if filled >= need:
                break
    filled = min(filled, need)
    if max(front, need - filled) > SAMPLES_PER_FRAME:
        heard = max(filled - front, 0) / RATE
        raise UnusableClipError("too short", path, f"sound for {heard:.2f} of {need / RATE:.2f} s")
    return sound.clamp(-1, 1)


def read_sound(path: Path) -> Tensor:
    """All of a file's first sound track that is not silent: ``[n]`` in [-1, 1] at 16 kHz, the mean
    of its channels.

    Raises :class:`UnusableClipError` (unreadable, no audio, silent).
    """
    sound = _whole(path, _track(path, path.stat().st_mtime_ns))
    if is_silent(sound):
        raise UnusableClipError("silent", path)
    return sound.clamp(-1, 1)


def _whole(path: Path, number: int) -> Tensor:
    """All of a sound track."""
    with _opened(path) as container:
        stream = container.streams.audio[number]
        pieces = list(_placed(container.decode(stream), _origin(stream), path))
    sound = torch.zeros(max((at + len(piece) for at, piece in pieces), default=0))
    for at, piece in pieces:
        sound[max(at, 0) : at + len(piece)] = piece[max(-at, 0) :]
    return sound


def read_clip(
    path: Path,
    size: int,
    frames: int,
    start: int | None = None,
    audio_path: Path | None = None,
    name: str = "",
) -> Clip:
    """Consecutive frames of a recording and their sound; raises :class:`UnusableClipError`.

    A track that lacks up to one frame's worth at an end is filled with zeros, and so are gaps
    inside it. Only the window and :data:`PREROLL` seconds before it are decoded.

    Args:
        path: the video file.
        size: pixels per side of the square that each frame is cut and scaled to.
        frames: length of the window, at 25 per second.
        start: its first frame, at that rate; ``None``: the window lies in the middle.
        audio_path: a sound file in any format FFmpeg reads, whose start belongs to the first video
            frame; ``None``: the video's own track, at the times the file states.
        name: of the clip; empty: the file's.

    Returns:
        ``frames [frames, size, size, 3]`` RGB in [0, 1] and ``audio [frames * 640]`` in [-1, 1].
    """
    if start is None:
        start = max((probe(path).frames - frames) // 2, 0)
    pictures, origin = _pictures(path, start, frames, size)
    audio = (
        _sound(path, start, frames, origin)
        if audio_path is None
        else _sound(audio_path, start, frames, None)
    )
    if is_silent(audio):
        raise UnusableClipError("silent", path if audio_path is None else audio_path)
    return Clip(name or path.name, pictures, audio)
