"""Configuration of the task axis: what is fitted, on which data, and how it is judged.

Field names are the config keys in snake case (``data.held-out`` is ``DataSettings.held_out``). Keys
that name a list hold it as one comma-separated string, because Flower's run config has no lists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from tasks.errors import InputError
from tasks.settings_base import Settings
from tasks.settings_heads import HeadSettings, TemplateSettings


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def numbers(text: str) -> list[float]:
    """The numbers of ``"0, 1.5, 4"``."""
    return [float(part) for part in text.split(",") if part.strip()]


def _steps(text: str) -> str:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError("must be whole numbers separated by commas, such as 0,1,4,16,64") from None
    if not values or min(values) < 0:
        raise ValueError("must be whole numbers from 0 up, separated by commas")
    return text


def _rates(text: str) -> str:
    try:
        values = numbers(text)
    except ValueError:
        raise ValueError("must be numbers separated by commas, such as 0.003,0.01,0.03") from None
    if not values or not all(0 < value < math.inf for value in values):
        raise ValueError("must be positive numbers separated by commas")
    return text


def _side(size: int) -> int:
    if size == 1:
        raise ValueError("a picture of one pixel has no inside: use 0 (native size) or 2 and more")
    return size


def options_of(text: str) -> dict[str, Any]:
    """The values of an ``options`` key."""
    return json.loads(text)


def _json_object(text: str) -> str:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"must be a JSON object: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object such as {}")
    return text


Options = Annotated[str, AfterValidator(_json_object)]


NOBODY = "none"


class DataSettings(Settings):
    """Source of the private signals."""

    path: str = Field("", description="folder of your own data; empty: bundled or procedural")
    hosted: str = Field(
        "",
        pattern=r"^(none|\d+(,\d+)*)?$",
        description="whose data lie there; empty: everybody's; none: nobody's, only what is "
        "held out (on a server)",
    )
    layout: str = Field("auto", description="how data.path is organised; auto: found out")
    size: Annotated[int, AfterValidator(_side)] = Field(
        32, ge=0, le=4096, description="side of the square each picture is cut to; 0: native size"
    )
    channels: int = Field(3, description="3 for RGB, 1 for grey")
    held_out: int = Field(
        6, ge=1, le=1000, description="signals no client holds, for test-time optimisation"
    )
    skip: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="bundled or procedural: clients (and held-out signals) passed over at the "
        "start; fedapp tune looks at those a run does not",
    )
    objects: int = Field(
        1,
        ge=1,
        le=10_000,
        description="pictures, clips or objects a client holds (mean, if skewed)",
    )
    alpha: float = Field(
        0.0, ge=0, description="Dirichlet concentration of how many a client holds; 0: all the same"
    )
    frames: int = Field(8, ge=0, le=10_000, description="video: frames of a clip; 0: all")
    shape: Literal["cars", "heads", "people"] = Field(
        "cars", description="nerf: which procedural objects"
    )
    near: float = Field(
        0.0, ge=0, description="nerf: where the space of a run begins; 0: as its first object says"
    )
    far: float = Field(
        0.0, ge=0, description="nerf: where it ends; objects keep limits of their own within"
    )
    support_views: int = Field(4, ge=1, le=10_000, description="nerf: views a field is adapted on")
    query_views: int = Field(4, ge=1, le=10_000, description="nerf: other views it is judged on")
    views_alpha: float = Field(
        0.0, ge=0, description="nerf: Dirichlet concentration of support views; 0: all of them"
    )

    @property
    def spare(self) -> int:
        """Number of those under ``path`` that are held by no client, the last ones: none on a
        client's own device."""
        return self.held_out if self.hosted in ("", NOBODY) else 0

    def hosts(self, clients: int) -> Sequence[int]:
        """Those of ``clients`` that have their data under ``path``, in the order in which they lie
        there."""
        if not self.hosted:
            return range(clients)
        return (
            []
            if self.hosted == NOBODY
            else sorted({int(number) for number in self.hosted.split(",")})
        )

    def place(self, client: int) -> int:
        """Position of a client's data under ``path``; raises :class:`InputError` if they are not
        there."""
        if not self.hosted:
            return client
        hosts = self.hosts(0)
        if client not in hosts:
            raise InputError(
                "data.hosted",
                self.hosted,
                f"the data of client {client} are not here",
                "ask the device that has them",
            )
        return hosts.index(client)


