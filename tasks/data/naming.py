"""Names that cameras give to files and folders: nobody's, so that they cannot stand for owners."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

# with or without a date; days, months, Google's years; folders of DCF, as 100CANON and 101_PANA
CAMERA = re.compile(
    r"(vid|img|mov|mvi|pxl|dscn?|dscf|gopr|g[hx]|dji|win|gmt|video|clip|film|movie|recording|screen"
    r"|whatsapp|signal|received)[\W_]*\d[\W\d_]*"
    r"|(.*\D)?(19|20)\d\d[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(\D.*|[T_ -]?\d{6}.*)?"
    r"|(.*\D)?(0[1-9]|[12]\d|3[01])[-_.](0[1-9]|1[0-2])[-_.](19|20)\d\d(\D.*)?"
    r"|(19|20)\d\d[-_.](0[1-9]|1[0-2])|photos from (19|20)\d\d"
    r"|\d{3}(apple|canon|nikon|olymp|media|msdcf|ricoh|photo|andro|nc[a-z]\w{1,2}|_[a-z]{4})",
    re.IGNORECASE,
)
YEAR = re.compile(r"(19|20)\d\d")


def nobodys(names: Iterable[str]) -> list[str]:
    """Those of ``names`` (of owners; the last part of a path counts) that a camera has given, or
    all of them if each is a year: one year among other numbers is a number."""
    listed = list(names)
    last = [PurePath(name).name for name in listed]
    if len(last) > 1 and all(YEAR.fullmatch(name) for name in last):
        return listed
    return [name for name, own in zip(listed, last, strict=True) if CAMERA.fullmatch(own)]
