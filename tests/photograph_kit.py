"""A procedural person's pictures, written as the formats of own photographs have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tasks.data.people.person import person
from tasks.data.people.photograph import Portrait, photographs
from tasks.head.formats import FLIP
from tasks.head.task import looking

SIZE, WIDE, FOCAL = 48, 60, 80.0  # pictures of 60 x 48 pixels: the axis is off their centre
AZIMUTHS = (-60.0, -20.0, 20.0, 60.0, 130.0, 180.0, 230.0)
REAR = [4, 5, 6]


def pictures_of(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures ``[V, 48, 60, 3]``, masks and poses of a person."""
    poses = looking(torch.tensor(AZIMUTHS), torch.full((len(AZIMUTHS),), 5.0), SIZE).poses
    shots = photographs(Portrait.of(person(number)), poses, FOCAL, SIZE)
    images = np.full((len(poses), SIZE, WIDE, 3), 1.0, np.float32)
    images[:, :, :SIZE] = shots.images.numpy()
    masks = np.zeros((len(poses), SIZE, WIDE), bool)
    masks[:, :, :SIZE] = shots.cover.numpy() > 0.5
    return images, masks, poses.double().numpy()


def intrinsics() -> np.ndarray:
    """Of the pictures, pixel centres at halves."""
    return np.array([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1.0]])


def save(folder: Path, values: np.ndarray, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((values * 255).astype(np.uint8)).save(folder / name)


def write_idr(root: Path, taken, scale: float = 40.0, name: str = "anna") -> Path:  # type: ignore[no-untyped-def]
    """In millimetres about another place, with a scale matrix that undoes it."""
    images, masks, poses = taken
    place = root / name
    scaled = np.diag([scale, scale, scale, 1.0])
    scaled[:3, 3] = (10, -20, 5)
    listed = {}
    for index, pose in enumerate(poses):
        save(place / "image", images[index], f"{index:03d}.png")
        save(place / "mask", masks[index], f"{index:03d}.png")
        matrix = intrinsics()
        matrix[:2, 2] -= 0.5
        turn = FLIP @ pose[:3, :3].T
        projection = np.eye(4)
        projection[:3] = matrix @ np.c_[turn, -turn @ pose[:3, 3]]
        listed[f"world_mat_{index}"] = projection @ np.linalg.inv(scaled)
        listed[f"scale_mat_{index}"] = scaled
    np.savez(place / "cameras.npz", **listed)
    return place


def write_facescape(root: Path, taken) -> Path:  # type: ignore[no-untyped-def]
    images, masks, poses = taken
    place = root / "anna"
    listed = {}
    for index, pose in enumerate(poses):
        save(place, images[index], f"{index}.jpg")
        save(place / "mask", masks[index], f"{index}.png")
        matrix = intrinsics()
        matrix[:2, 2] -= 0.5
        turn = FLIP @ pose[:3, :3].T
        listed |= {
            f"{index}_K": matrix.tolist(),
            f"{index}_Rt": np.c_[turn, -turn @ pose[:3, 3]].tolist(),
            f"{index}_distortion": [0.0] * 5,
            f"{index}_width": WIDE,
            f"{index}_height": SIZE,
            f"{index}_valid": True,
        }
    (place / "params.json").write_text(json.dumps(listed), encoding="utf-8")
    return place


def write_views(root: Path, taken) -> Path:  # type: ignore[no-untyped-def]
    images, masks, poses = taken
    place = root / "anna"
    frames: dict[str, list[dict[str, object]]] = {"neutral": [], "sensitive": []}
    for index, pose in enumerate(poses):
        side = "neutral" if index in REAR else "sensitive"
        folder = place / side
        folder.mkdir(parents=True, exist_ok=True)
        both = np.concatenate([images[index], masks[index][..., None]], 2)
        save(folder, both, f"{index}.png")
        frames[side].append({"file_path": f"{index}.png", "transform_matrix": pose.tolist()})
    for side, listed in frames.items():
        scene = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": SIZE / 2, "cy": SIZE / 2, "w": WIDE,
                 "h": SIZE, "frames": listed}  # fmt: skip
        (place / side / "transforms.json").write_text(json.dumps(scene), encoding="utf-8")
    return place
