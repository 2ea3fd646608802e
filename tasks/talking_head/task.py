"""Talking heads: every client is one person; a low-rank adapter is shared, another one stays with
the person.

*PrivFedTalk: Privacy-Aware Federated Diffusion with Identity-Stable Adapters for Personalized
Talking-Head Generation*, 2026, https://arxiv.org/abs/2604.08037. The paper's artefact trains
adapters on a backbone that was never trained; here the backbone is trained in public first
(:mod:`tasks.talking_head.pretrain`) or given by the user.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tasks.errors import InputError
from tasks.params import Layout
from tasks.randomness import Key
from tasks.settings import EvaluationSettings, TaskSettings
from tasks.talking_head import source
from tasks.talking_head.adapters import PERSONAL, SHARED
from tasks.talking_head.backbone import LONGEST
from tasks.talking_head.encoding import Encoded, draw, encode
from tasks.talking_head.evaluation import evaluate_people, reliability
from tasks.talking_head.model import (
    HeadModel,
    backbone_folder,
    load_model,
    make_backbone,
    recipe_of,
    shape_only,
)
from tasks.talking_head.pretrain import check as check_recipe
from tasks.types import Episode, Evaluation, Linearised, Personalised

PASS_BYTES = 24_000  # activations of one latent cell during a step, measured on the small backbone


@lru_cache(maxsize=256)
def _encoded(settings: TaskSettings, number: int, device: torch.device) -> Encoded:
    return encode(source.person(settings, number), _model(settings, device).backbone.codec, device)


def _model(settings: TaskSettings, device: torch.device) -> HeadModel:
    return load_model(backbone_folder(settings), settings.talking_head, device)


def _longest(settings: TaskSettings) -> int | None:
    """Frames that the denoiser attends over; ``None``: it sees one at a time, or is unreadable, as
    loading it says."""
    if not settings.talking_head.backbone:
        return LONGEST if settings.talking_head.unet == "motion" else None
    try:
        config = json.loads(
            (backbone_folder(settings) / "unet" / "config.json").read_text(encoding="utf-8")
        )
    except (OSError, ValueError):
        return None
    return config.get("motion_max_seq_length") if isinstance(config, dict) else None


class TalkingHeadTask(Personalised):
    """Talking heads: a frozen diffusion backbone and what adapts it.

    ``layout`` is the shared adapter's, ``personal`` that of the one which never leaves a client.
    """

    family = "head"
    pins = frozenset({"talking-head.digest"})

    def __init__(self, settings: TaskSettings) -> None:
        for package in ("diffusers", "peft"):
            if importlib.util.find_spec(package) is None:
                raise InputError(
                    "package",
                    package,
                    "talking heads need it",
                    "pip install 'fedapp[talking-head]'",
                )
        # Settings of other axes must not make two tasks (and two models in memory) of one.
        self.settings = TaskSettings(
            task=settings.task,
            data=settings.data,
            evaluation=settings.evaluation,
            talking_head=settings.talking_head,
        )
        head = settings.talking_head
        check_recipe(recipe_of(settings), fitted=not head.backbone)
        if head.frames < head.window:
            raise InputError(
                "talking-head.window",
                head.window,
                f"clips have only {head.frames} frames",
                "make it smaller",
            )
        self.longest = _longest(settings)
        if self.longest is not None and head.frames > self.longest:
            raise InputError(
                "talking-head.frames",
                head.frames,
                f"this motion denoiser attends over {self.longest} frames",
                f"set it to {self.longest} or fewer",
            )
        self.whole = self.derivatives = self
        self._shapes: tuple[Layout, Layout] | None = None

    # ------------------------------------------------------------------ parameters
    def _layouts(self) -> tuple[Layout, Layout]:
        """From the backbone if there is one, else from an untrained one of the same shape."""
        if self._shapes is None:
            there = (backbone_folder(self.settings) / "unet").is_dir()
            if there or self.settings.talking_head.backbone:
                adapters = self.model(torch.device("cpu")).adapters
            else:
                adapters = shape_only(self.settings)
            self._shapes = adapters.shared, adapters.personal
        return self._shapes

    @property
    def most_examples(self) -> int:
        return self.settings.talking_head.clips

    @property
    def layout(self) -> Layout:  # type: ignore[override]
        """The shared adapter: all that rules and releases see."""
        return self._layouts()[0]

    @property
    def personal(self) -> Layout:  # type: ignore[override]
        return self._layouts()[1]

    def model(self, device: torch.device) -> HeadModel:
        """The one model of this process."""
        return _model(self.settings, device)

    def init(self, seed: int) -> Tensor:
        """The shared adapter that changes nothing: B = 0 (A comes from
        ``talking-head.adapter-seed``)."""
        return self.model(torch.device("cpu")).adapters.start(SHARED)

    def personal_start(self) -> Tensor:
        return self.model(torch.device("cpu")).adapters.start(PERSONAL)

    def frozen(self, round: int) -> Tensor | None:
        return self.model(torch.device("cpu")).adapters.frozen(round)

    # ------------------------------------------------------------------ data
    def prepare(self, progress: Callable[[str, int, int], None]) -> Mapping[str, str]:
        source.refuse_layout(self.settings)
        make_backbone(
            self.settings,
            lambda step, steps, loss: progress(f"backbone, loss {loss:.2f}", step, steps),
        )
        return {"talking-head.digest": self.model(torch.device("cpu")).digest}

    def check(self, clients: int) -> None:
        """That every person has what is needed, and that the backbone is there."""
        source.check(self.settings, clients)
        self.model(torch.device("cpu"))

    def client_data(self, client: int) -> Encoded:
        return _encoded(self.settings, client, torch.device("cpu"))

    def held_out(self) -> Sequence[Encoded]:
        """People no client is."""
        count = self.settings.data.held_out
        return [
            _encoded(self.settings, source.UNSEEN + number, torch.device("cpu"))
            for number in range(count)
        ]

    def episodes(
        self,
        cohort: Sequence[Encoded],
        keys: Sequence[Key],
        count: int,
        inner_steps: int,
        batch_size: int,
        device: torch.device,
    ) -> Callable[[int], Episode]:
        model = self.model(device)
        window = self.settings.talking_head.window
        draws = draw(cohort, keys, count, inner_steps + 1, batch_size, window, model.alphas.cpu())

        def episode(step: int) -> Episode:
            batches = [
                type(b)(*(t.to(device) for t in b))
                for b in (draws.batch(step, i) for i in range(inner_steps + 1))
            ]
            return Episode(batches[:-1], batches[-1])

        return episode

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        cells = (self.settings.data.size // self.settings.talking_head.patch) ** 2
        return PASS_BYTES * cells * batch_size * (inner_steps + 1)

    # ------------------------------------------------------------------ derivatives
    def gradient(self, params: Tensor, batch: object) -> tuple[Tensor, Tensor]:
        return self.model(params.device).gradient(params, batch)  # type: ignore[arg-type]

    def linearise(self, params: Tensor, batch: object) -> Linearised:
        return self.model(params.device).linearise(params, batch)  # type: ignore[arg-type]

    # ------------------------------------------------------------------ judging
    def signals(self, params: Tensor, cohort: Sequence[Encoded]) -> Mapping[str, Tensor]:
        """Identity consistency and temporal stability on each person's held-out clips, at fixed
        noise."""
        return reliability(self.model(params.device), params, cohort)

    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        return evaluate_people(self, model, self.held_out(), settings, personalise=tune)
