"""Configuration of the runtime axis (see ``tasks/settings.py`` for how keys map to fields)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.settings import Settings

RUNTIMES = {
    "ray": "flwr run on Ray",
    "in-process": "the same apps in this process",
}


class RuntimeSettings(Settings):
    """Device, threads and nodes. None of these changes what is computed, up to float summation, but
    ``miss_every``."""

    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda|cuda:\d+)$", description="auto, cpu, cuda or cuda:N"
    )
    threads: int = Field(
        1, ge=1, le=256, description="torch threads of a client process and of the server"
    )
    chunk: int = Field(
        0, ge=0, description="clients trained in one batched computation; 0: what memory allows"
    )
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "highest",
        description="highest is fp32; medium multiplies in bfloat16 (TF32 on GPUs) at fp32 range",
    )
    timeout: float = Field(600.0, gt=0, description="seconds a node has to answer one message")
    in_flight: int = Field(
        32, ge=1, description="messages out at a time; bounds the server's memory"
    )
    nodes: int = Field(
        2, ge=1, le=10_000, description="SuperNodes; each trains a cohort of clients"
    )
    miss_every: int = Field(
        0,
        ge=0,
        description="simulation: in every so manyth round one node, in turns, is missing; 0: never",
    )
    cpus_per_actor: int = Field(1, ge=1, description="CPU cores Ray reserves for one actor")
    gpus_per_actor: float = Field(
        0.0, ge=0, description="share of a GPU Ray reserves for one actor"
    )
