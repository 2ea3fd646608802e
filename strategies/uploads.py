"""Looking at uploads: the numbers and pictures a curious server would get by rendering them.

A measurement of a simulation beside the round, never part of it: an upload that cannot be looked at
is reported as such, and counts all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from strategies.types import Broadcast, LocalResult
from tasks.types import ClientData, Trainable

Inspect = Callable[[Sequence[Tensor], Sequence[Tensor]], Mapping[str, list[float]]]
Shot = tuple[Tensor, Tensor]  # truth and rendering, as pictures


def look(
    task: Trainable,
    inspect: Inspect,
    received: Broadcast,
    local: LocalResult,
    cohort: Sequence[ClientData],
) -> tuple[dict[str, list[float]], list[Shot | None]]:
    """Scores of each client's upload, and pictures where its data are something to look at.

    Args:
        task: renders uploads.
        inspect: ``(rendered, truths) -> {metric: one value per signal}``.
        received: the model the clients started from.
        local: what they trained.
        cohort: their data, ``[C]``.
    """
    uploads = received.model + local.delta
    rendered = task.render(uploads, cohort)
    truths = [data.truth for data in cohort]
    numbers = scores(inspect, rendered, truths, [data.parts for data in cohort])
    shots: list[Shot | None] = []
    for data, truth, image in zip(cohort, truths, rendered, strict=True):
        pair = task.picture(data, truth), task.picture(data, image)
        shots.append(None if pair[0] is None or pair[1] is None else (pair[0], pair[1]))
    return numbers, shots


def scores(
    inspect: Inspect,
    rendered: Sequence[Tensor],
    truths: Sequence[Tensor],
    parts: Sequence[int],
) -> dict[str, list[float]]:
    """Numbers of each client's upload, the mean over its signals where it holds several."""
    apart = [part > 1 for part in parts]
    images = [
        one
        for image, many in zip(rendered, apart, strict=True)
        for one in (image if many else [image])
    ]
    wanted = [
        one
        for truth, many in zip(truths, apart, strict=True)
        for one in (truth if many else [truth])
    ]
    numbers: dict[str, list[float]] = {}
    for name, values in inspect(images, wanted).items():
        rest = iter(values)
        numbers[name] = [sum(next(rest) for _ in range(part)) / part for part in parts]
    return numbers
