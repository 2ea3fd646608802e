"""Photographs of animals: PetFace, or any folder that has a folder of photographs for each owner.

Shinoda and Shiohara, "PetFace: A Large-Scale Dataset and Benchmark for Animal Identification", ECCV
2024,
https://arxiv.org/abs/2407.13555 (https://dahlian00.github.io/PetFacePage/)::

    images/<species>/<animal>/*.png|jpg
    excluded/<species>_excluded_images.json      {animal: [file name, ...]}, optional

The folder to give is the one with ``images``, ``images`` itself, one species' in it, or any folder
of such animals. Only animals with two or more photographs that are not excluded count; the others
are passed over, as in the published experiments.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import RootModel
from torch import Tensor

from tasks.data.layouts import DatasetLayout, Holder
from tasks.data.layouts.reading import (
    folder,
    header,
    is_named,
    parse_json,
    passed_over,
    picture,
    pictures_in,
    subfolders,
    told_of_others,
    unusable,
)

LEAST = 2  # one to train on and one to test on


class Excluded(RootModel[dict[str, list[str]]]):
    """File names by animal."""


def _species(root: Path) -> list[tuple[Path, str]]:
    """Folders of animals, each with what its animals' names begin with."""
    if root.name == "images" and not (root / "images").is_dir():
        root = root.parent
    if (root / "images").is_dir():
        return [(species, f"{species.name}/") for species in subfolders(root / "images")]
    return [(root, "")]


def _excluded(species: Path) -> dict[str, list[str]]:
    """Photographs that the data set's list takes out; an animal that it names need not be here."""
    file = species.parent.parent / "excluded" / f"{species.name}_excluded_images.json"
    if species.parent.name != "images" or not file.is_file():
        return {}
    return parse_json(file, Excluded).root


class PetFace(DatasetLayout):
    """Animals with two or more photographs; an item is a file."""

    kind = "pictures"
    owned = True
    expected = (
        "[images/<species>/]<animal>/*.png|jpg, two or more; "
        "excluded/<species>_excluded_images.json optional"
    )

    def found(self, root: Path) -> bool:
        root = root.absolute()
        animals = (animal for species, _ in _species(root) for animal in subfolders(species))
        return any(any(is_named(entry) for entry in animal.iterdir()) for animal in animals)

    def holders(self, root: Path) -> list[Holder]:
        root = folder(root).absolute()  # "." has no name, and its parent would be itself
        animals = []
        others: list[Path] = []
        for species, prefix in _species(root):
            excluded = _excluded(species)
            for animal in subfolders(species):
                photographs = pictures_in(animal)
                others += passed_over(animal)
                if not photographs:
                    remedy = f"put {LEAST} or more into it or remove it"
                    raise unusable(animal, "a folder without photographs", remedy)
                out = frozenset(excluded.get(animal.name, ()))
                usable = tuple(file for file in photographs if file.name not in out)
                if len(usable) >= LEAST:
                    animals.append(Holder(prefix + animal.name, usable))
        told_of_others(root, others, "pictures")
        if not animals:
            reason = f"no animal with {LEAST} or more usable photographs"
            raise unusable(root, reason, f"expected {self.expected}")
        return animals

    def measure(self, item: Path) -> tuple[Path, tuple[int, int]]:
        return item, header(item)

    def load_pictures(self, item: Path, size: int, channels: int) -> Tensor:
        return picture(item, size, channels)
