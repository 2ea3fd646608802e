"""FaceScape as MoFaNeRF renders it: one json per person, whose frames are that person's expressions
from many sides.

Yang et al., "FaceScape: a Large-scale High Quality 3D Face Dataset and Detailed Riggable 3D Face
Prediction", CVPR 2020, https://arxiv.org/abs/2003.13989; renderings of Zhuang et al., "MoFaNeRF:
Morphable Facial Neural Radiance Field", ECCV 2022, https://arxiv.org/abs/2112.02308
(https://github.com/zhuhao-nju/mofanerf), in the folder given or in ``[train/]multi-view-images``::

    transforms_all_<person>.json    {camera_angle_x, frames: [{expression, ...}, ...]}
    <file_path>.png                 512 x 512 pixels; file_path begins with a slash

A person is a client and an expression (0 to 19) an item. Camera positions are divided by 10, which
puts every face between 0.8 and 2.6 from its cameras; rotations stay as they are. The background is
black. However many people there are, there are: a part of the data set will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, Field

from tasks.data.cameras import Views
from tasks.data.layouts import DatasetLayout, Holder
from tasks.data.layouts.reading import folder, header, natural, parse_json, read_json, unusable
from tasks.data.layouts.transforms import Frame, Scene, load, photograph

PREFIX = "transforms_all_"
SUFFIX = ".json"
EXPRESSIONS = 20
NEAR = 0.8  # units of the scene, from the camera
FAR = 2.6
BLACK = 0.0  # grey level of the background
SCALE = 10.0


class Expression(NamedTuple):
    """One person's one expression: ``number`` in 0 to 19 among the frames of ``file``."""

    file: Path
    number: int


class FaceFrame(Frame):
    """A frame that says which expression it shows."""

    expression: int = Field(ge=0, lt=EXPRESSIONS)


class FaceScene(Scene):
    """All frames of a person."""

    frames: Sequence[FaceFrame] = Field(min_length=1)


class _Shown(BaseModel):
    expression: int = Field(ge=0, lt=EXPRESSIONS)


class _Listing(BaseModel):
    """The expressions in a person's json and nothing else: all of 294 such files would fill the
    memory."""

    frames: list[_Shown] = Field(min_length=1)


def _files(root: Path) -> list[Path]:
    for base in (root, root / "multi-view-images", root / "train" / "multi-view-images"):
        if files := sorted(base.glob(f"{PREFIX}*{SUFFIX}"), key=natural):
            return files
    return []


def _person(file: Path) -> str:
    return file.name.removeprefix(PREFIX).removesuffix(SUFFIX)


def _scene(item: Expression) -> FaceScene:
    """The person's scene with the frames of that expression alone."""
    scene = read_json(item.file, FaceScene)
    frames = [frame for frame in scene.frames if frame.expression == item.number]
    if not frames:
        raise unusable(
            item.file,
            f"has no frames of expression {item.number} any more",
            "list the data set again",
        )
    return scene.model_copy(update={"frames": frames})


class FaceScape(DatasetLayout):
    """People with up to 20 expressions each."""

    kind = "views"
    owned = True
    expected = (
        "[[train/]multi-view-images/]transforms_all_<person>.json with its photographs below it"
    )

    def found(self, root: Path) -> bool:
        return bool(_files(root))

    def holders(self, root: Path) -> list[Holder]:
        root = folder(root)
        people = []
        for file in _files(root):
            numbers = sorted({frame.expression for frame in parse_json(file, _Listing).frames})
            people.append(
                Holder(_person(file), tuple(Expression(file, number) for number in numbers))
            )
        if not people:
            raise unusable(root, "nobody in layout 'facescape'", f"expected {self.expected}")
        return people

    def measure(self, item: Expression) -> tuple[Path, tuple[int, int]]:
        path = photograph(item.file, _scene(item).frames[0])
        return path, header(path, upright=False)

    def load_views(self, item: Expression, size: int, most: int = 0) -> Views:
        name = f"{_person(item.file)}/{item.number}"
        scene = _scene(item)
        return load(
            item.file, name, scene, size, most, near=NEAR, far=FAR, background=BLACK, scale=SCALE
        )