class FieldSettings(Settings):
    """The coordinate network."""

    width: int = Field(64, ge=1, le=4096, description="units of a hidden layer")
    depth: int = Field(3, ge=1, le=32, description="hidden layers")
    omega: float = Field(30.0, gt=0, description="SIREN's frequency factor w0")
    biases: Literal["linear", "weights"] = Field(
        "linear",
        description="SIREN's initial biases: as torch.nn.Linear, or in the bounds of their layer's "
        "weights, as FedMeNF's release",
    )
    encoding: Literal["fourier", "hash"] = Field(
        "fourier", description="nerf: what the network sees of a position"
    )
    frequencies: int = Field(20, ge=1, le=64, description="nerf: Fourier frequencies an axis")
    max_frequency: float = Field(8.0, ge=0, le=16, description="nerf: log2 of the highest one")
    samples: int = Field(32, ge=2, le=1024, description="nerf: samples along a ray")
    last_sample: Literal["thin", "opaque"] = Field(
        "thin",
        description="nerf: the last sample of a ray is as thin as the others, or stands for all "
        "behind it (FedMeNF's release): then no background is composited",
    )
    compiled: bool = Field(
        False, description="machine code for each size of batch: needs a C++ compiler"
    )
    skip_empty: bool = Field(
        False, description="nerf: sample rays only inside the visual hull of the support views"
    )


class TalkingHeadSettings(Settings):
    """The talking head: its frozen backbone, what adapts, what is minimised, how it is sampled."""

    backbone: str = Field(
        "", description="folder of a frozen backbone; empty: a small one, made once and kept"
    )
    digest: str = Field(
        "", description="SHA-256 of the backbone's weights that every node must have; empty: any"
    )
    unet: Literal["frame", "motion"] = Field("frame", description="denoiser of the small backbone")
    patch: int = Field(
        8, ge=2, le=32, description="pixels a side of a latent cell (small backbone)"
    )
    channels: int = Field(32, ge=1, le=512, description="numbers a latent cell (small backbone)")
    pretrain_people: int = Field(
        160, ge=2, description="public people the small backbone is trained on"
    )
    pretrain_steps: int = Field(300, ge=1, description="steps it is trained for")
    layout: str = Field("auto", description="how data.path is organised; auto: found out")
    clips: int = Field(4, ge=1, le=1000, description="clips a client trains on, at most")
    held_out_clips: int = Field(
        1, ge=1, le=100, description="clips of each person kept for judging"
    )
    frames: int = Field(32, ge=2, le=1000, description="frames of a clip, 25 a second")
    window: int = Field(
        2, ge=1, le=64, description="consecutive frames that share a step of the schedule"
    )
    lora: Literal["ffa", "ab", "alternating"] = Field("ffa", description="which factors are shared")
    rank: int = Field(8, ge=1, le=256, description="rank of both adapters")
    alpha: int = Field(8, ge=1, description="adapters are scaled by alpha / rank")
    adapter_seed: int = Field(
        0, ge=0, description="seed of the common factor A and of the sampling noise"
    )
    tdc: float = Field(0.05, ge=0, description="weight of temporal denoising consistency")
    identity: float = Field(0.0, ge=0, description="weight of the identity term at low noise")
    perceptual: float = Field(
        0.0, ge=0, description="weight of the perceptual term at low noise (needs a judge)"
    )
    min_snr: float = Field(0.0, ge=0, description="ceiling of min-SNR loss weights; 0: unweighted")
    sampling_steps: int = Field(4, ge=1, le=1000, description="DDIM steps")
    noise: float = Field(
        0.0, ge=0, le=1, description="scale of the initial noise; 0: the most likely path"
    )
    shared_noise: float = Field(
        1.0, ge=0, le=1, description="how much of it all frames have in common"
    )
    guidance: float = Field(1.0, ge=0, le=20, description="classifier-free guidance; 1: none")
    judges: Options = Field(
        "{}", description="JSON: TorchScript files for lpips, features, face, sync"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the denoiser's passes"
    )
    checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory"
    )


def _cells(text: str) -> str:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError("must be whole numbers separated by commas, such as 8,16,32") from None
    if not values or not all(1 <= value <= 4096 for value in values):
        raise ValueError("must be whole numbers from 1 to 4096, separated by commas")
    return text


