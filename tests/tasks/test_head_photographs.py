"""Own photographs of heads: formats, what is neutral, and every way in which they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from photograph_kit import (
    AZIMUTHS,
    FOCAL,
    REAR,
    SIZE,
    WIDE,
    intrinsics,
    pictures_of,
    save,
    write_facescape,
    write_idr,
    write_views,
)
from PIL import Image

from tasks.data.people.person import person
from tasks.data.people.photograph import Portrait, photographs
from tasks.errors import InputError
from tasks.head.formats import FLIP, taken_apart
from tasks.head.task import HeadTask, looking
from tasks.settings import DataSettings, HeadSettings, TaskSettings


@pytest.fixture(scope="module")
def taken() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return pictures_of(0)


WRITERS = {"idr": write_idr, "facescape-photographs": write_facescape, "views": write_views}


def read(root: Path, **head: object):  # type: ignore[no-untyped-def]
    data = DataSettings(path=str(root), size=32)
    settings = TaskSettings(data=data, head=HeadSettings(**{"front": "+z", **head}))  # type: ignore[arg-type]
    return HeadTask(settings).client_data(0)


@pytest.mark.parametrize("layout", WRITERS)
def test_all_formats_give_the_same_views_whatever_their_units(layout, taken, tmp_path) -> None:  # type: ignore[no-untyped-def]
    WRITERS[layout](tmp_path, taken)
    data = read(tmp_path)
    assert data.name == "anna" and data.neutral is not None
    assert len(data.neutral.images) == len(REAR) and len(data.sensitive.images) == 4
    # a pixel by hand: the middle of a camera's picture is seen along its axis, which is off the
    # middle of the padded square; the square has 60 pixels per side, then 32
    cameras = data.sensitive.cameras
    right, down = SIZE / 2 * 32 / WIDE, (SIZE / 2 + (WIDE - SIZE) // 2) * 32 / WIDE
    row, column = torch.tensor([down - 0.5]), torch.tensor([right - 0.5])
    _, ray = cameras.rays(torch.tensor([0]), row, column)
    assert torch.allclose(ray[0], -cameras.poses[0, :3, 2], atol=1e-5)
    assert float(cameras.intrinsics[0, 0, 0]) == pytest.approx(FOCAL * 32 / WIDE, rel=1e-6)
    # cameras stand where they stood, up to where the masks put the middle and the size of the head
    true = torch.from_numpy(taken[2][:4, :3, 3]).float()
    own = cameras.poses[:, :3, 3]
    ratio = (own - own.mean(0)).norm() / (true - true.mean(0)).norm()
    assert torch.allclose((own - own.mean(0)) / ratio, true - true.mean(0), atol=2e-3)
    assert 0.8 < float(ratio) < 1.3
    cover = taken[1].mean((1, 2))[:4]
    assert np.allclose(data.cover.mean((1, 2)).numpy() * WIDE / SIZE, cover, atol=1e-5)


def test_axes_of_the_data_are_turned_to_ours(taken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    images, masks, poses = taken
    turn = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # z -> x, y -> z
    write_facescape(tmp_path, (images, masks, turn @ poses))
    data = read(tmp_path, front="+x", up="+z")
    assert data.neutral is not None and len(data.neutral.images) == len(REAR)
    write_facescape(tmp_path / "plain", taken)
    plain = read(tmp_path / "plain")
    assert torch.allclose(data.sensitive.cameras.poses, plain.sensitive.cameras.poses, atol=1e-4)


def test_nothing_is_neutral_before_somebody_says_where_faces_look(taken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_idr(tmp_path, taken)
    with pytest.raises(InputError, match=r"head\.front"):
        read(tmp_path, front="")
    # looked at from the other side, what shows the face is sensitive still
    data = read(tmp_path, front="-z")
    assert len(data.sensitive.images) == len(AZIMUTHS) - 2  # azimuths of 20 are now behind


def test_a_view_of_the_face_is_not_neutral_without_a_flag(taken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    images, masks, poses = taken
    swapped = [4, 1, 2, 3, 0, 5, 6]  # a frontal view among the rear ones
    write_views(tmp_path, (images[swapped], masks[swapped], poses[swapped]))
    with pytest.raises(InputError, match=r"6\d degrees off the front(.|\n)*facing-neutral"):
        read(tmp_path)
    data = read(tmp_path, facing_neutral=True)
    assert data.neutral is not None and len(data.neutral.images) == len(REAR)


def test_a_mask_of_sixteen_bits_is_read_in_its_own_range(taken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    place = write_idr(tmp_path, taken)
    file = place / "mask" / "000.png"
    own = np.asarray(Image.open(file).convert("L"))
    before = read(tmp_path).cover[0]
    Image.fromarray(np.where(own > 127, 65535, 300).astype(np.uint16)).save(file)
    assert torch.equal(read(tmp_path).cover[0], before)


def test_from_above_and_below_nothing_is_taken_for_the_back_of_a_head(tmp_path: Path) -> None:
    """130 degrees round but 70 up or 55 down: the forehead or the jaw is seen."""
    images, masks, poses = pictures_of(0)
    odd = looking(torch.tensor([130.0, 130.0]), torch.tensor([70.0, -55.0]), SIZE).poses
    seen = photographs(Portrait.of(person(0)), odd, FOCAL, SIZE)
    for index in (0, 1):
        images[index, :, :SIZE] = seen.images[index].numpy()
        masks[index, :, :SIZE] = seen.cover[index].numpy() > 0.5
        poses[index] = odd[index].double().numpy()
    write_idr(tmp_path, (images, masks, poses))
    data = read(tmp_path)
    assert data.neutral is not None and len(data.neutral.images) == len(REAR)


def test_an_owners_sorting_is_read_whatever_else_lies_there(taken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    place = write_views(tmp_path, taken)
    np.savez(place / "cameras.npz")
    assert len(read(tmp_path).sensitive.images) == 4
    data = DataSettings(path=str(tmp_path), size=32, layout="idr")
    settings = TaskSettings(data=data, head=HeadSettings(front="+z"))
    with pytest.raises(InputError, match="sorted into neutral and sensitive"):
        HeadTask(settings)


def test_a_projection_is_taken_apart() -> None:
    stream = np.random.default_rng(0)
    turn, _ = np.linalg.qr(stream.normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    matrix, eye = intrinsics(), stream.normal(size=3)
    found, pose = taken_apart(7.5 * matrix @ np.c_[turn, -turn @ eye])
    assert np.allclose(found, matrix) and np.allclose(pose[:3, 3], eye)
    assert np.allclose(pose[:3, :3], turn.T @ FLIP)
    mirrored = np.diag([-1.0, 1, 1]) @ turn
    with pytest.raises(ValueError, match="mirrored"):
        taken_apart(matrix @ np.c_[mirrored, -mirrored @ eye])


# ---------------------------------------------------------------------- what can be wrong
def without_cameras(place: Path) -> None:
    (place / "cameras.npz").unlink()


def without_one(place: Path) -> None:
    listed = dict(np.load(place / "cameras.npz"))
    del listed["world_mat_3"]
    np.savez(place / "cameras.npz", **listed)


def without_mask(place: Path) -> None:
    (place / "mask" / "002.png").unlink()


def without_picture(place: Path) -> None:
    """The others would take their neighbours' cameras, and a face a rear view's."""
    (place / "image" / "000.png").unlink()
    (place / "mask" / "000.png").unlink()


def with_renamed_mask(place: Path) -> None:
    (place / "mask" / "000.png").rename(place / "mask" / "007.png")


def with_whole_mask(place: Path) -> None:
    save(place / "mask", np.ones((SIZE, WIDE)), "001.png")


def with_alpha_mask(place: Path) -> None:
    file = place / "mask" / "001.png"
    alpha = Image.open(file).convert("L")
    whole = Image.new("RGBA", alpha.size, (255, 255, 255, 255))
    whole.putalpha(alpha)
    whole.save(file)


def with_garbage(place: Path) -> None:
    (place / "cameras.npz").write_bytes(b"PK no archive")


def with_small_matrix(place: Path) -> None:
    listed = dict(np.load(place / "cameras.npz"))
    listed["world_mat_2"] = np.eye(3)
    np.savez(place / "cameras.npz", **listed)


def with_uneven_scale(place: Path) -> None:
    listed = dict(np.load(place / "cameras.npz"))
    listed["scale_mat_2"] = listed["scale_mat_2"] @ np.diag([1, 1.5, 1, 1])
    np.savez(place / "cameras.npz", **listed)


def with_broken_picture(place: Path) -> None:
    file = place / "image" / "001.png"
    file.write_bytes(file.read_bytes()[:400])


def of_other_size(place: Path) -> None:
    file = place / "image" / "001.png"
    Image.open(file).resize((30, 24)).save(file)


def with_empty_mask(place: Path) -> None:
    save(place / "mask", np.zeros((SIZE, WIDE)), "001.png")


def with_other_mask(place: Path) -> None:
    save(place / "mask", np.ones((SIZE // 2, WIDE)), "001.png")


def mirrored(place: Path) -> None:
    listed = dict(np.load(place / "cameras.npz"))
    flip = np.diag([-1.0, 1, 1, 1])
    listed["world_mat_0"] = flip @ listed["world_mat_0"]
    np.savez(place / "cameras.npz", **listed)


def elsewhere(place: Path) -> None:
    """One camera's principal point is three pictures off."""
    listed = dict(np.load(place / "cameras.npz"))
    moved = np.eye(4)
    moved[0, 2] = 3.0 * WIDE
    listed["world_mat_0"] = moved @ listed["world_mat_0"]
    np.savez(place / "cameras.npz", **listed)


