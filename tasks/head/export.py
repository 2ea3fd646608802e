"""Meshes as files that other programs open."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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


def write_obj(path: Path, mesh: Mesh) -> None:
    """Wavefront OBJ: text, corners counted from 1."""
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in mesh.vertices]
    lines += [f"f {one} {two} {three}" for one, two, three in mesh.faces + 1]
    write_bytes(path, ("\n".join(lines) + "\n").encode("ascii"))


def write_glb(path: Path, mesh: Mesh) -> None:
    """Binary glTF 2.0: positions, smooth normals and triangles, in one file that browsers, phones
    and modelling programs open."""
    places = mesh.vertices.astype("<f4")
    normals = smooth_normals(mesh).astype("<f4")
    corners = mesh.faces.astype("<u4")
    parts = [places.tobytes(), normals.tobytes(), corners.tobytes()]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    targets = (34962, 34962, 34963)  # vertices, vertices, corners
    accessors: list[dict[str, object]] = [
        {"bufferView": 0, "componentType": 5126, "count": len(places), "type": "VEC3",
         "min": places.min(0).tolist(), "max": places.max(0).tolist()},
        {"bufferView": 1, "componentType": 5126, "count": len(places), "type": "VEC3"},
        {"bufferView": 2, "componentType": 5125, "count": corners.size, "type": "SCALAR"},
    ]  # fmt: skip
    primitive = {"attributes": {"POSITION": 0, "NORMAL": 1}, "indices": 2}
    scene = {
        "asset": {"version": "2.0", "generator": "fedapp"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": [
            {"buffer": 0, "byteOffset": start, "byteLength": len(part), "target": target}
            for start, part, target in zip(starts, parts, targets, strict=False)
        ],
        "buffers": [{"byteLength": starts[-1]}],
    }
    text = json.dumps(scene).encode("ascii")
    text += b" " * (-len(text) % 4)
    body = b"".join(parts)  # every part is a multiple of 4 bytes long
    total = 12 + 8 + len(text) + 8 + len(body)
    found = struct.pack("<4sII", b"glTF", 2, total)
    found += struct.pack("<I4s", len(text), b"JSON") + text
    found += struct.pack("<I4s", len(body), b"BIN\0") + body
    write_bytes(path, found)


def smooth_normals(mesh: Mesh) -> NDArray[np.float64]:
    """Unit normals ``[N, 3]`` of vertices: their triangles', weighted by area."""
    one, two, three = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    face = np.cross(two - one, three - one)
    found = np.zeros_like(mesh.vertices)
    for corner in range(3):
        np.add.at(found, mesh.faces[:, corner], face)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    up = np.array([0.0, 1.0, 0.0])  # of a vertex that no triangle with an area has
    return np.where(length > 1e-20, found / length.clip(1e-20), up)


Writer = Callable[[Path, Mesh], None]
FORMATS: dict[str, Writer] = {"ply": write_ply, "obj": write_obj, "glb": write_glb}
