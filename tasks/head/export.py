"""Meshes as files that other programs open."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tasks.atomic import write_bytes
from tasks.head.mesh import Mesh


def write_ply(path: Path, mesh: Mesh) -> None:
    """Binary PLY (little-endian): vertices as 32-bit floats, triangles."""
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.zeros(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"] = 3
    faces["corners"] = mesh.faces
    body = mesh.vertices.astype("<f4").tobytes() + faces.tobytes()
    write_bytes(path, header.encode("ascii") + body)


def read_ply(path: Path) -> Mesh:
    """Inverse of :func:`write_ply`."""
    header, body = path.read_bytes().split(b"end_header\n", 1)
    counts = [int(line.split()[-1]) for line in header.splitlines() if line.startswith(b"element")]
    vertices = np.frombuffer(body, "<f4", 3 * counts[0]).reshape(-1, 3)
    kind = np.dtype([("count", "u1"), ("corners", "<i4", 3)])
    faces = np.frombuffer(body, kind, counts[1], vertices.nbytes)
    return Mesh(vertices.astype(float), faces["corners"].astype(np.int64))
