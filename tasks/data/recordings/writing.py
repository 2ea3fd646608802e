"""Recordings into files: clips to mp4, sound to wav, frames to gif."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tasks.data.recordings.clips import FPS, RATE, SAMPLES_PER_FRAME, Clip
from tasks.data.recordings.pyav import pyav

PALETTE_FRAMES = 16  # frames of a gif that its palette is made from


def _enlarged(frames: Tensor, scale: int) -> Tensor:
    """``[T, H, W, 3]`` in [0, 1] as bytes, every pixel ``scale`` times as wide and high."""
    whole = (frames.clamp(0, 1) * 255).round().byte()
    return whole.repeat_interleave(scale, 1).repeat_interleave(scale, 2)


def _encoder() -> tuple[str, dict[str, str]]:
    """The video encoder and its options: H.264, or MPEG-4 part 2 (which browsers do not play) where
    FFmpeg lacks it."""
    available = pyav().codecs_available
    return (
        ("libx264", {"crf": "16", "preset": "medium"})
        if "libx264" in available
        else ("mpeg4", {"qmax": "4"})
    )


def write_clip(path: Path, clip: Clip, scale: int = 1) -> None:
    """An mp4 that browsers play: H.264 at 25 frames per second, AAC at 16 kHz; without sound if
    ``clip.audio`` is empty.

    Pixels become ``scale`` by ``scale``; an odd width or height gains one repeated column or row
    (yuv420p needs even).
    """
    av = pyav()
    pictures = _enlarged(clip.frames, scale)
    height, width = pictures.shape[1:3]
    rows, columns = (torch.arange(n + n % 2).clamp(max=n - 1) for n in (height, width))
    pictures = pictures[:, rows][:, :, columns].contiguous()
    codec, options = _encoder()
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        video = container.add_stream(codec, rate=FPS, options=options)
        video.width = len(columns)
        video.height = len(rows)
        video.pix_fmt = "yuv420p"
        sound = (
            container.add_stream("aac", rate=RATE, layout="mono") if clip.audio.numel() else None
        )
        # Picture and sound in turn, as a player wants them in the file.
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            frame.pts = index
            frame.time_base = Fraction(1, FPS)
            container.mux(video.encode(frame))
            first = index * SAMPLES_PER_FRAME
            piece = clip.audio[first : first + SAMPLES_PER_FRAME]
            if sound is not None and len(piece):
                heard = av.AudioFrame.from_ndarray(
                    piece[None].contiguous().numpy(), format="fltp", layout="mono"
                )
                heard.pts = first
                heard.time_base = Fraction(1, RATE)
                heard.sample_rate = RATE
                container.mux(sound.encode(heard))
        container.mux(video.encode(None))
        if sound is not None:
            container.mux(sound.encode(None))


def write_wav(path: Path, audio: Tensor) -> None:
    """``audio [n]`` in [-1, 1] as 16-bit PCM, mono, 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(
            (audio.clamp(-1, 1) * 32767).round().short().numpy().astype("<i2").tobytes()
        )


def write_gif(path: Path, frames: Tensor, scale: int = 1) -> None:
    """``frames [T, H, W, 3]`` in [0, 1] as an endless gif, 40 ms per frame.

    One palette for all frames and no dithering: a still background stays still.
    """
    pictures = _enlarged(frames, scale)
    sample = torch.linspace(0, len(frames) - 1, min(len(frames), PALETTE_FRAMES)).round().long()
    strip = _enlarged(frames[sample], 1).flatten(0, 1)
    palette = Image.fromarray(strip.numpy()).quantize(256, method=Image.Quantize.MEDIANCUT)
    images = [
        Image.fromarray(p.numpy()).quantize(palette=palette, dither=Image.Dither.NONE)
        for p in pictures
    ]
    images[0].save(
        path, "GIF", save_all=True, append_images=images[1:], duration=1000 // FPS, loop=0
    )