Cells = Annotated[str, AfterValidator(_cells)]


class SplitSettings(Settings):
    """A radiance field split between a server and a client: what each holds, and what crosses."""

    cells: Cells = Field("8,12,18,27,44", description="cells per side of each level of the grid")
    features: int = Field(4, ge=1, le=16, description="numbers per corner of a level")
    hashed: int = Field(
        0, ge=0, le=2**24, description="rows of a level at most, by hashing; 0: dense levels"
    )
    cut: Literal["features", "hidden", "geometry"] = Field(
        "hidden",
        description="what crosses: grid features, the first layer (as published), geometry",
    )
    variant: Literal["full", "light"] = Field(
        "full", description="light: 16 units everywhere and one colour layer less"
    )
    rays: int = Field(256, ge=1, le=65536, description="rays of a mini-batch")
    samples: int = Field(32, ge=2, le=1024, description="samples along a ray")
    batches: int = Field(16, ge=1, le=256, description="K, mini-batches of one exchange")
    exchanges: int = Field(8, ge=1, le=10_000, description="exchanges with each scene per round")
    rate: float = Field(0.01, gt=0, description="Adam's step size at the start; a tenth at the end")
    sealed_rate: float = Field(
        0.0, ge=0, description="step size of the sealed table; 0: by the measured rule for K"
    )
    noise_scale: float = Field(1.2, ge=0, description="c of S2NeRF's noise")
    noise_decay: float = Field(1e-4, gt=0, le=1, description="r: at the end the noise is c r")
    label_noise: float = Field(8.0, ge=0, description="deviation of label noise")
    private_cells: Cells = Field("8,12,18", description="cells of the grid without a server")
    texture: Literal["plain", "fine", "mixed"] = Field(
        "mixed", description="of procedural rooms; mixed: every second one is fine"
    )
    train_views: int = Field(30, ge=1, le=10_000, description="procedural rooms: views to train on")
    test_views: int = Field(4, ge=1, le=1000, description="views to judge on, the last ones")
    metrics: bool = Field(
        False, description="clients release how well their held-out views are rendered"
    )


class EvaluationSettings(Settings):
    """Test-time optimisation on held-out data."""

    every: int = Field(
        5, ge=1, description="rounds between evaluations (the last round always has one)"
    )
    steps: Annotated[str, AfterValidator(_steps)] = Field(
        "0,1,4,16,64", description="steps to report after"
    )
    rate: float = Field(
        0.01, gt=0, description="step size of test-time optimisation, the same for all methods"
    )
    rates: Annotated[str, AfterValidator(_rates)] = Field(
        "0.003,0.01,0.03,0.1,0.2,0.4",
        description="step sizes the tuned table chooses from, per method",
    )
    uploads: bool = Field(
        True, description="judge each client's upload as a server that renders it would"
    )
    uploads_every: int = Field(
        1, ge=1, description="rounds from one look at uploads to the next; the last is looked at"
    )
    lpips: str = Field(
        "", description="TorchScript file of an LPIPS network for fields; empty: not computed"
    )
    batch_size: int = Field(
        0, ge=0, description="samples of a test-time step; 0: all of the signal"
    )
    clip: float = Field(
        5.0, ge=0, description="gradient norm limit in test-time optimisation; 0: none"
    )

    @property
    def step_list(self) -> list[int]:
        return sorted({int(part) for part in self.steps.split(",")})

    @property
    def rate_list(self) -> list[float]:
        return sorted(set(numbers(self.rates)))


class TaskSettings(Settings):
    """All a task is built from."""

    task: str = Field("image", description="what is fitted")
    data: DataSettings = Field(default_factory=lambda: DataSettings())
    field: FieldSettings = Field(default_factory=lambda: FieldSettings())
    evaluation: EvaluationSettings = Field(default_factory=lambda: EvaluationSettings())
    task_options: Options = Field("{}", description="a JSON object for a task of your own")
    talking_head: TalkingHeadSettings = Field(default_factory=lambda: TalkingHeadSettings())
    split: SplitSettings = Field(default_factory=lambda: SplitSettings())
    head: HeadSettings = Field(default_factory=lambda: HeadSettings())
    template: TemplateSettings = Field(default_factory=lambda: TemplateSettings())
