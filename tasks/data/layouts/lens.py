"""What a ``transforms.json`` says of its cameras, for all photographs or for one: used, neutral, or
refused by name."""

from __future__ import annotations

import math
import re
from pathlib import Path

from pydantic import BaseModel, Field

from tasks.data.layouts.reading import unusable

PINHOLE = 0.02  # of the width, how far off a plain pinhole camera a pixel may be
PINHOLES = (  # camera models that are one if their other numbers are 0, as tools call them
    "", "OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "RADIAL", "SIMPLE_RADIAL", "PERSPECTIVE",
    "FULL_OPENCV",
)  # fmt: skip


# Of other tools' files: bending a picture, unless 0, empty, false or absent
BENDING = re.compile(
    r"distortion_params|ftheta_p\d|latlong|rolling_shutter|fisheye_crop_radius|is_equirectangular|"
    r"(is_)?(fisheye|panorama|spherical|orthographic)|s[1-4]|skew|k([7-9]|\d\d)|p[3-9]|"
    r"distortion(_coeffs?|_coefficients)?|dist_coeffs?"
)
# ... and saying nothing of a camera, or nothing that is read here
NEUTRAL = re.compile(
    r"applied_(transform|scale)|aabb(_scale|_size)?|scale|offset|render_aabb.*|up|from_na|"
    r"ply_file_path|colmap_im_id|sharpness|depth_(file_)?path|integer_depth_scale|"
    r"enable_depth_loading|n_extra_learnable_dims|orientation_override|(train|val|test)_filenames|"
    r"rotation|near|far|file_path|transform_matrix|mask_path|frames|time|.*_id|id|name|"
    r"image_(width|height)|width|height|bg_.*|version|camera_angle_.|.*date.*|comment|note"
)


class Lens(BaseModel, extra="allow"):
    """A camera; ``fl_*``, ``cx``, ``cy`` in pixels of ``w`` x ``h``. What else a file says of it is
    kept, for :meth:`strange`."""

    camera_angle_x: float | None = None
    camera_angle_y: float | None = None
    fl_x: float | None = None
    fl_y: float | None = None
    cx: float | None = None
    cy: float | None = None
    w: float | None = Field(None, gt=0)
    h: float | None = Field(None, gt=0)
    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0
    k5: float = 0.0
    k6: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    is_fisheye: bool = False
    camera_model: str = "OPENCV"

    def seen_by(self, own: Lens) -> Lens:
        """This camera with what a photograph says of its own."""
        said = {name: getattr(own, name) for name in own.model_fields_set & set(Lens.model_fields)}
        mine = {name: getattr(self, name) for name in Lens.model_fields}
        return Lens(**(mine | said))

    @property
    def axes(self) -> str:
        """Whose axes matrices are said to have; OpenGL's, unless the file says otherwise."""
        said = str((self.model_extra or {}).get("camera_convention") or "opengl").lower()
        return "opengl" if said in ("opengl", "blender", "nerf", "nerfstudio") else said

    def strange(self) -> tuple[dict[str, object], list[str]]:
        """Keys of a file that are not read: those that bend pictures, with their values, and those
        that nobody here knows."""
        more = {name: value for name, value in (self.model_extra or {}).items() if _said(value)}
        bending = {name: more[name] for name in more if BENDING.fullmatch(name.lower())}
        capital = {  # K1 for k1; W and H say nothing new
            name: more[name]
            for name in more
            if name.lower() != name and name.lower() in Lens.model_fields and name not in "WH"
        }
        known = {*bending, *capital, "W", "H", "camera_convention"}
        unknown = [
            name for name in more if name not in known and not NEUTRAL.fullmatch(name.lower())
        ]
        return bending | capital, unknown


def _said(value: object) -> bool:
    """Whether a value is anything but nothing: not zero, not false, not empty, not all zeros."""
    if isinstance(value, dict):
        return any(_said(one) for one in value.values())
    if isinstance(value, list):
        return any(_said(one) for one in value)
    if isinstance(value, str):
        return value.strip().lower() not in ("", "none", "no", "false", "0", "0.0")
    return bool(value)


