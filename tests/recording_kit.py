"""Small recordings of parametric people, and folders of files that are merely there."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from tasks.data.recordings.clips import Clip, Recording
from tasks.talking_head.people import clip_of, identity

SIZE = 32
FRAMES = 5


def speaking(windows: int, number: int = 0) -> Clip:
    return clip_of(
        identity(0, number), f"talk-{number}", windows * FRAMES, SIZE, "folders", number, windows
    )


def put(root: Path, *names: str, content: str = "") -> None:
    """Files that are merely there: a listing opens none."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")


def names(people: dict[str, list[Recording]]) -> dict[str, list[str]]:
    return {
        person: [recording.name for recording in recordings]
        for person, recordings in people.items()
    }


def write_raw(
    path: Path,
    pictures: Tensor,
    fps: Fraction,
    channels: list[Tensor],
    rate: int,
    shift: float = 0.0,
    turn: int = 0,
    aspect: Fraction | None = None,
) -> None:
    """An mp4 as others make them: any frame rate, channels at any rate, ``shift`` seconds of delay
    of the sound (negative: of the picture), ``turn`` degrees of rotation and pixels of ``aspect``
    left to the player."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1"})
        stream.width = pictures.shape[2]
        stream.height = pictures.shape[1]
        stream.pix_fmt = "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if turn:
            stream.set_display_rotation(turn)
        layout = {1: "mono", 2: "stereo"}[len(channels)]
        sound = container.add_stream("aac", rate=rate, layout=layout)
        for index, picture in enumerate((pictures * 255).round().byte()):
            frame = av.VideoFrame.from_ndarray(picture.numpy(), format="rgb24")
            frame.pts = index + round(max(-shift, 0) * fps)
            frame.time_base = 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        heard = av.AudioFrame.from_ndarray(
            torch.stack(channels).numpy(), format="fltp", layout=layout
        )
        heard.pts = round(max(shift, 0) * rate)
        heard.time_base = Fraction(1, rate)
        heard.sample_rate = rate
        container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
