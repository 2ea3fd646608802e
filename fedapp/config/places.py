"""Config keys that name a file or folder, or say how own photographs are to be read, and whose they
are.

A real node follows none of a server's: it has places of its own for some, and needs none for the
others. (A server that said which way faces look would have them sent as the backs of heads.)
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
AS_TAKEN = {  # how somebody's own photographs are to be read: key: (node-config key, if not said)
    "data.layout": ("layout", "auto"),
    "head.front": ("front", ""),
    "head.up": ("up", "+y"),
    "head.facing-neutral": ("facing-neutral", False),
}
JUDGES = "talking-head.judges"  # a table of files; all others are one path
JUDGED = ("evaluation.lpips", JUDGES)  # only the server measures with them
PATHS = tuple(key for key in {**OF_NODE, **OF_SERVER} if key != JUDGES)
