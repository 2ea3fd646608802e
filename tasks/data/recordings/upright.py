"""Frames of a film as a player shows them: telephones store how far to turn them, front cameras
that they are mirrored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream

MOST_ASPECT = 4  # of a pixel; what is beyond is a damaged header
ONE = 1 << 16  # of a display matrix, whose numbers have 16 bits behind the point


def upright(frame: VideoFrame, stream: VideoStream) -> NDArray[np.uint8]:
    """``[H, W, 3]`` of a frame of ``stream``, turned and mirrored by its display matrix (ISO/IEC
    14496-12): a stored pixel (x, y) is shown at (a x + c y, b x + d y).

    Pixels that are not square (DV, anamorphic films) are made so: the width is stretched.
    Matrices that turn by less than a quarter are taken for the nearest quarter.
    """
    a, b, c, d = _matrix(frame)  # before the frame is another one
    wide = shown_width(frame.width, stream)
    if wide != frame.width:
        frame = frame.reformat(width=wide, format="rgb24", interpolation="BICUBIC")
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
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
