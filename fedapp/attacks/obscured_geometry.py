"""Heads that are fitted to what operators leave: how good they are, and whom they name.

The attacker of this part holds shapes of everybody in a gallery (scans, or fits to photographs) and
names the person whose surface the fitted face lies nearest to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fedapp.config.experiment import Experiment
from fedapp.node.upload import obscured_evidence
from privacy.attacks.recognition import rate
from privacy.node_secret import NodeSecret
from privacy.operators import Chain
from tasks.data.people.person import person
from tasks.data.people.photograph import Portrait
from tasks.fields.distance import representation
from tasks.head.fit import Budget, Fit
from tasks.head.mesh import FACE, Mesh, compare, inside, sampled
from tasks.head.stages import Stage, chosen
from tasks.head.task import HeadTask
from tasks.head.views import Evidence

COLOURS, REAR = "", "rear views alone"
POINTS = 20_000  # of a gallery's surface; of a fitted face a tenth


def fitted(
    experiment: Experiment, client: int, operators: Sequence[str], people: int
) -> dict[str, dict[str, float]]:
    """Of one person's head under every operator (and from rear views alone): distance of the face
    from the truth, and the rank of the person in the gallery, 1 the best."""
    data = HeadTask(experiment).client_data(client)
    assert data.truth is not None
    head = experiment.head
    budget = Budget(head.rays, head.patches, head.patch)
    early, late = chosen("stage2", head)
    secret = NodeSecret.simulated("upload", client)

    def fit(evidence: Evidence, stages: Sequence[Stage], after: Fit | None) -> Fit:
        side = stages[0].grids[0] if stages[0].grids else head.grid
        found = Fit(evidence, budget, 0, side=side, representation=representation(head.field))
        if after is not None:
            found.restore(after.tensors(), after.stage)
        for stage in stages:
            found.run(stage)
        return found

    rear = fit(Evidence(data.neutral, None, data.background), [early], None)
    meshes = {REAR: _surface(rear)}
    for operator in operators:
        if operator == COLOURS:
            found = fit(data.in_colour, chosen("full_rgb", head), None)
        else:
            evidence = obscured_evidence(data, Chain.parsed(operator), secret, client)
            found = fit(evidence, [late], rear)
        meshes[operator] = _surface(found)
    ranks = _ranks(
        {name: mesh for name, mesh in meshes.items() if mesh}, client, people, head.style
    )
    told: dict[str, dict[str, float]] = {}
    for name, mesh in meshes.items():
        if mesh is None:  # no surface: as far away as anything, and nobody's
            told[name] = {"face": float("inf"), "rank": float(people)}
            continue
        face = compare(mesh, data.truth, samples=head.samples)["chamfer_face"]
        told[name] = {"face": 1e3 * face, "rank": float(ranks[name])}
    return told


def _surface(fit: Fit) -> Mesh | None:
    try:
        return fit.surface()
    except ValueError:
        return None


def _ranks(meshes: dict[str, Mesh], client: int, people: int, style: str) -> dict[str, int]:
    """Rank of the client among people, by the mean distance from each fitted face to their
    surfaces."""
    from scipy.spatial import cKDTree

    faces = {}
    for name, mesh in meshes.items():
        points = sampled(mesh, POINTS, 1)[0]
        faces[name] = points[inside(points, FACE)][: POINTS // 10]
    apart = {name: np.zeros(people) for name in meshes}
    for number in range(people):
        portrait = Portrait.of(person(number, style))
        whole = Mesh(portrait.vertices.double().numpy(), portrait.faces.numpy())
        tree = cKDTree(sampled(whole, POINTS, 2)[0])
        for name, points in faces.items():
            apart[name][number] = tree.query(points)[0].mean() if len(points) else np.inf
    return {name: int((rows < rows[client]).sum()) + 1 for name, rows in apart.items()}


def rows(
    fits: Sequence[dict[str, dict[str, Any]]],
    operators: Sequence[str],
    people: int,
    told: Callable[[Any], Any],
) -> list[dict[str, Any]]:
    """Rows of the table: recognition from geometry, and faces in distances of stage 1."""
    found: list[dict[str, Any]] = []
    for name in [*operators, REAR]:
        right = torch.tensor([float(fit[name]["rank"] == 1) for fit in fits])
        found.append(
            {"operator": told(name), "attack": "fitted geometry", "metric": "rank-1",
             **rate(right)._asdict(), "chance": 1 / people, "floor": None,
             "course": [fit[name]["rank"] for fit in fits]}
        )  # fmt: skip
        pairs = [(fit[name]["face"], fit[REAR]["face"]) for fit in fits]
        whole = all(one is not None and other is not None for one, other in pairs)
        ratio = sum(p[0] for p in pairs) / sum(p[1] for p in pairs) if whole and pairs else None
        found.append(
            {"operator": told(name), "attack": "(use)", "metric": "face ratio", "value": ratio,
             "low": None, "high": None, "n": len(pairs), "chance": None, "floor": None}
        )  # fmt: skip
    return found