IDR_FAULTS = {
    without_cameras: "nobody with cameras",
    without_one: "no camera world_mat_3",
    without_mask: r"no mask for 002\.png",
    without_picture: "no picture of camera world_mat_0",
    with_renamed_mask: r"no mask for 000\.png",
    with_whole_mask: "marks no head",
    with_alpha_mask: "alpha channel of its own",
    with_garbage: "cannot be read",
    with_small_matrix: "not 4 x 4 finite numbers",
    with_uneven_scale: "no similarity",
    with_broken_picture: "cannot be decoded",
    of_other_size: r"30 x 24 pixels, but 000\.png has 60 x 48",
    with_empty_mask: "mask is empty",
    with_other_mask: "60 x 24, but its picture has 60 x 48",
    mirrored: "camera 0: its axes are mirrored",
    elsewhere: "head sizes from where the other cameras see the head",
}


@pytest.mark.parametrize("fault", IDR_FAULTS)
def test_what_is_wrong_is_named_with_a_remedy(fault, taken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    fault(write_idr(tmp_path, taken))
    with pytest.raises(InputError, match=IDR_FAULTS[fault]) as found:
        read(tmp_path)
    assert found.value.key == "data.path" and "→" in str(found.value)


def test_bent_lenses_skewed_poses_and_bare_pictures_are_named(taken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    place = write_facescape(tmp_path, taken)
    listed = json.loads((place / "params.json").read_text(encoding="utf-8"))
    for changes, reason in (
        ({"1_distortion": [-0.3, 0, 0, 0, 0]}, r"lens of 1\.jpg bends"),
        ({"2_Rt": (2 * np.array(listed["2_Rt"])).tolist()}, r"2\.jpg: its pose is not normalised"),
        ({"2_K": None}, "no 2_K"),
        ({"2_K": [[1, 0], [0, 1]]}, "camera 2: its matrix is not 3 x 3"),
        ({"2_Rt": "none"}, "camera 2: its matrix is not 3 x 4"),
    ):
        changed = {k: v for k, v in (listed | changes).items() if v is not None}
        (place / "params.json").write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(InputError, match=reason):
            read(tmp_path)
    (place / "params.json").write_text(json.dumps(listed), encoding="utf-8")
    (place / "mask" / "4.png").unlink()
    with pytest.raises(InputError, match="a view without a mask"):
        read(tmp_path)


def test_more_clients_than_people_are_refused(taken, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_idr(tmp_path, taken)
    settings = TaskSettings(
        data=DataSettings(path=str(tmp_path), size=32), head=HeadSettings(front="+z")
    )
    with pytest.raises(InputError, match="1 people, and client 1 is not among them"):
        HeadTask(settings).check(2)
