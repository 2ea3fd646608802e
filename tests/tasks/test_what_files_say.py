"""Everything a file says is used, neutral or refused; what is passed over is told."""

from __future__ import annotations

import json
import logging
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layout_kit import around, paint, pose, scene
from PIL import Image

from tasks.data.folder import load
from tasks.data.layouts import detect
from tasks.data.layouts.clips import Clips
from tasks.data.layouts.transforms import Transforms
from tasks.data.naming import nobodys
from tasks.data.recordings.clips import UnusableClipError
from tasks.data.recordings.reading import probe
from tasks.data.sources import DatasetFolder
from tasks.errors import InputError
from tasks.settings import DataSettings

RED, BLACK = (200, 30, 30), (0, 0, 0)


# ------------------------------------------------------------------ whose it is
@pytest.mark.parametrize(
    "name",
    ["2024-01-03", "20240103", "20240103_141501", "IMG_2024-01-03", "VID_0012", "DSC00017",
     "Video 3", "WhatsApp Video 2024-01-03 at 14.15.01", "100 2023.12.31 party",
     "Photos from 2019", "2024-05", "100APPLE", "101_PANA", "12.05.2024"],
)  # fmt: skip
def test_what_a_camera_calls_a_file_is_nobodys_name(name: str) -> None:
    assert nobodys([name, f"cat/{name}"]) == [name, f"cat/{name}"]


@given(st.from_regex(r"[a-z]{2,9}(_[a-z]{2,5})?", fullmatch=True), st.integers(0, 999_999))
def test_people_and_numbers_are_names(word: str, number: int) -> None:
    """PetFace's six digits, FaceScape's three, VoxCeleb's ids; and words that are no camera's."""
    prefixes = ("vid", "img", "mov", "mvi", "pxl", "dsc", "gop", "gh", "gx", "dji", "win", "gmt",
                "video", "clip", "film", "movie", "recording", "screen", "whatsapp", "signal",
                "received")  # fmt: skip
    names = [
        f"{number:06d}",
        f"{number}",
        f"id{number:05d}",
        "Win",
        "Clip",
        "Gh",
        "2024",
        "001_0001",
    ]
    names += [] if word.startswith(prefixes) else [word, f"{word}{number}"]
    assert nobodys(names) == [] == nobodys(["1984"])
    assert nobodys(["2023", "2024"]) == ["2023", "2024"]  # all of them: an album's years


@pytest.mark.parametrize("kind", ["video", "pictures"])
def test_days_are_not_taken_for_people(tmp_path: Path, kind: str) -> None:
    for day in ("2024-01-03", "2024-01-04"):
        for index in range(2):
            paint(tmp_path / day / (f"walk{index}" if kind == "video" else "") / f"{index}.png")
    settings = DataSettings(path=str(tmp_path), size=8, held_out=1)

    def opened(settings: DataSettings) -> DatasetFolder:
        return DatasetFolder(settings, kind, lambda *_: pytest.fail("nothing is read"))  # type: ignore[arg-type]

    with pytest.raises(InputError, match=r"'2024-01-03'.*whose they are is not said"):
        opened(settings)
    layout = detect(tmp_path, kind)  # type: ignore[arg-type]
    told = opened(settings.model_copy(update={"layout": layout}))  # the owner says so
    assert [holder.name for holder in told.holders] == ["2024-01-03", "2024-01-04"]


def test_stills_beside_films_do_not_make_it_a_folder_of_stills(tmp_path: Path) -> None:
    for owner in ("ann", "bob"):
        film(tmp_path / owner / "a.mp4", "libx264", "yuv420p", [[RED]])
        paint(tmp_path / owner / "cover.webp")
    assert detect(tmp_path, "video") == "clips" and detect(tmp_path, "pictures") == "petface"


def test_files_that_are_not_used_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for owner in ("ann", "bob"):
        film(tmp_path / owner / "a.mp4", "libx264", "yuv420p", [[RED]])
        shutil.copy(tmp_path / owner / "a.mp4", tmp_path / owner / "b.MTS")
        (tmp_path / owner / "notes.txt").write_text("mine", encoding="utf-8")
        (tmp_path / owner / ".DS_Store").write_text("", encoding="utf-8")
    with caplog.at_level(logging.WARNING, "flwr"):
        held = Clips().holders(tmp_path)
    assert [len(holder.items) for holder in held] == [2, 2]  # a telephone's and a camera's film
    assert "2 files are no films" in caplog.text and "ann/notes.txt, bob/notes.txt" in caplog.text
    assert ".DS_Store" not in caplog.text


