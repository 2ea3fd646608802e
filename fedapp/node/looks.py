"""Scores that a node tells of its held-out views: so many in its life, whatever a server names.

A server may have a view judged on renderings of its own making. The limit (``looks`` of the node's
:class:`privacy.secagg.identity.Policy`) is counted in the node's state folder, not in a run's: a
server names runs, methods and seeds as it likes.
"""

from __future__ import annotations

import contextlib

from fedapp.node.device import Device
from privacy.secagg.messages import RefusalError
from strategies.flower.exchanges import Order
from tasks.atomic import PRIVATE, write_bytes

FOLDER = "looks"  # a file for each score that was told


def told_once(device: Device, order: Order, request: str) -> None:
    """Count a look before it is answered; a repeated one, whose answer is the same, only once.

    Raises :class:`RefusalError` where none is left.
    """
    folder = device.key_folder("") / FOLDER
    text = " ".join(map(str, (order.run, order.client, order.exchange, order.view, request)))
    for number in range(device.policy.looks):
        file = folder / f"{number:06d}"
        if not file.exists():
            with contextlib.suppress(FileExistsError):  # of two at once one takes this number
                write_bytes(file, text.encode(), PRIVATE, new=True)
        if file.read_text(encoding="utf-8") == text:
            return
    raise RefusalError(
        f"this node tells the scores of {device.policy.looks} views in its life (looks in its "
        "policy), and has"
    )
