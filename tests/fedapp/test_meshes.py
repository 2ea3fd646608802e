"""Meshes that leave a run: files for other programs, and the page's own viewer."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fedapp.export_meshes import export_meshes
from fedapp.report.mesh_viewer import VIEWER, meshes, packed
from fedapp.store.runfolder import RunFolder
from tasks.errors import InputError
from tasks.fields.sdf import corners
from tasks.head.export import smooth_normals, write_glb, write_obj, write_ply
from tasks.head.mesh import Mesh, surface


def ball() -> Mesh:
    return surface(corners(24).norm(dim=-1) - 0.4)


def test_an_obj_counts_from_one(tmp_path: Path) -> None:
    mesh = ball()
    write_obj(tmp_path / "a.obj", mesh)
    lines = [line.split() for line in (tmp_path / "a.obj").read_text(encoding="ascii").splitlines()]
    places = np.array([line[1:] for line in lines if line[0] == "v"], float)
    faces = np.array([line[1:] for line in lines if line[0] == "f"], int)
    np.testing.assert_allclose(places, mesh.vertices, atol=1e-6)
    assert faces.min() == 1
    assert (faces - 1 == mesh.faces).all()


def test_a_glb_is_read_by_its_own_description(tmp_path: Path) -> None:
    mesh = ball()
    write_glb(tmp_path / "a.glb", mesh)
    data = (tmp_path / "a.glb").read_bytes()
    magic, version, total = struct.unpack("<4sII", data[:12])
    assert (magic, version, total) == (b"glTF", 2, len(data))
    length, kind = struct.unpack("<I4s", data[12:20])
    assert kind == b"JSON" and length % 4 == 0
    scene = json.loads(data[20 : 20 + length])
    size, kind = struct.unpack("<I4s", data[20 + length : 28 + length])
    body = data[28 + length :]
    assert kind == b"BIN\0" and size == len(body) == scene["buffers"][0]["byteLength"]
    types = {5126: "<f4", 5125: "<u4"}
    read = []
    for accessor in scene["accessors"]:
        view = scene["bufferViews"][accessor["bufferView"]]
        part = body[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        values = np.frombuffer(part, types[accessor["componentType"]])
        assert len(values) == accessor["count"] * (3 if accessor["type"] == "VEC3" else 1)
        read.append(values)
    np.testing.assert_allclose(read[0].reshape(-1, 3), mesh.vertices, atol=1e-6)
    assert (read[2].reshape(-1, 3) == mesh.faces).all()
    assert scene["accessors"][0]["max"] == read[0].reshape(-1, 3).max(0).tolist()
    # of a ball, normals point away from its middle
    away = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert (read[1].reshape(-1, 3) * away).sum(1).min() > 0.98


def test_normals_of_lost_vertices_are_of_unit_length() -> None:
    mesh = Mesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]]), np.array([[0, 1, 2]]))
    np.testing.assert_allclose(np.linalg.norm(smooth_normals(mesh), axis=1), 1)


def _run(path: Path) -> RunFolder:
    (path / "meshes").mkdir()
    (path / "config.json").write_text("{}", encoding="utf-8")
    for client in range(9):
        for method in ("stage1", "stage2"):
            write_ply(path / "meshes" / f"{method}-0-{client:04d}.ply", ball())
    return RunFolder.open(path)


def test_a_run_exports_its_meshes(tmp_path: Path) -> None:
    folder = _run(tmp_path)
    out = tmp_path / "out"
    facts = export_meshes(folder, out, "stage2", client=3)
    assert sorted(facts["files"]) == [f"stage2-0-0003.{end}" for end in ("glb", "obj", "ply")]
    assert sorted(file.name for file in out.iterdir()) == sorted(facts["files"])
    with pytest.raises(InputError, match="has no such mesh"):
        export_meshes(folder, out, "stage3")


def test_a_page_holds_a_dozen_meshes_at_most(tmp_path: Path) -> None:
    _run(tmp_path)
    found = meshes(tmp_path, ["stage1", "stage2"], 0)
    assert [(one["client"], one["method"]) for one in found[:3]] == [
        (0, "stage1"), (0, "stage2"), (1, "stage1"),
    ]  # fmt: skip
    assert len(found) == 12
    assert meshes(tmp_path, ["stage1"], 7) == []


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node to run the page's script")
def test_the_viewer_draws_what_is_there() -> None:
    """A box: its silhouette from in front is its own width by height, and turned by a quarter its
    depth by height."""
    half = np.array([0.2, 0.4, 0.3])
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    box = Mesh(signs * half, faces)
    script = (
        VIEWER
        + f"""
const mesh = meshOf({json.dumps(packed(box))});
for (const yaw of [0, Math.PI / 2]) process.stdout.write(Buffer.from(paint(mesh, 200, yaw, 0, 1)));
"""
    )
    done = subprocess.run(["node", "-"], input=script.encode(), capture_output=True, check=True)
    for picture, width in zip(
        np.frombuffer(done.stdout, np.uint8).reshape(2, 200, 200, 4),
        (half[0], half[2]),
        strict=True,
    ):
        drawn = np.argwhere((picture[..., :3] != 255).any(-1))
        scale = 200 / np.linalg.norm(half)
        extent = drawn.max(0) - drawn.min(0) + 1
        assert abs(extent[0] - scale * half[1]) <= 2
        assert abs(extent[1] - scale * width) <= 2