@pytest.mark.parametrize("ending", ["gif", "tiff", "webp", "png"])
def test_a_file_of_several_pictures_says_which_is_used(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    file = tmp_path / f"a.{ending}"
    more: dict[str, Any] = {"lossless": True} if ending == "webp" else {}
    pages[0].save(file, save_all=True, append_images=pages[1:], **more)
    with caplog.at_level(logging.WARNING, "flwr"):
        signal = load(file, 0, 3)
    assert np.allclose(signal.truth[0, 0] * 255, RED, atol=1)
    assert "holds 2 pictures: the first one is used" in caplog.text


# ------------------------------------------------------------------ films
def film(
    path: Path, codec: str, pixels: str, streams: list[list[tuple[int, ...]]], default: int = 0
) -> Path:
    """A file of films of one colour a frame, 16 x 16; RGBA colours where there are four numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        made = []
        for number, _ in enumerate(streams):
            stream = container.add_stream(codec, rate=25)
            stream.width = stream.height = 16
            stream.pix_fmt = pixels
            stream.options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
            stream.disposition = av.stream.Disposition.default if number == default else 0
            made.append(stream)
        for stream, colours in zip(made, streams, strict=True):
            for index, colour in enumerate(colours * 10):
                values = np.full((16, 16, len(colour)), colour, np.uint8)
                frame = av.VideoFrame.from_ndarray(
                    values, format="rgba" if len(colour) == 4 else "rgb24"
                )
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(("codec", "ending"), [("png", "mov"), ("qtrle", "mov"), ("ffv1", "mkv")])
@pytest.mark.parametrize("alpha", [0, 102, 255])
def test_what_hides_under_a_films_transparency_is_not_shown(
    tmp_path: Path, codec: str, ending: str, alpha: int
) -> None:
    """On white, as pictures are: 255 + alpha (colour - 255), in closed form."""
    pixels = {"png": "rgba", "qtrle": "argb", "ffv1": "bgra"}[codec]
    path = film(tmp_path / "ann" / f"a.{ending}", codec, pixels, [[(*RED, alpha)]])
    wanted = [255 + alpha / 255 * (one - 255) for one in RED]
    shown = Clips().load_video(path, 16, 3, 1)[0, 8, 8].numpy() * 255
    assert np.allclose(shown, wanted, atol=1.01)


def test_the_film_a_player_would_play_is_read(tmp_path: Path) -> None:
    for default, wanted in ((0, BLACK), (1, RED)):
        path = film(tmp_path / f"{default}.mkv", "libx264", "yuv420p", [[BLACK], [RED]], default)
        shown = Clips().load_video(path, 16, 3, 1)[0, 8, 8] * 255
        assert np.allclose(shown, wanted, atol=8), default


# ------------------------------------------------------------------ cameras
@pytest.mark.parametrize(
    ("key", "value"),
    [("distortion_params", [0.5, 0.2, 0, 0, 0, 0]), ("ftheta_p0", 0.1), ("latlong", True),
     ("rolling_shutter", [0, 0, 0.1, 0]), ("fisheye_crop_radius", 12.0), ("s1", 0.1),
     ("is_equirectangular", True), ("fisheye", True), ("skew", 0.5), ("K1", 0.3),
     ("camera_convention", "opencv"), ("distortion", {"k1": 0.1})],
)  # fmt: skip
def test_keys_that_bend_pictures_are_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{key} = "):
        Transforms().load_views(scene(tmp_path / "a", **{key: value}), 8)
    file = scene(tmp_path / "b")
    text = file.read_text(encoding="utf-8").replace('"file_path"', f'"{key}": true, "file_path"', 1)
    if isinstance(value, bool | float):
        file.write_text(text, encoding="utf-8")  # of one photograph alone
        with pytest.raises(InputError, match=key):
            Transforms().load_views(file, 8)
    neutral: Any = [0.0] * 4 if isinstance(value, list) else type(value)()
    assert len(Transforms().load_views(scene(tmp_path / "c", **{key: neutral}), 8).images) == 3


def test_keys_nobody_knows_are_told_and_those_of_tools_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    common: dict[str, Any] = {"H": 8, "W": 8, "distortion": "none", "skew": "0", "dist": 4.1}
    common |= {"distortion_params": {"k1": 0, "k2": 0.0}, "camera_convention": "blender"}
    common |= {"aabb_scale": 16, "applied_transform": [[1, 0, 0, 0]], "ply_file_path": "a.ply"}
    with caplog.at_level(logging.WARNING, "flwr"):
        Transforms().load_views(scene(tmp_path / "a", **common), 8)
        assert caplog.messages == [f"{tmp_path}/a/transforms.json: nothing is done with dist"]
        caplog.clear()
        Transforms().load_views(scene(tmp_path / "b", wobble=3), 8)
    assert "nothing is done with wobble" in caplog.text


def test_one_camera_outside_of_near_and_far_is_enough(tmp_path: Path) -> None:
    """Ten cameras stand 4 from the middle, within Blender's 2 to 6; two more do not."""
    for index, distance in enumerate((15.0, 0.5)):
        file = scene(tmp_path / str(index), views=12)
        assert len(Transforms().load_views(file, 8).images) == 12
        found = json.loads(file.read_text(encoding="utf-8"))
        for number in (3, 9):
            found["frames"][number]["transform_matrix"] = around(number, distance)
        file.write_text(json.dumps(found), encoding="utf-8")
        with pytest.raises(InputError, match=rf"2 of 12 cameras.*\(frame 3: {distance:g}"):
            Transforms().load_views(file, 8)


def test_a_camera_that_glances_aside_says_nothing_of_the_object(tmp_path: Path) -> None:
    """It stands 4 away like the others; along its own axis the object is less than 2."""
    file = scene(tmp_path / "a", views=12)
    found = json.loads(file.read_text(encoding="utf-8"))
    found["frames"][5]["transform_matrix"] = pose(z=4.0, turn=1.2)
    file.write_text(json.dumps(found), encoding="utf-8")
    assert len(Transforms().load_views(file, 8).images) == 12


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_transparency_that_cannot_be_decoded_is_refused(tmp_path: Path, codec: str) -> None:
    path = film(tmp_path / "a.webm", codec, "yuva420p", [[(*RED, 0)]])
    with pytest.raises(InputError, match="transparency cannot be decoded"):
        Clips().load_video(path, 16, 3, 1)
    with pytest.raises(UnusableClipError, match="transparen"):
        probe(path)
    plain = film(tmp_path / "b.webm", codec, "yuv420p", [[RED]])
    assert len(Clips().load_video(plain, 16, 3, 1)) == 1 and probe(plain).frames == 10


def test_photographs_of_another_shape_than_the_json_says(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"800 x 400 pixels.*stored as 8 x 8"):
        Transforms().load_views(scene(tmp_path / "a", w=800, h=400), 8)
    assert len(Transforms().load_views(scene(tmp_path / "b", w=800, h=800), 8).images) == 3
