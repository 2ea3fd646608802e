"""Pictures as their owners saw them: bit depth, transparency, orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.data import folder
from tasks.data.layouts.reading import header, picture, view
from tasks.data.pictures import prepare
from tasks.errors import InputError


def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    expected = torch.from_numpy(ramp.astype(np.float32) / 65535)
    for channels in (1, 3):
        found = picture(tmp_path / "deep.png", 0, channels)
        torch.testing.assert_close(
            found, expected[..., None].expand(-1, -1, channels), atol=0.5 / 255 + 1e-6, rtol=0
        )
    seen = view(tmp_path / "deep.png", 0, 1.0).image
    torch.testing.assert_close(seen[..., 0], expected, atol=0.5 / 255 + 1e-6, rtol=0)


def test_numbers_without_a_range_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.3, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(InputError, match="no known range") as caught:
        folder.load(tmp_path / "float.tif", 0, 3)
    assert "float.tif" in str(caught.value.value)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_was_cut_out_is_white_and_its_hidden_colour_gone(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (40, 40, 40, 255))
    image.paste((200, 10, 10, 0) if mode == "RGBA" else (10, 10, 10, 0), (0, 0, 2, 2))
    image = image.convert(mode)
    if mode == "P":
        image = Image.new("P", (4, 4), 1)
        image.putpalette([200, 10, 10, 40, 40, 40])
        image.paste(0, (0, 0, 2, 2))
        image.info["transparency"] = 0
    found = prepare(image, 0, 3)
    assert bool((found[:2, :2] == 1).all()) and bool((found[2:] == 40 / 255).all())


def test_a_picture_stands_as_its_camera_was_held(tmp_path: Path) -> None:
    """Exif orientation 6: the stored top row is the right column of what was seen."""
    stored = np.zeros((2, 4, 3), np.uint8)
    stored[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "held.png", exif=exif)
    found = picture(tmp_path / "held.png", 0, 3)
    assert (
        found.shape == (4, 2, 3)
        and bool((found[:, 1] == 1).all())
        and bool((found[:, 0] == 0).all())
    )
    assert header(tmp_path / "held.png") == (2, 4) and header(
        tmp_path / "held.png", upright=False
    ) == (4, 2)
    assert view(tmp_path / "held.png", 0, 1.0).image.shape == (2, 4, 3), (
        "poses belong to the pixels as stored"
    )


def test_a_thin_part_of_a_view_is_in_its_mask(tmp_path: Path) -> None:
    """One pixel in eight of a row is opaque: an eighth of each new pixel, far below one half."""
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[8] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "rod.png")
    mask = view(tmp_path / "rod.png", 2, 1.0).mask
    assert mask is not None and mask.tolist() == [[False, False], [True, True]]
