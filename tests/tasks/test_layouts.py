"""Data sets on the disk: what all layouts have in common, then pictures and clips; what is read,
what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from layout_kit import BUILD, HOLDERS, clips, counts, golfdb, paint, petface, refused, write
from PIL import Image

from tasks.data.layouts import LAYOUTS, detect, open_layout
from tasks.errors import InputError


# ---------------------------------------------------------------------- what all have in common
def test_every_layout_has_its_test() -> None:
    assert set(BUILD) == set(HOLDERS) == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_detected_and_listed_without_decoding(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    BUILD[name](tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", lambda *_: pytest.fail("a listing opens no picture"))
        assert detect(tmp_path) == name
        layout = open_layout(name)
        holders = layout.holders(tmp_path)
    assert counts(holders) == HOLDERS[name] and list(HOLDERS[name]) == [
        holder.name for holder in holders
    ]
    assert layout.owned == (name not in ("shapenet", "transforms"))
    assert pickle.loads(pickle.dumps(holders)) == holders and len(set(holders)) == len(holders)
    for holder in holders:
        layout.check(holder, 0)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [0, 4])
def test_every_item_has_the_shape_of_its_kind(tmp_path: Path, name: str, size: int) -> None:
    BUILD[name](tmp_path)
    layout = open_layout(name)
    side = size or 8
    item = layout.holders(tmp_path)[0].items[0]
    if layout.kind == "views":
        views = layout.load_views(item, size)
        assert views.images.shape == (3, side, side, 3) and views.poses.shape == (3, 4, 4)
        values = views.images
        assert views.poses.dtype == torch.float32
        with pytest.raises(TypeError, match="no pictures"):
            layout.load_pictures(item, size, 3)
    elif layout.kind == "video":
        values = layout.load_video(item, size, 1)
        assert values.shape == (8 if name == "golfdb" else 3, side, side, 1)
        assert layout.load_video(item, size, 3).shape[-1] == 3
        with pytest.raises(TypeError, match="no views"):
            layout.load_views(item, size)
    else:
        values = layout.load_pictures(item, size, 3)
        assert values.shape == (side, side, 3) and layout.load_pictures(item, size, 1).shape == (
            side,
            side,
            1,
        )
        with pytest.raises(TypeError, match="no video"):
            layout.load_video(item, size, 3)
    assert values.dtype == torch.float32 and 0 <= float(values.min()) <= float(values.max()) <= 1


def test_nothing_known_names_all_that_was_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "notes.txt", "")
    with pytest.raises(InputError) as error:
        detect(tmp_path)
    refused(error, tmp_path, *(f"{name}: {open_layout(name).expected}" for name in LAYOUTS))


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_folder_and_no_holders(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as error:
        open_layout(name).holders(tmp_path / "nowhere")
    refused(error, "nowhere", "no such folder")
    with pytest.raises(InputError) as error:
        open_layout(name).holders(tmp_path)
    refused(error, tmp_path, "expected")


def test_a_wrong_name_or_folder() -> None:
    with pytest.raises(InputError, match="did you mean 'petface'"):
        open_layout("petfaces")
    with pytest.raises(InputError, match="no such folder"):
        detect(Path("/nowhere/at/all"))


# ---------------------------------------------------------------------- PetFace
def test_petface_from_each_of_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    petface(tmp_path)
    layout = open_layout("petface")
    for root, names in (
        (tmp_path / "images", {"cat/000001", "dog/000001"}),
        (tmp_path / "images" / "cat", {"000001"}),
        (tmp_path / "images" / "dog", {"000001"}),
    ):
        assert detect(root) == "petface" and set(counts(layout.holders(root))) == names
    monkeypatch.chdir(tmp_path / "images" / "cat")
    assert detect(Path(".")) == "petface" and set(counts(layout.holders(Path(".")))) == {"000001"}


def test_petface_leaves_excluded_photographs_out(tmp_path: Path) -> None:
    petface(tmp_path)
    cat, _ = open_layout("petface").holders(tmp_path)
    assert [file.name for file in cat.items] == ["00.png", "01.jpg"]
    (tmp_path / "excluded" / "cat_excluded_images.json").unlink()
    everybody = counts(open_layout("petface").holders(tmp_path))
    assert everybody == {
        "cat/000001": 3,
        "cat/000003": 2,
        "dog/000001": 2,
    }  # 000002 has one: passed over
    write(tmp_path / "excluded" / "cat_excluded_images.json", {"000001": "02.png"})
    with pytest.raises(InputError) as error:
        open_layout("petface").holders(tmp_path)
    refused(error, "cat_excluded_images.json", "malformed: 000001")


def test_petface_refuses_what_is_wrong(tmp_path: Path) -> None:
    petface(tmp_path)
    layout = open_layout("petface")
    animal = tmp_path / "images" / "dog" / "000001"
    paint(animal / "b.png", shape=(9, 7))
    holder = layout.holders(tmp_path)[1]
    with pytest.raises(InputError) as error:
        layout.check(holder, 0)
    refused(error, "b.png", "9 x 7", "a.png", "8 x 8", "set data.size")
    write(animal / "b.png", "no picture")
    with pytest.raises(InputError) as error:
        layout.load_pictures(holder.items[1], 8, 3)
    refused(error, "b.png", "cannot be decoded", "replace")
    (tmp_path / "images" / "cat" / "000009").mkdir()
    with pytest.raises(InputError) as error:
        layout.holders(tmp_path)
    refused(error, "000009", "without photographs", "remove")


# ---------------------------------------------------------------------- GolfDB
def test_golfdb_swings(tmp_path: Path) -> None:
    golfdb(tmp_path)
    layout = open_layout("golfdb")
    (rose,) = layout.holders(tmp_path)  # of KERR's two swings one is not listed, ALONE has one
    assert [swing[0].name for swing in rose.items] == ["0_0.png", "5_0.png"]
    swing = layout.load_video(rose.items[1], 0, 3)
    assert torch.allclose(
        swing[:, 0, 0] * 255, torch.tensor([[30.0 * event, 50.0, 0.0] for event in range(8)])
    )


def test_golfdb_without_a_list_uses_every_swing(tmp_path: Path) -> None:
    golfdb(tmp_path, used=False)
    assert counts(open_layout("golfdb").holders(tmp_path)) == {"KERR": 2, "ROSE": 2}


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("use_ids.txt", "0\nfive\n", "malformed"),
        ("golfDB_slice.csv", "a,b\n1,2\n", "lacks the columns"),
        ("golfDB_slice.csv", ",id,player\n0,x,ROSE\n", "line 2 has the id 'x'"),
        ("golfDB_slice.csv", ",id,player\n0,5\n", "the player ''"),
        ("golfDB_slice.csv", ",id,player\n0,5,A\n1,5,B\n", "a second time"),
        ("golfDB_slice.csv", ",id,player\n0,5,A\n1,0,B\n", "no player with 2 or more"),
    ],
)
def test_golfdb_tables_that_are_wrong(tmp_path: Path, name: str, text: str, word: str) -> None:
    golfdb(tmp_path)
    write(tmp_path / name, text)
    with pytest.raises(InputError) as error:
        open_layout("golfdb").holders(tmp_path)
    refused(error, name, word)


def test_golfdb_frames_that_are_wrong(tmp_path: Path) -> None:
    golfdb(tmp_path)
    layout = open_layout("golfdb")
    swing = layout.holders(tmp_path)[0].items[0]
    paint(swing[3], shape=(10, 8))
    with pytest.raises(InputError) as error:
        layout.load_video(swing, 0, 3)
    refused(error, "0_3.png", "10 x 8", "0_0.png", "8 x 8", "set data.size")
    assert layout.load_video(swing, 4, 3).shape == (8, 4, 4, 3)
    swing[3].unlink()
    with pytest.raises(InputError) as error:
        layout.holders(tmp_path)
    refused(error, "0_3.png", "no such file", "golfDB_slice.csv", "use_ids.txt")


# ---------------------------------------------------------------------- clips
def test_frames_are_in_the_order_of_time(tmp_path: Path) -> None:
    clips(tmp_path)
    layout = open_layout("clips")
    ann, ben = layout.holders(tmp_path)
    walk = layout.load_video(ann.items[0], 0, 3)
    assert (walk[:, 0, 0, 0] * 255).round().tolist() == [20.0, 40.0, 200.0]  # 1, 2, 10
    wave = layout.load_video(ben.items[0], 0, 3)
    assert wave.shape == (3, 6, 8, 3) and (wave[:, 0, 0, 2] * 255).round().tolist() == [
        0.0,
        80.0,
        160.0,
    ]


def test_an_mp4_is_read(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from tasks.data.recordings.clips import Clip
    from tasks.data.recordings.writing import write_clip

    (tmp_path / "ann").mkdir()
    frames = torch.linspace(0.2, 0.8, 4)[:, None, None, None].expand(4, 16, 24, 3)
    write_clip(tmp_path / "ann" / "a.MP4", Clip("a", frames, torch.empty(0)))
    assert detect(tmp_path) == "clips"
    layout = open_layout("clips")
    (holder,) = layout.holders(tmp_path)
    read = layout.load_video(holder.items[0], 0, 3)
    assert read.shape == (4, 16, 24, 3) and torch.allclose(read, frames, atol=0.03)
    assert layout.measure(holder.items[0]) == (tmp_path / "ann" / "a.MP4", (24, 16))
    write(tmp_path / "ann" / "a.MP4", "no film")
    with pytest.raises(InputError) as error:
        layout.load_video(holder.items[0], 0, 3)
    refused(error, "a.MP4", "cannot be decoded")


def test_an_mp4_without_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "ann" / "a.mp4", "")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (holder,) = open_layout("clips").holders(tmp_path)
    with pytest.raises(InputError, match=r"pip install 'fedapp\[video\]'"):
        open_layout("clips").load_video(holder.items[0], 0, 3)


def test_clips_that_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips(tmp_path)
    layout = open_layout("clips")
    walk = tmp_path / "ann" / "walk"
    paint(walk / "frame2.png", shape=(4, 4))
    with pytest.raises(InputError) as error:
        layout.load_video(walk, 0, 3)
    refused(error, "frame2.png", "4 x 4", "frame1.png", "8 x 8", "set data.size")
    (tmp_path / "ben" / "other").mkdir()
    with pytest.raises(InputError) as error:
        layout.holders(tmp_path)
    refused(error, "other", "without pictures")
    paint(tmp_path / "ben" / "other" / "0.png")
    with pytest.raises(InputError) as error:
        layout.check(layout.holders(tmp_path)[1], 0)
    refused(error, "wave.gif", "8 x 6", "0.png", "8 x 8")
    (tmp_path / "carl").mkdir()
    with pytest.raises(InputError) as error:
        layout.holders(tmp_path)
    refused(error, "carl", "without clips", "remove")
    monkeypatch.setattr("tasks.data.layouts.reading.MOST_VALUES", 2 * 8 * 6 * 3)
    with pytest.raises(InputError) as error:
        layout.load_video(tmp_path / "ben" / "wave.gif", 0, 3)
    refused(error, "wave.gif", "more than 2 frames", "lower data.size")
