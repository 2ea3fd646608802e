"""A picture and speech in, a video out: what a run's adapters are for."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from fedapp.export import trained
from fedapp.store.runfolder import RunFolder
from tasks.data.pictures import UNREADABLE, prepare
from tasks.data.recordings.clips import SAMPLES_PER_FRAME, Clip, UnusableClipError
from tasks.data.recordings.reading import read_sound
from tasks.data.recordings.writing import write_clip
from tasks.errors import InputError
from tasks.talking_head.adapters import PERSONAL, SHARED
from tasks.talking_head.audio import tokens
from tasks.targets import whole

SHOWN = 256  # pixels a side, at least, of a video somebody looks at


def speak(
    folder: RunFolder,
    picture: Path,
    sound: Path,
    out: Path,
    method: str = "",
    seed: int = -1,
    client: int | None = None,
) -> int:
    """Write ``out`` (mp4), the person of ``picture`` saying ``sound``, and return its number of
    frames.

    With the run's shared adapter, and a ``client``'s personal one on top if one is named. The
    centre square of the picture is taken; every frame hears the 160 ms of sound around its own
    middle. Raises :class:`InputError` for files that cannot be used and for speech longer than a
    motion denoiser attends over.
    """
    task, _, _, vectors = trained(folder, method, seed, client)
    try:
        with Image.open(picture) as image:
            reference = prepare(image, task.settings.data.size, 3)
    except (*UNREADABLE, SyntaxError, ValueError) as error:
        raise InputError(
            "--picture", str(picture), f"not a readable image ({error})", "give a picture of a face"
        ) from error
    try:
        heard = read_sound(sound)
    except UnusableClipError as error:
        raise InputError(
            "--sound", str(sound), error.reason, "give a file with speech in it"
        ) from error
    frames, model = len(heard) // SAMPLES_PER_FRAME, task.model(torch.device("cpu"))
    if not frames:
        raise InputError(
            "--sound", str(sound), "is shorter than a frame (40 ms)", "give more of it"
        )
    longest = task.longest
    if longest is not None and frames > longest:
        raise InputError(
            "--sound",
            str(sound),
            f"{frames} frames; this denoiser attends over {longest}",
            "cut it",
        )
    personal = vectors.get(PERSONAL, task.personal_start())
    with torch.no_grad():
        latent = model.backbone.codec.encode(reference[None])
        params = torch.cat([vectors[SHARED], personal])[None]
        video = model.generate(params, latent, tokens(heard, frames)[None])[0].clamp(0, 1)
    said = heard[: frames * SAMPLES_PER_FRAME]
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as beside:
        write_clip(beside, Clip(out.name, video, said), max(1, -(-SHOWN // video.shape[1])))
    return frames
