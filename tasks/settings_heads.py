"""Configuration of heads: fitted to obscured pictures, or federated as a template."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.settings_base import Settings


class HeadSettings(Settings):
    """A head fitted to pictures, some of them obscured on the device."""

    operator: str = Field(
        "modulus=sobel",
        description="what a sensitive picture goes through before it leaves, links by comma",
    )
    neutral_views: int = Field(12, ge=0, le=1000, description="procedural people: rear views")
    sensitive_views: int = Field(8, ge=1, le=1000, description="procedural people: frontal views")
    style: Literal["short", "long", "mixed"] = Field(
        "mixed", description="procedural people: hair of the population"
    )
    front: str = Field(
        "", pattern=r"^([+-][xyz])?$", description="own photographs: axis along which faces look"
    )
    up: str = Field("+y", pattern=r"^[+-][xyz]$", description="own photographs: axis to the crown")
    facing_neutral: bool = Field(
        False, description="own photographs: views in neutral/ may show the face"
    )
    field: str = Field(
        "grid", description="representation of the distance: grid, hash[=LxT] or mlp[=DxW]"
    )
    grid: int = Field(64, ge=16, le=256, description="corners per axis of the distance field")
    first_steps: int = Field(400, ge=1, le=1_000_000, description="steps of the first stage")
    second_steps: int = Field(800, ge=1, le=1_000_000, description="steps of the second stage")
    sharp: float = Field(
        0.002, gt=0, le=0.1, description="width of the density at the end, in head heights"
    )
    stages: str = Field("", description="JSON: stages of the method own, instead of the built ones")
    rays: int = Field(384, ge=1, le=65536, description="rays whose colours a step compares")
    patches: int = Field(6, ge=1, le=4096, description="patches of operator values a step compares")
    samples: int = Field(
        60_000, ge=100, le=10_000_000, description="surface samples a mesh is judged by"
    )
    patch: int = Field(8, ge=1, le=64, description="side of a patch")


class TemplateSettings(Settings):
    """A federated template of heads: what is public, what travels, what a newcomer does with it."""

    shares: Literal["basis", "mean"] = Field(
        "basis", description="what is federated: mean and components, or the mean alone"
    )
    components: int = Field(16, ge=0, le=64, description="K, components of the template")
    smooth: bool = Field(
        False, description="smooth a released mean before use: noise of single corners is no shape"
    )
    people: int = Field(32, ge=2, le=1000, description="public people the start is made of")
    style: Literal["short", "long", "mixed"] = Field(
        "short", description="hair of the public population (head.style: of the clients)"
    )
    views: int = Field(3, ge=1, le=100, description="frontal views a newcomer has")
    local_steps: int = Field(150, ge=3, le=100_000, description="steps a newcomer takes")