def focal_length(file: Path, lens: Lens, native: tuple[int, int]) -> float:
    """Focal length in pixels of a picture of (width, height) ``native``: ``0.5 W / tan(0.5
    camera_angle_x)``, or ``fl_x``.

    Raises :class:`InputError` for a camera that one focal length does not describe.
    """
    width = native[0]
    if lens.w and lens.h and abs(lens.w * native[1] / (lens.h * native[0]) - 1) > PINHOLE:
        raise unusable(
            file,
            f"is about photographs of {lens.w:g} x {lens.h:g} pixels, and they are stored as "
            f"{native[0]} x {native[1]}",
            "turn the photographs upright (without an Exif orientation) and do not crop them, or "
            "write w and h of the stored ones",
        )
    if lens.camera_angle_x is not None:
        if not 0 < lens.camera_angle_x < math.pi:
            raise unusable(
                file,
                f"camera_angle_x = {lens.camera_angle_x} is no opening angle in radians between "
                "0 and pi",
                "write the horizontal opening angle of the camera in radians",
            )
        focal = 0.5 * width / math.tan(0.5 * lens.camera_angle_x)
        if lens.fl_x and abs(lens.fl_x * width / (lens.w or width) / focal - 1) > PINHOLE:
            raise unusable(
                file,
                f"fl_x = {lens.fl_x} and camera_angle_x = {lens.camera_angle_x} contradict each "
                "other",
                "leave the one out that is not the photographs'",
            )
    elif lens.fl_x is not None:
        if not 0 < lens.fl_x < math.inf:
            raise unusable(
                file, f"fl_x = {lens.fl_x} is no focal length", "write the focal length in pixels"
            )
        focal = lens.fl_x * width / (lens.w or width)
    else:
        raise unusable(
            file,
            "has neither camera_angle_x nor fl_x",
            "add camera_angle_x in radians, or fl_x in pixels",
        )

    for flaw, share in _flaws(lens, native, focal).items():
        if not share <= PINHOLE:
            reason = f"not a plain pinhole camera: {flaw} ({100 * share:.0f} % of the width)"
            raise unusable(
                file, reason, "undistort and crop the photographs, and write the json for those"
            )
    return focal


def _flaws(lens: Lens, native: tuple[int, int], focal: float) -> dict[str, float]:
    """Largest error of a plain pinhole camera, as a share of the picture's width, by its cause."""
    width, height = native
    whole_width = lens.w or width
    whole_height = lens.h or height
    found: dict[str, float] = {}
    across = focal * whole_width / width
    if lens.fl_y:
        found["fl_y differs from fl_x"] = 0.5 * abs(1 - lens.fl_y / across)
    if lens.camera_angle_y:
        up = 0.5 * whole_height / math.tan(0.5 * lens.camera_angle_y)
        found["camera_angle_y says that pixels are oblong"] = 0.5 * abs(1 - up / across)
    if lens.cx is not None:
        found["cx is off the centre"] = abs(lens.cx / whole_width - 0.5)
    if lens.cy is not None:
        found["cy is off the centre"] = abs(lens.cy / whole_height - 0.5)
    # OpenCV's distortion at a corner, the point farthest from the optical axis.
    radius = 0.5 * math.hypot(width, height) / focal
    bent = abs(lens.k1 * radius**3 + lens.k2 * radius**5 + lens.k3 * radius**7)
    sheared = 3 * (abs(lens.p1) + abs(lens.p2)) * radius**2
    found["k1, k2 and k3 bend the corners"] = bent * focal / width
    found["p1 and p2 shear the corners"] = sheared * focal / width
    found |= {f"{name} bends it": 1.0 for name in ("k4", "k5", "k6") if getattr(lens, name) != 0}
    if lens.is_fisheye or "FISHEYE" in lens.camera_model.upper():
        found["it is a fisheye"] = 1.0
    elif lens.camera_model.upper() not in PINHOLES:
        found[f"its camera_model is {lens.camera_model}"] = 1.0
    return found
