"""Data sets as they lie on the disk: the owners of data, and one picture, clip or set of views at a
time.

Six layouts are known (:data:`LAYOUTS`). Listing who holds what decodes no picture, so that it is
cheap for a data set of a million; an item is decoded when it is asked for. Unusable data are an
:class:`InputError` with the key ``data.path``, the file, the reason and the remedy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, cast

from torch import Tensor

from tasks.data.layouts.reading import folder, refuse_other_size
from tasks.errors import InputError
from tasks.registry import load

if TYPE_CHECKING:
    from tasks.data.cameras import Views

Kind = Literal["pictures", "video", "views"]

# The most particular first: the first one that recognises a folder is the one detected. ShapeNet,
# FaceScape and GolfDB would each also pass for pictures by animal or for clips, a transforms.json
# with its pictures for an animal.
LAYOUTS: dict[str, str] = {
    "facescape": "tasks.data.layouts.facescape:FaceScape",
    "shapenet": "tasks.data.layouts.shapenet:ShapeNet",
    "transforms": "tasks.data.layouts.transforms:Transforms",
    "golfdb": "tasks.data.layouts.golfdb:GolfDB",
    "petface": "tasks.data.layouts.petface:PetFace",
    "clips": "tasks.data.layouts.clips:Clips",
}


class Holder(NamedTuple):
    """A natural owner of data and what it owns; an item means something to the layout that listed
    it, to nobody else.

    Items are small, hashable and can be pickled: paths and numbers, never pixels.
    """

    name: str
    items: tuple[Any, ...]


class DatasetLayout(Protocol):
    """Order of one data set's files. An implementation derives from this and has the ``load_`` of
    its ``kind``.

    ``owned``: holders are people or animals, each a client as it is; otherwise every holder is one
    object with one item, to be dealt out to clients. ``expected`` says in a line which files
    :meth:`found` looks for.
    """

    kind: ClassVar[Kind]
    owned: ClassVar[bool]
    expected: ClassVar[str]

    def found(self, root: Path) -> bool:
        """Whether the folder has this layout; reads no more than the first sign of it."""
        ...

    def holders(self, root: Path) -> list[Holder]:
        """Everybody in the order of their names; never empty, and nobody with no items."""
        ...

    def measure(self, item: Any) -> tuple[Path, tuple[int, int]]:
        """One file of an item and the (width, height) in pixels that its header states; decodes
        nothing."""
        ...

    def check(self, holder: Holder, size: int) -> None:
        """Refuse a holder whose items differ in size while ``size = 0`` leaves them as they are."""
        if size == 0:
            measured = [self.measure(item) for item in holder.items]
            for path, shape in measured:
                refuse_other_size(*measured[0], path, shape, f"of {holder.name!r}")

    def load_pictures(self, item: Any, size: int, channels: int) -> Tensor:
        """``[H, W, channels]`` in [0, 1]: the central square at ``size`` pixels per side; 0: whole,
        native size."""
        raise TypeError(f"{type(self).__name__} has {self.kind}, no pictures")

    def load_video(self, item: Any, size: int, channels: int, most: int = 0) -> Tensor:
        """Frames in the order of time, each cut like a picture: ``[T, H, W, channels]`` in [0, 1].

        Args:
            item: one of a holder's.
            size: pixels per side; 0: native size.
            channels: 3 for RGB, 1 for grey.
            most: number of frames, the first ones, to decode at most; 0: all.
        """
        raise TypeError(f"{type(self).__name__} has {self.kind}, no video")

    def load_views(self, item: Any, size: int, most: int = 0) -> Views:
        """An object from all its cameras, or from ``most`` of them spread evenly over the listed
        order."""
        raise TypeError(f"{type(self).__name__} has {self.kind}, no views")


def open_layout(name: str) -> DatasetLayout:
    """The layout of that name; raises :class:`InputError` with the key ``data.layout`` if there is
    none."""
    return cast(DatasetLayout, load("layout", name, LAYOUTS, key="data.layout")())


def detect(root: Path, kind: Kind | None = None) -> str:
    """The name of the first layout that recognises the folder, one of the ``kind`` that is wanted
    before others (stills lie beside films); :class:`InputError` with all that were looked for."""
    root = folder(root)
    layouts = {name: open_layout(name) for name in LAYOUTS}
    for name, layout in sorted(layouts.items(), key=lambda one: kind not in (None, one[1].kind)):
        if layout.found(root):
            return name
    looked_for = "".join(f"\n      {name}: {layout.expected}" for name, layout in layouts.items())
    raise InputError(
        "data.path", str(root), "no data in any known layout", f"put them in one of:{looked_for}"
    )
