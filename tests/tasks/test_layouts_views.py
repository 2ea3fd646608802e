"""Objects seen by known cameras, on the disk: transforms.json folders, ShapeNet, FaceScape."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layout_kit import (
    ANGLE,
    CAR,
    around,
    counts,
    facescape,
    paint,
    pose,
    refused,
    said_by_one,
    scene,
    shapenet,
    transforms,
    write,
)
from PIL import Image

from tasks.data.cameras import on_sphere
from tasks.data.layouts import detect, open_layout
from tasks.data.layouts.facescape import Expression
from tasks.data.layouts.transforms import refuse_impossible
from tasks.errors import InputError


# ---------------------------------------------------------------------- transforms.json
def test_views_are_put_on_white_with_masks_and_focal_length(tmp_path: Path) -> None:
    views = open_layout("transforms").load_views(scene(tmp_path / "lego"), 0)
    assert views.name == "lego" and (views.near, views.far, views.background) == (2.0, 6.0, 1.0)
    assert views.focal == pytest.approx(0.5 * 8 / math.tan(0.5 * ANGLE))
    assert views.images[0, 0].tolist() == [[1.0, 0.0, 0.0]] * 4 + [[1.0, 1.0, 1.0]] * 4
    assert views.masks is not None and views.masks.dtype == torch.bool
    assert views.masks[2, 0].tolist() == [True] * 4 + [False] * 4
    assert torch.equal(views.poses[1], torch.tensor(around(1)))
    small = open_layout("transforms").load_views(tmp_path / "lego" / "transforms.json", 4)
    assert small.focal == pytest.approx(views.focal / 2)
    assert small.images[0, 0].tolist() == [[1.0, 0.0, 0.0]] * 2 + [[1.0, 1.0, 1.0]] * 2


def test_shrinking_averages_areas_and_a_wide_picture_loses_its_margins(tmp_path: Path) -> None:
    stripes = np.zeros((4, 8, 3), dtype=np.uint8)
    stripes[::2] = 200
    stripes[:, :2] = stripes[:, 6:] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    frames = [{"file_path": "a.png", "transform_matrix": pose()}]
    file = write(tmp_path / "transforms.json", {"camera_angle_x": ANGLE, "frames": frames})
    views = open_layout("transforms").load_views(file, 2)
    assert torch.allclose(views.images, torch.full((1, 2, 2, 3), 100 / 255))
    assert views.focal == pytest.approx(
        0.5 * 8 / math.tan(0.5 * ANGLE) * 2 / 4
    )  # 8 wide, 4 of it used, then halved
    assert views.masks is None
    assert open_layout("transforms").load_views(file, 0).images.shape == (1, 4, 8, 3)


def test_most_spreads_and_decodes_no_more(tmp_path: Path) -> None:
    file = scene(tmp_path, views=7)
    (tmp_path / "train" / "r_1.png").unlink()
    views = open_layout("transforms").load_views(file, 0, most=3)
    assert torch.equal(views.poses, torch.tensor([around(index) for index in (0, 2, 4)]))
    (tmp_path / "train" / "r_1.png").write_bytes((tmp_path / "train" / "r_0.png").read_bytes())
    assert len(open_layout("transforms").load_views(file, 0, most=20).images) == 7


def test_other_spellings(tmp_path: Path) -> None:
    paint(tmp_path / "b.jpg")
    paint(tmp_path / "c.PNG", (0, 0, 0, 0))
    frames = [{"file_path": name, "transform_matrix": pose()} for name in ("b", "c.PNG")]
    meta = {"fl_x": 100.0, "w": 80, "near": 0.5, "far": 3.0, "frames": frames}
    file = write(tmp_path / "transforms_train.json", meta)
    layout = open_layout("transforms")
    assert detect(tmp_path) == "transforms" and counts(layout.holders(tmp_path)) == {
        tmp_path.name: 1
    }
    views = layout.load_views(file, 0)
    assert views.focal == pytest.approx(10.0) and (views.near, views.far) == (0.5, 3.0)
    assert views.masks is not None and views.masks.all((1, 2)).tolist() == [
        True,
        False,
    ]  # the first has no alpha


SCALED = [[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
MIRROR = [[-1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("matrix", "word"),
    [
        (pose()[:3], "is not 4 x 4"),
        ([row[:3] for row in pose()], "is not 4 x 4"),
        (pose(x=math.nan), "is not finite"),
        (pose(x=math.inf), "is not finite"),
        (SCALED, "is no rigid motion"),
        (MIRROR, "is no rigid motion"),
        ([*pose()[:3], [0.0, 0.0, 0.0, 2.0]], "is no rigid motion"),
    ],
)
def test_a_matrix_that_is_no_pose(tmp_path: Path, matrix: Any, word: str) -> None:
    file = scene(tmp_path)
    meta = json.loads(file.read_text(encoding="utf-8"))
    meta["frames"][2]["transform_matrix"] = matrix
    write(file, meta)
    with pytest.raises(InputError) as error:
        open_layout("transforms").load_views(file, 0, most=1)
    refused(error, "transforms.json", word, "'./train/r_2'", "camera-to-world")


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"camera_angle_x": None}, "neither camera_angle_x nor fl_x"),
        ({"camera_angle_x": 0}, "no opening angle"),
        ({"camera_angle_x": 50.0}, "no opening angle"),
        ({"camera_angle_x": None, "fl_x": -1}, "no focal length"),
        ({"frames": []}, "malformed: frames"),
        ({"frames": [{"file_path": "a"}]}, "malformed: frames.0.transform_matrix"),
        ({"frames": [{"file_path": "../a", "transform_matrix": pose()}]}, "no file below"),
        ({"frames": [{"file_path": ".", "transform_matrix": pose()}]}, "no file below"),
        ({"camera_angle_x": None, "fl_x": 10, "fl_y": 12}, "fl_y differs from fl_x"),
        ({"cx": 2, "w": 8}, "cx is off the centre"),
        ({"k1": 0.5}, "bend the corners"),
        ({"k3": 9.0}, "bend the corners"),
        ({"p1": 0.1}, "shear the corners"),
        ({"camera_model": "OPENCV_FISHEYE"}, "fisheye"),
        ({"fl_x": 30.0}, "contradict each other"),
        ({"near": 6.0, "far": 2.0}, "enclose nothing"),
    ],
)
def test_a_json_that_cannot_be_used(tmp_path: Path, keys: dict[str, Any], word: str) -> None:
    file = scene(tmp_path, **keys)
    with pytest.raises(InputError) as error:
        open_layout("transforms").load_views(file, 0)
    refused(error, "transforms.json", word)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"frames": 3}'])
def test_a_broken_json(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "transforms.json", text)
    with pytest.raises(InputError) as error:
        open_layout("transforms").load_views(file, 0)
    refused(error, "transforms.json", "malformed", "write the file again")


def test_views_that_are_missing_broken_or_of_mixed_sizes(tmp_path: Path) -> None:
    layout = open_layout("transforms")
    file = scene(tmp_path)
    paint(tmp_path / "train" / "r_1.png", shape=(16, 16))
    with pytest.raises(InputError) as error:
        layout.load_views(file, 0)
    refused(error, "r_1.png", "16 x 16", "r_0.png", "8 x 8", "set data.size")
    assert layout.load_views(file, 4).images.shape == (
        3,
        4,
        4,
        3,
    )  # one opening angle: the focal length is the same
    paint(tmp_path / "train" / "r_1.png", shape=(16, 8))
    with pytest.raises(InputError) as error:  # of unlike proportions: it is not
        layout.load_views(file, 4)
    refused(error, "r_1.png", "16 x 8", "r_0.png")
    write(tmp_path / "train" / "r_1.png", "no picture")
    with pytest.raises(InputError) as error:
        layout.load_views(file, 0)
    refused(error, "r_1.png", "cannot be decoded")
    (tmp_path / "train" / "r_1.png").unlink()
    with pytest.raises(InputError) as error:
        layout.load_views(file, 0)
    refused(error, "r_1.png", "no such file", "transforms.json", "'./train/r_1'")


def test_folders_in_the_place_of_objects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    transforms(tmp_path)
    write(tmp_path / "notes" / "todo.txt", "")
    assert set(counts(open_layout("transforms").holders(tmp_path))) == {"chair", "lego"}
    assert "passed over, no transforms.json in it" in caplog.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        open_layout("transforms").holders(tmp_path)
    refused(error, "empty", "empty folder")


# ---------------------------------------------------------------------- ShapeNet
def test_shapenet_from_each_of_its_folders(tmp_path: Path) -> None:
    shapenet(tmp_path)
    for root in (tmp_path, tmp_path / "cars", tmp_path / "cars" / "02958343"):
        assert detect(root) == "shapenet" and len(open_layout("shapenet").holders(root)) == 2
    (_, holder) = open_layout("shapenet").holders(tmp_path)
    views = open_layout("shapenet").load_views(holder.items[0], 0)
    assert views.name == CAR and (views.near, views.far, views.background) == (2.0, 6.0, 1.0)
    (tmp_path / "cars" / "02958343" / CAR / "r_0.png").unlink()
    with pytest.raises(InputError) as error:
        open_layout("shapenet").load_views(holder.items[0], 0)
    refused(error, "r_0.png", "no such file", "restore")


def test_shapenet_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shapenet(tmp_path)
    scene(tmp_path / "chairs" / "03001627" / ("ab" * 16), prefix="")
    write(tmp_path / "dog_splits.json", "not ours, not read")
    write(tmp_path / "car_splits.json", {"train": [f"02958343/{CAR}"], "test": ["absent"]})
    listed = [name.rpartition("/")[2] for name in counts(open_layout("shapenet").holders(tmp_path))]
    assert listed == [CAR, "ab" * 16] and "1 of the 2 objects" in caplog.text
    cars = tmp_path / "cars" / "02958343"
    assert set(counts(open_layout("shapenet").holders(cars))) == {
        CAR
    }  # the file two folders above counts
    write(tmp_path / "car_splits.json", {"train": ["absent"]})
    with pytest.raises(InputError) as error:
        open_layout("shapenet").holders(cars)
    refused(error, cars.resolve(), "none of its 2 objects", "take the file away")
    write(tmp_path / "car_splits.json", "[]")
    with pytest.raises(InputError) as error:
        open_layout("shapenet").holders(tmp_path)
    refused(error, "car_splits.json", "malformed")


# ---------------------------------------------------------------------- FaceScape
@pytest.mark.parametrize("inner", ["", "multi-view-images", "train/multi-view-images"])
def test_facescape_people_and_expressions(tmp_path: Path, inner: str) -> None:
    facescape(tmp_path / inner)
    layout = open_layout("facescape")
    assert detect(tmp_path) == "facescape"
    seven, other = layout.holders(tmp_path)
    assert (seven.name, other.name) == ("7", "122") and [item.number for item in seven.items] == [
        0,
        3,
    ]
    views = layout.load_views(seven.items[0], 4)
    assert views.name == "7/0" and (views.near, views.far, views.background) == (0.8, 2.6, 0.0)
    assert views.masks is None and views.focal == pytest.approx(0.5 * 4 / math.tan(0.5 * ANGLE))
    assert torch.allclose(views.poses[2, :3, 3], torch.tensor([0.2, 0.0, 1.6]))
    assert torch.allclose(
        views.poses[2, :3, :3], torch.tensor(pose(turn=0.4))[:3, :3]
    )  # translations alone shrink
    assert torch.allclose(views.images[1, 0, 0], torch.tensor([0.0, 60.0, 90.0]) / 255)
    assert len(layout.load_views(seven.items[1], 4).images) == 2


def test_facescape_reads_a_persons_json_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facescape(tmp_path)
    person = open_layout("facescape").holders(tmp_path)[0]
    read: list[Path] = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or whole(path))
    for item in person.items:
        open_layout("facescape").load_views(item, 0)
    assert len(read) == 1


def test_facescape_puts_alpha_on_black_and_refuses_what_is_wrong(tmp_path: Path) -> None:
    facescape(tmp_path, people=("1",))
    layout = open_layout("facescape")
    (item, _) = layout.holders(tmp_path)[0].items
    paint(tmp_path / "1" / "0" / "0.png", (200, 200, 200, 0))
    views = layout.load_views(item, 0)
    assert float(views.images[0].max()) == 0 and views.masks is not None
    assert views.masks.any(2).any(1).tolist() == [False, True, True]
    paint(tmp_path / "1" / "0" / "0.png", shape=(4, 4))
    with pytest.raises(InputError) as error:
        layout.check(layout.holders(tmp_path)[0], 0)
    refused(error, Path("3") / "0.png", "8 x 8", "4 x 4", "set data.size")
    layout.check(layout.holders(tmp_path)[0], 4)
    with pytest.raises(InputError) as error:
        layout.load_views(Expression(item.file, 5), 0)
    refused(error, "transforms_all_1.json", "expression 5")
    for wrong, word in (
        ({"frames": [{"expression": 20}]}, "frames.0.expression"),
        ({"frames": []}, "frames"),
    ):
        write(item.file, wrong)
        with pytest.raises(InputError) as error:
            layout.holders(tmp_path)
        refused(error, "transforms_all_1.json", "malformed", word)


def cameras(flip: float, count: int = 6) -> torch.Tensor:
    """Cameras at distance 3 around the origin; ``flip = -1``: with OpenCV's axes, y and z
    reversed."""
    found = on_sphere(count, 3.0, torch.Generator().manual_seed(0))
    found[:, :3, 1:3] *= flip
    return found


def test_cameras_that_cannot_see_what_they_stand_around_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "transforms.json"
    refuse_impossible(file, cameras(1.0), 2.0, 6.0)
    with pytest.raises(InputError, match="look away"):
        refuse_impossible(file, cameras(-1.0), 2.0, 6.0)
    with pytest.raises(InputError, match=r"near = 3\.5"):
        refuse_impossible(file, cameras(1.0), 3.5, 6.0)
    with pytest.raises(InputError, match=r"far = 2\.5"):
        refuse_impossible(file, cameras(1.0), 2.0, 2.5)
    beside = torch.eye(4).repeat(
        5, 1, 1
    )  # side by side, all looking along -z: their axes never cross
    beside[:, 0, 3] = torch.arange(5.0)
    refuse_impossible(file, beside, 2.0, 6.0)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"is_fisheye": True}, "fisheye"),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera_model is EQUIRECTANGULAR"),
        ({"k4": -1.0}, "k4 bends"),
        ({"camera_angle_y": 2.5}, "camera_angle_y"),
        ({"fl_y": 100.0}, "fl_y differs"),
        ({"k1": -0.9}, "k1"),
        ({"cx": 1.0}, "cx is off"),
        ({"fl_x": 1.0, "camera_angle_x": None}, "focal length"),
    ],
)
@pytest.mark.parametrize("whose", ["all", "one"])
def test_what_a_camera_says_of_itself_is_used_or_refused_by_name(
    tmp_path: Path, said: dict[str, Any], words: str, whose: str
) -> None:
    """In the json, or beside one photograph of it."""
    if whose == "all" and "fl_x" in said:
        pytest.skip("then all are alike")
    file = scene(tmp_path / "one", **(said if whose == "all" else {}))
    if whose == "one":
        said_by_one(file, **said)
    with pytest.raises(InputError) as error:
        open_layout("transforms").load_views(file, 4)
    refused(error, file, words)


def test_numbers_that_stand_in_every_frame_are_those_of_the_scene(tmp_path: Path) -> None:
    file = scene(tmp_path / "one")
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["camera_angle_x"]
    for frame in content["frames"]:
        frame |= {"fl_x": 12.0, "fl_y": 12.0, "cx": 4, "cy": 4, "w": 8, "h": 8}
    assert open_layout("transforms").load_views(write(file, content), 4).focal == 6.0
