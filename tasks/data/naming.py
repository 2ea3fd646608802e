"""Names that cameras give to files and folders: nobody's, so that they cannot stand for owners."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

# with or without a date
CAMERA = re.compile(
    r"(vid|img|mov|mvi|pxl|dscn?|dscf|gopr|g[hx]|dji|win|gmt|video|clip|film|movie|recording|screen"
    r"|whatsapp|signal|received)[\W_]*\d[\W\d_]*"
    r"|(.*\D)?(19|20)\d\d[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(\D.*|[T_ -]?\d{6}.*)?",
    re.IGNORECASE,
)


def nobodys(names: Iterable[str]) -> list[str]:
    """Those of ``names`` (of owners; the last part of a path counts) that a camera has given."""
    return [name for name in names if CAMERA.fullmatch(PurePath(name).name)]
