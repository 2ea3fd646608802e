"""Frames of a film as a player shows them: telephones store how far to turn them, front cameras
that they are mirrored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

MOST_ASPECT = 4  # of a pixel; what is beyond is a damaged header
ONE = 1 << 16  # of a display matrix, whose numbers have 16 bits behind the point


def main_video(container: InputContainer) -> VideoStream | None:
    """The film of a file as a player picks it: no cover picture, the one marked as default."""
    films = [
        stream
        for stream in container.streams.video
        if not stream.disposition & stream.disposition.attached_pic
    ]
    named = [stream for stream in films if stream.disposition & stream.disposition.default]
    return next(iter([*named, *films]), None)


def hides(stream: VideoStream) -> bool:
    """Whether a film has transparency that FFmpeg's own decoder drops (VP8 and VP9 in WebM): what
    lies under it would be shown."""
    said = {name.lower(): value for name, value in stream.metadata.items()}
    return said.get("alpha_mode") == "1" and stream.codec_context.name in ("vp8", "vp9")


def upright(frame: VideoFrame, stream: VideoStream) -> NDArray[np.uint8]:
    """``[H, W, 3]`` of a frame of ``stream``, turned and mirrored by its display matrix (ISO/IEC
    14496-12): a stored pixel (x, y) is shown at (a x + c y, b x + d y).

    Pixels that are not square (DV, anamorphic films) are made so: the width is stretched.
    Matrices that turn by less than a quarter are taken for the nearest quarter. Transparent parts
    are put on white, as those of pictures: what hides under them is not shown.
    """
    clear = any(part.is_alpha for part in frame.format.components)
    wanted = "rgba" if clear else "rgb24"
    a, b, c, d = _matrix(frame)  # before the frame is another one
    wide = shown_width(frame.width, stream)
    if wide != frame.width:
        frame = frame.reformat(width=wide, format=wanted, interpolation="BICUBIC")
    image = np.asarray(frame.to_ndarray(format=wanted), np.uint8)
    if clear:
        share = image[..., 3:].astype(np.float32) / 255
        image = np.round(255 + share * (image[..., :3].astype(np.float32) - 255)).astype(np.uint8)
    if abs(a) + abs(d) < abs(b) + abs(c):  # x and y change places
        image = image.transpose(1, 0, 2)
        across, down = c, b
    else:
        across, down = a, d
    if across < 0:
        image = image[:, ::-1]
    if down < 0:
        image = image[::-1]
    return np.ascontiguousarray(image)


def shown_width(width: int, stream: VideoStream) -> int:
    """The width in square pixels of stored ``width``."""
    aspect = stream.sample_aspect_ratio
    if not aspect or not 1 / MOST_ASPECT <= aspect <= MOST_ASPECT:  # 0 is "not said"
        return width
    return max(1, round(width * aspect))


def _matrix(frame: VideoFrame) -> tuple[float, float, float, float]:
    """(a, b, c, d) of a frame's display matrix; the identity where it has none."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1.0, 0.0, 0.0, 1.0
    a, b, _, c, d = (np.frombuffer(bytes(data), "<i4")[:5] / ONE).tolist()
    return a, b, c, d
