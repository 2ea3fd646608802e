"""Masks in files of their own, named by a frame's ``mask_path``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from layout_kit import paint, refused, said_by_one, scene
from PIL import Image

from tasks.data.layouts import open_layout
from tasks.errors import InputError


def opaque_scene(parent: Path) -> Path:
    """The scene without transparency: half red, half green."""
    file = scene(parent)
    for picture in sorted((parent / "train").iterdir()):
        with Image.open(picture) as image:
            image.convert("RGB").save(picture)
    return file


def test_a_mask_in_a_file_of_its_own_cuts_the_object_out(tmp_path: Path) -> None:
    """Half of the mask is white: what it leaves out is background, as a see-through pixel is."""
    file = opaque_scene(tmp_path / "one")
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[4:] = 255
    (tmp_path / "one" / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "one" / "masks" / "1.png")
    said_by_one(file, mask_path="masks/1.png")
    views = open_layout("transforms").load_views(file, 4)
    assert views.masks is not None
    assert views.masks[0].all() and not views.masks[1, :2].any() and views.masks[1, 2:].all()
    assert torch.equal(views.images[1, :2], torch.ones(2, 4, 3))
    assert torch.equal(views.images[1, 2:], views.images[0, 2:])


def test_a_mask_that_cannot_be_used(tmp_path: Path) -> None:
    file = said_by_one(opaque_scene(tmp_path / "one"), mask_path="masks/1.png")
    with pytest.raises(InputError) as error:
        open_layout("transforms").load_views(file, 4)
    refused(error, file, "mask_path", "names no file")
    small = paint(tmp_path / "one" / "masks" / "1.png", (255, 255, 255), (4, 8))
    with pytest.raises(InputError) as error:
        open_layout("transforms").load_views(file, 4)
    refused(error, small, "4 x 8", "8 x 8")
    for bad, words in (
        (Image.new("L", (8, 8), 1), "largest value is 1"),
        (Image.new("P", (8, 8), 1), "mode P"),
        (Image.new("RGBA", (8, 8), (255, 255, 255, 9)), "mode RGBA"),
    ):
        bad.save(small)
        with pytest.raises(InputError) as error:
            open_layout("transforms").load_views(file, 4)
        refused(error, small, words)
    paint(small, (255, 255, 255))
    transparent = said_by_one(scene(tmp_path / "two"), mask_path="masks/1.png")
    paint(tmp_path / "two" / "masks" / "1.png", (255, 255, 255))
    with pytest.raises(InputError, match="alpha channel and a mask"):
        open_layout("transforms").load_views(transparent, 4)
