"""Tiny data sets of every layout, as files that tests write and read back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.data.layouts import Holder
from tasks.errors import InputError

ANGLE = 0.8
CAR = "100715345ee54d7ae38b52b4ee9d36a3"
OTHER_CAR = "100c3076c74ee1874eb766e5a46fceab"


def paint(
    path: Path, colour: tuple[int, ...] = (255, 0, 0), shape: tuple[int, int] = (8, 8)
) -> Path:
    """A picture of one colour, of ``shape`` (width, height); four numbers make it RGBA."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(colour) == 4 else "RGB", shape, colour).save(path)
    return path


def pose(x: float = 0.0, y: float = 0.0, z: float = 4.0, turn: float = 0.0) -> list[list[float]]:
    cos = math.cos(turn)
    sin = math.sin(turn)
    return [[cos, 0.0, sin, x], [0.0, 1.0, 0.0, y], [-sin, 0.0, cos, z], [0.0, 0.0, 0.0, 1.0]]


def around(index: int, distance: float = 4.0) -> list[list[float]]:
    """The ``index``-th of cameras on a ring about the origin, which all look at."""
    angle = 0.3 * index
    return pose(x=distance * math.sin(angle), z=distance * math.cos(angle), turn=angle)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def scene(parent: Path, views: int = 3, prefix: str = "./train/", **keys: Any) -> Path:
    """An object seen by ``views`` cameras: left half red, right half see-through (with green under
    it)."""
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:, :4] = 255, 0, 0, 255
    pixels[:, 4:] = 0, 255, 0, 0
    frames = []
    for index in range(views):
        relative = f"{prefix}r_{index}"
        file = parent / f"{relative}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        frames.append({"file_path": relative, "transform_matrix": around(index)})
    return write(parent / "transforms.json", {"camera_angle_x": ANGLE, "frames": frames} | keys)


def shapenet(root: Path) -> None:
    for name in (CAR, OTHER_CAR):
        file = scene(root / "cars" / "02958343" / name, prefix="", model=name)
        meta = json.loads(file.read_text(encoding="utf-8"))
        for frame in meta["frames"]:
            frame["file_path"] = f"/home/somebody/renders/{frame['file_path']}.png"
        write(file, meta)


def facescape(root: Path, people: tuple[str, ...] = ("122", "7")) -> None:
    for person in people:
        frames = []
        for expression, view in [(0, 0), (3, 0), (0, 1), (3, 1), (0, 2)]:
            relative = f"/{person}/{expression}/{view}"
            paint(root / f"{relative[1:]}.png", (60 * expression, 60 * view, 90))
            matrix = pose(x=view, z=16.0, turn=0.2 * view)
            frames.append(
                {"file_path": relative, "expression": str(expression), "transform_matrix": matrix}
            )
        write(root / f"transforms_all_{person}.json", {"camera_angle_x": ANGLE, "frames": frames})


def petface(root: Path) -> None:
    for animal, count in {"000001": 3, "000002": 1, "000003": 2}.items():
        for number in range(count):
            ending = "jpg" if number == 1 else "png"
            paint(root / "images" / "cat" / animal / f"0{number}.{ending}", (80 * number, 0, 0))
    paint(root / "images" / "dog" / "000001" / "a.png")
    paint(root / "images" / "dog" / "000001" / "b.png")
    write(
        root / "excluded" / "cat_excluded_images.json",
        {"000001": ["02.png"], "000003": ["00.png"], "999999": ["x"]},
    )


def golfdb(root: Path, used: bool = True) -> None:
    rows = [
        "11,5,aa,ROSE,m,driver,front",
        '12,0,bb,"ROSE",m,iron,"down, the line"',
        "13,7,cc,KERR,f,driver,front",
    ]
    rows += ["14,9,dd,KERR,f,driver,front", "15,6,ee,ALONE,m,driver,front"]
    write(root / "golfDB_slice.csv", "\n".join([",id,youtube_id,player,sex,club,view", *rows, ""]))
    for swing in (5, 0, 7, 6) if used else (5, 0, 7, 9, 6):
        for event in range(8):
            paint(root / "images_160" / f"{swing}_{event}.png", (30 * event, 10 * swing, 0))
    if used:
        write(root / "use_ids.txt", "0\n5\n7\n6\n400\n")


def clips(root: Path) -> None:
    for number in (10, 2, 1):
        paint(root / "ann" / "walk" / f"frame{number}.png", (20 * number, 0, 0))
    (root / "ben").mkdir(parents=True)
    pictures = [Image.new("RGB", (8, 6), (0, 0, 80 * index)) for index in range(3)]
    pictures[0].save(
        root / "ben" / "wave.gif", save_all=True, append_images=pictures[1:], duration=40
    )


def transforms(root: Path) -> None:
    scene(root / "lego")
    scene(root / "chair")


BUILD: dict[str, Callable[[Path], None]] = {
    "facescape": facescape,
    "shapenet": shapenet,
    "transforms": transforms,
    "golfdb": golfdb,
    "petface": petface,
    "clips": clips,
}
HOLDERS = {
    "facescape": {"7": 2, "122": 2},
    "shapenet": {f"cars/02958343/{OTHER_CAR}": 1, f"cars/02958343/{CAR}": 1},
    "transforms": {"chair": 1, "lego": 1},
    "golfdb": {"ROSE": 2},
    "petface": {"cat/000001": 2, "dog/000001": 2},
    "clips": {"ann": 1, "ben": 1},
}


def counts(holders: list[Holder]) -> dict[str, int]:
    return {holder.name: len(holder.items) for holder in holders}


def refused(error: pytest.ExceptionInfo[InputError], file: Path | str, *words: str) -> None:
    """The message names the key, the file, every one of ``words``, and a remedy."""
    assert error.value.key == "data.path" and str(error.value.value).endswith(str(file))
    assert error.value.remedy and all(word in str(error.value) for word in words), str(error.value)


def said_by_one(file: Path, **said: Any) -> Path:
    """The json with what the second photograph says of its own camera."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content["frames"][1] |= said
    return write(file, content)
