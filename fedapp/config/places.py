"""Config keys that name a file or folder, and whose places they are.

A real node follows none of a server's: it has places of its own for some, and needs none for the
others.
"""

from __future__ import annotations

BUNDLED = "bundled"  # data-path of a real node that is only tried out: the data that come with us
OF_NODE = {  # key: the node-config key of a real node that says it
    "data.path": "data-path",
    "talking-head.backbone": "backbone",
    "privacy.roster": "roster",
}
OF_SERVER = {  # key: its value on a real node
    "run-dir": "",
    "evaluation.lpips": "",
    "talking-head.judges": "{}",
}
JUDGES = "talking-head.judges"  # a table of files; all others are one path
JUDGED = ("evaluation.lpips", JUDGES)  # only the server measures with them
PATHS = tuple(key for key in {**OF_NODE, **OF_SERVER} if key != JUDGES)
