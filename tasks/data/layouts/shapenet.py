"""ShapeNet cars, chairs and lamps as rendered for "learnit": a folder per object, photographs next
to its json.

Chang et al., "ShapeNet: An Information-Rich 3D Model Repository", 2015,
https://arxiv.org/abs/1512.03012; renderings of Tancik et al., "Learned Initializations for
Optimizing Coordinate-Based Neural Representations", CVPR 2021,
https://arxiv.org/abs/2012.02189 (https://github.com/tancik/learnit), in the folder given or in
``[cars/][02958343/]`` below it::

    <id>/transforms.json            {camera_angle_x, model, frames: [{file_path, ...}, ...]}
    <id>/<stem of file_path>.png    RGBA, put on white
    car_splits.json                 {train: [id, ...], val: [...], test: [...]}, optional

The folder to give is the one with the objects or one of the two above it. Where there is a
``<class>_splits.json``, only its objects count, those of all splits together: who holds an object
out is decided elsewhere.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath

from pydantic import RootModel

from tasks.data.cameras import Views
from tasks.data.layouts import DatasetLayout, Holder
from tasks.data.layouts.reading import folder, header, parse_json, read_json, subfolders, unusable
from tasks.data.layouts.transforms import NAMES, Frame, Scene, load, missing, objects

log = logging.getLogger("flwr")

# UUIDs, and ids that are older than those.
ID = re.compile(r"u?[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}|[0-9a-f]{28,32}")
SPLITS = "_splits.json"
DEPTH = 3  # steps from the folder given down to an object's, at most
CLASSES = 64  # a folder with more folders than that holds objects, or is no data set of this layout


class Splits(RootModel[dict[str, list[str]]]):
    """``{split: [object, ...]}``; an object is its id, possibly with folders before it."""


def photograph(file: Path, frame: Frame) -> Path:
    """The png next to the json that has the stem of ``file_path``, which may name folders of
    another machine."""
    path = file.with_name(PurePosixPath(frame.file_path.replace("\\", "/")).stem + ".png")
    if not path.is_file():
        raise missing(path, file, frame)
    return path


def _object_folders(root: Path) -> list[Path]:
    """The folders at the first depth at which one has a ``transforms.json``."""
    level = [root]
    for _ in range(DEPTH):
        level = [inner for outer in level for inner in subfolders(outer)]
        if any((parent / NAMES[0]).is_file() for parent in level):
            return level
        if len(level) > CLASSES:
            break
    return []


def _listed(root: Path, found: list[Holder]) -> list[Holder]:
    """Without the objects that a splits file of their class leaves out; others are not its
    business."""
    tops = [root, *root.parents[: DEPTH - 1]]
    kept = found
    for file in (file for top in tops for file in sorted(top.glob("*" + SPLITS))):
        single = file.name.removesuffix(SPLITS)
        classes = {single, f"{single}s"}  # car_splits.json is about what lies in cars
        here = {holder.items[0].parent for holder in found}
        governed = {
            o
            for o in here
            if o.parent == file.parent or classes & {file.parent.name, *_below(o, file.parent)}
        }
        if governed:
            listed = {
                PurePosixPath(name).name
                for split in parse_json(file, Splits).root.values()
                for name in split
            }
            absent = len(listed - {o.name for o in governed})
            if absent:
                log.warning("%d of the %d objects of %s are not there", absent, len(listed), file)
            dropped = {o for o in governed if o.name not in listed}
            kept = [holder for holder in kept if holder.items[0].parent not in dropped]
    return kept


def _below(path: Path, top: Path) -> tuple[str, ...]:
    return path.relative_to(top).parts


class ShapeNet(DatasetLayout):
    """Objects to be dealt out to clients; 128 x 128 pixels in the published set, from 2 to 6 away
    from the camera."""

    kind = "views"
    owned = False
    expected = (
        "[cars/][02958343/]<ShapeNet id>/transforms.json with <stem>.png next to it; "
        "car_splits.json optional"
    )

    def found(self, root: Path) -> bool:
        return any(ID.fullmatch(o.name) and (o / NAMES[0]).is_file() for o in _object_folders(root))

    def holders(self, root: Path) -> list[Holder]:
        root = folder(root).resolve()  # splits files are looked for above it
        found = objects(_object_folders(root), root)
        if not found:
            raise unusable(root, "no objects in layout 'shapenet'", f"expected {self.expected}")
        kept = _listed(root, found)
        if not kept:
            remedy = "restore the objects that the splits file lists, or take the file away"
            raise unusable(root, f"none of its {len(found)} objects is listed in *{SPLITS}", remedy)
        return kept

    def measure(self, item: Path) -> tuple[Path, tuple[int, int]]:
        path = photograph(item, read_json(item, Scene).frames[0])
        return path, header(path, upright=False)

    def load_views(self, item: Path, size: int, most: int = 0) -> Views:
        return load(item, item.parent.name, read_json(item, Scene), size, most, find=photograph)
