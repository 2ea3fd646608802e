"""Pictures: bundled, from a folder, of any size, grey or RGB; and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.data import bundled, folder
from tasks.data.pictures import contact_sheet
from tasks.errors import InputError
from tasks.image import ImageTask
from tasks.settings import DataSettings, FieldSettings, TaskSettings
from tasks.signals import sampled


def task(**data: object) -> ImageTask:
    return ImageTask(TaskSettings(data=DataSettings(**data), field=FieldSettings(width=8, depth=1)))


def write(path: Path, width: int, height: int, mode: str = "RGB") -> None:
    array = np.random.default_rng(width * height).integers(
        0, 255, (height, width, len(mode)), dtype=np.uint8
    )
    Image.fromarray(array.squeeze()).convert(mode).save(path)


def test_bundled_pictures_are_real_private_and_disjoint_from_the_held_out() -> None:
    pictures = [bundled.private_picture(client, 32, 3) for client in range(16)]
    assert len({picture.name for picture in pictures}) == 16
    assert not set(bundled.PRIVATE) & set(bundled.HELD_OUT)
    for picture in pictures:
        assert (
            picture.truth.shape == (32, 32, 3)
            and picture.truth.min() >= 0
            and picture.truth.max() <= 1
        )
        assert picture.truth.std() > 0.02, f"{picture.name} is flat"
    again = bundled.private_picture(13, 32, 3)
    assert torch.equal(again.truth, pictures[13].truth), "a crop depends on the client alone"
    assert not torch.equal(pictures[13].truth, pictures[1].truth)


def test_pixels_and_coordinates_belong_together() -> None:
    truth = torch.arange(6.0).reshape(2, 3, 1) / 6
    picture = sampled("ramp", truth).support
    assert picture.inputs.tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    assert picture.values.squeeze().tolist() == truth.flatten().tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_own_images_of_any_size(tmp_path: Path, channels: int) -> None:
    for index, (width, height, mode) in enumerate(
        [(20, 9, "RGB"), (8, 31, "L"), (16, 16, "RGBA"), (5, 7, "L")]
    ):
        write(tmp_path / f"{index}.png", width, height, mode)
    own = task(path=str(tmp_path), size=0, channels=channels, held_out=1)
    own.check(3)
    cohort = [own.client_data(client) for client in range(3)]
    assert [tuple(picture.truth.shape) for picture in cohort] == [
        (9, 20, channels),
        (31, 8, channels),
        (16, 16, channels),
    ]
    assert own.held_out()[0].name == "3"
    episode = own.episodes(cohort, [("t", c) for c in range(3)], 2, 3, 11, torch.device("cpu"))(1)
    assert len(episode.support) == 3 and episode.query.inputs.shape == (3, 11, 2)
    for row, picture in enumerate(cohort):
        samples = picture.signals[0].support
        known = {tuple(pixel) for pixel in torch.cat([samples.inputs, samples.values], 1).tolist()}
        drawn = torch.cat([episode.query.inputs[row], episode.query.targets[row]], 1).tolist()
        assert {tuple(pixel) for pixel in drawn} <= known, "a client only ever sees its own pixels"
    rendered = own.render(torch.stack([own.init(0)] * 3), cohort)
    assert [image.shape for image in rendered] == [picture.truth.shape for picture in cohort]


def test_render_in_blocks_equals_render_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    own = task(size=16)
    params = None
    params = own.init(0)[None]
    whole = own.predict(params, own.client_data(0).signals[0].support.inputs[None])
    monkeypatch.setattr("tasks.fitting.SAMPLES_AT_ONCE", {"cpu": 7})
    torch.testing.assert_close(
        own.predict(params, own.client_data(0).signals[0].support.inputs[None]), whole
    )


def test_draws_depend_on_the_client_not_on_the_cohort() -> None:
    own = task(size=16)
    pair = [own.client_data(0), own.client_data(1)]
    both = own.episodes(pair, [("b", 0), ("b", 1)], 1, 1, 9, torch.device("cpu"))(0)
    alone = own.episodes(pair[1:], [("b", 1)], 1, 1, 9, torch.device("cpu"))(0)
    assert torch.equal(both.query.targets[1], alone.query.targets[0])


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda path: None, "holds no files"),
        (
            lambda path: (path / "notes.txt").write_text("hello", encoding="utf-8"),
            "not a readable image",
        ),
        (lambda path: write(path / "only.png", 8, 8), "too few"),
    ],
)
def test_bad_folders_are_refused_by_name(tmp_path: Path, prepare: object, reason: str) -> None:
    prepare(tmp_path)
    folder.image_files.cache_clear()
    with pytest.raises(InputError, match=reason) as caught:
        task(path=str(tmp_path), held_out=1).check(4)
    assert (
        caught.value.key == "data.path"
        and str(tmp_path) in str(caught.value.value)
        and caught.value.remedy
    )


def test_all_odd_files_of_a_folder_are_named_at_once(tmp_path: Path) -> None:
    """A note, a telephone's picture and one cut short: two lists (of what is no picture, of what
    cannot be decoded), not a start for each file."""
    for index in range(4):
        write(tmp_path / f"{index}.png", 8 + index, 8)
    for name in ("a.txt", "b.HEIC", "c.doc"):
        (tmp_path / name).write_text("hello", encoding="utf-8")
    folder.image_files.cache_clear()
    with pytest.raises(InputError) as caught:
        task(path=str(tmp_path), held_out=1).check(2)
    told = str(caught.value)
    assert caught.value.value == "3 faults"
    assert all(str(tmp_path / name) in told for name in ("a.txt", "b.HEIC", "c.doc"))
    assert "HEIC pictures are not read" in told and "convert it to JPEG or PNG" in told
    for name in ("a.txt", "b.HEIC", "c.doc"):
        (tmp_path / name).unlink()
    for name in ("1.png", "3.png"):  # a client's, and the one held out
        with Image.open(tmp_path / "0.png") as image:
            image.resize((64, 64)).save(tmp_path / name, "JPEG")  # only decoding shows the cut
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    folder.image_files.cache_clear()
    with pytest.raises(InputError) as caught:
        task(path=str(tmp_path), held_out=1).check(2)
    assert caught.value.value == "2 faults"
    assert "1.png: cannot be decoded" in str(caught.value)
    assert "3.png: cannot be decoded" in str(caught.value)


def test_how_many_are_used_and_twins_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(5):
        write(tmp_path / f"{index}.png", 8 + index, 8)
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())
    folder.image_files.cache_clear()
    task(path=str(tmp_path), held_out=1).check(2)
    assert "3 of 5 pictures are used" in caplog.text
    assert "the same picture under several names: 0.png, 1.png" in caplog.text
    caplog.clear()
    task(path=str(tmp_path), held_out=3).check(2)
    assert "are used" not in caplog.text


def test_a_truncated_image_is_refused_when_read(tmp_path: Path) -> None:
    write(tmp_path / "0.png", 64, 64)
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be decoded"):
        folder.load(tmp_path / "0.png", 0, 3)


def test_several_pictures_a_client_must_share_a_size(tmp_path: Path) -> None:
    for index, side in enumerate((8, 8, 8, 12, 8)):
        write(tmp_path / f"{index}.png", side, side + index % 2)
    folder.image_files.cache_clear()
    with pytest.raises(InputError, match="differ in size") as caught:
        task(path=str(tmp_path), size=0, objects=2, held_out=1).check(2)
    assert caught.value.key == "data.size" and "8x8" in caught.value.reason
    own = task(path=str(tmp_path), size=6, objects=2, held_out=1)
    own.check(2)
    assert own.client_data(1).examples == 2 and own.client_data(1).truth.shape == (2, 6, 6, 3)


def test_a_contact_sheet_shows_the_first_and_the_last() -> None:
    frames = torch.linspace(0, 0.9, 10).view(10, 1, 1, 1).expand(10, 3, 2, 3)
    sheet = contact_sheet(frames, most=3)
    assert sheet.shape == (3, 3 * 2 + 2 * 2, 3)
    assert (sheet[0, 0, 0], sheet[0, -1, 0], sheet[0, 2, 0]) == (0.0, pytest.approx(0.9), 1.0)


def test_more_held_out_than_there_are_is_refused(tmp_path: Path) -> None:
    for index in range(3):
        write(tmp_path / f"{index}.png", 8, 8)
    folder.image_files.cache_clear()
    with pytest.raises(InputError, match="too few"):
        task(path=str(tmp_path), held_out=4).check(1)
