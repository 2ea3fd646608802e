r"""Quality for unseen clients: at once, and after adapting a personal adapter to their own clips.

Every score stands beside its controls: the reference picture held still, the codec's own loss, the
same model hearing other people's speech.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tasks.data.pictures import beside
from tasks.metrics import mean_of, psnr, ssim
from tasks.optimise import Adam
from tasks.params import Layout, clip
from tasks.randomness import Key
from tasks.settings import EvaluationSettings
from tasks.talking_head import metrics as judge
from tasks.talking_head.encoding import Encoded
from tasks.talking_head.model import HeadModel
from tasks.types import Episode, Evaluation, Video

WRONG_VOICES = 3  # how many other people's speech each clip is driven with as a control
BATCH = 16  # frames of a personalisation step
SHOWN = 6  # people whose videos are kept


class Judged(Protocol):
    """The parts of a talking-head task that judging uses: its model, and steps on a person's own
    clips."""

    @property
    def layout(self) -> Layout: ...

    def model(self, device: torch.device) -> HeadModel: ...

    def personal_start(self) -> Tensor: ...

    def gradient(self, params: Tensor, batch: object) -> tuple[Tensor, Tensor]: ...

    def episodes(
        self,
        cohort: Sequence[Encoded],
        keys: Sequence[Key],
        count: int,
        inner_steps: int,
        batch_size: int,
        device: torch.device,
    ) -> Callable[[int], Episode]: ...


# ---------------------------------------------------------------------- signals for ISFA
def reliability(model: HeadModel, params: Tensor, cohort: Sequence[Encoded]) -> dict[str, Tensor]:
    r"""``{"identity": [C], "stability": [C]}`` in [0, 1], from each person's first held-out clip.

    .. math::
        \mathrm{ID} = \tfrac12 (1 + \cos(F(\hat v), F(x_{ref}))), \qquad
        \mathrm{TS} = \frac{1}
            {1 + \mathrm{mean}|\partial \hat v - \partial v| / \mathrm{mean}|\partial v|}

    with F the appearance embedding and :math:`\partial` differences of consecutive frames.
    """
    identity = []
    stability = []
    for found, data in zip(
        _speak(model, params, cohort, [data.held_out[:1] for data in cohort]), cohort, strict=True
    ):
        truth = data.person.held_out[0].frames
        video = found[0]
        likeness = judge.similarity(
            judge.appearance(video), judge.appearance(data.person.reference[None])
        )
        wrong = float((video.diff(dim=0) - truth.diff(dim=0)).abs().mean())
        identity.append((1 + likeness) / 2)
        stability.append(1 / (1 + wrong / max(judge.jitter(truth), 1e-6)))
    return {"identity": torch.tensor(identity), "stability": torch.tensor(stability)}


def _speak(
    model: HeadModel,
    params: Tensor,
    cohort: Sequence[Encoded],
    voices: Sequence[Sequence[Tensor]] | None = None,
) -> list[list[Tensor]]:
    """Videos ``[person][clip] -> [T, H, W, 3]`` in [0, 1] of everyone's held-out clips, or of other
    ``voices``."""
    voices = voices or [data.held_out for data in cohort]
    found: list[list[Tensor]] = [[] for _ in cohort]
    for turn in range(max(len(said) for said in voices)):
        ready = [index for index, said in enumerate(voices) if turn < len(said)]
        # Clips of one length go together.
        for length in sorted({len(voices[index][turn]) for index in ready}):
            some = [index for index in ready if len(voices[index][turn]) == length]
            references = torch.stack([cohort[index].reference for index in some]).to(params)
            mel = torch.stack([voices[index][turn] for index in some]).to(params)
            for index, video in zip(
                some, model.generate(params[some], references, mel), strict=True
            ):
                found[index].append(video.clamp(0, 1).cpu())
    return found


# ---------------------------------------------------------------------- people
def evaluate_people(
    task: Judged,
    shared: Tensor,
    people: Sequence[Encoded],
    settings: EvaluationSettings,
    personalise: bool,
) -> Evaluation:
    """Scores at step 0 and, if asked, after each of ``evaluation.steps`` of personalisation; videos
    of both.

    Args:
        task: model and training steps.
        shared: the shared adapter, ``[P]``.
        people: unseen clients.
        settings: steps, rate and clip norm of personalisation.
        personalise: whether to adapt the personal adapter at all.
    """
    model = task.model(shared.device)
    start = task.personal_start().to(shared)
    steps = sorted({0, *settings.step_list}) if personalise else [0]
    point = torch.cat([shared, start]).expand(len(people), -1).clone()
    tables: dict[str, dict[str, float | None]] = {}
    pictures: dict[str, Tensor] = {}
    videos: dict[str, Video] = {}
    first: list[list[Tensor]] = []
    extra: dict[str, Any] = {}
    for step, adapted in _personalised(task, point, people, steps, settings):
        found = _speak(model, adapted, people)
        rows = [
            _score_person(model, data, videos_of)
            for data, videos_of in zip(people, found, strict=True)
        ]
        for name in rows[0]:
            tables.setdefault(name, {})[str(step)] = mean_of(row[name] for row in rows)
        reserved = [
            row["mouth_error"] for row, data in zip(rows, people, strict=True) if _is_reserved(data)
        ]
        if reserved:
            tables.setdefault("mouth_error_reserved", {})[str(step)] = mean_of(reserved)
        if step == steps[0]:
            first = found
            extra = _controls(model, adapted, people, found)
        if step == steps[-1]:
            for index, data in enumerate(people[:SHOWN] if personalise else []):
                clip_ = data.person.held_out[0]
                before = first[index][0]
                after = found[index][0]
                videos[f"{index:02d}"] = Video(beside([clip_.frames, before, after]), clip_.audio)
                pictures[f"{index:02d}"] = _strip(data, [clip_.frames, before, after])
    metrics: dict[str, Any] = {"psnr": tables.pop("psnr"), "ssim": tables.pop("ssim")}
    metrics |= extra
    metrics |= {name: table["0"] for name, table in tables.items() if "0" in table}
    metrics["personalised"] = {name: table for name, table in tables.items() if len(table) > 1}
    return Evaluation(metrics, pictures, videos)


def _is_reserved(data: Encoded) -> bool:
    """Parametric people who hardly open their mouth, which no reference shows."""
    openings = [clip.opening for clip in data.person.train if clip.opening is not None]
    return bool(openings) and float(torch.cat(openings).max()) < 0.5


def _personalised(
    task: Judged,
    point: Tensor,
    people: Sequence[Encoded],
    steps: Sequence[int],
    settings: EvaluationSettings,
) -> Iterator[tuple[int, Tensor]]:
    """Yield ``(k, params [N, P + Q])``: the personal adapter after k Adam steps on each person's
    own training clips.

    The step size falls along a half cosine to 0 at the last k, so that the end is not the noise of
    one batch.
    """
    shared = task.layout.size
    optimiser = Adam(settings.rate)
    horizon = max(1, max(steps))
    keys = [("personalise", data.name) for data in people]
    episode = task.episodes(people, keys, max(1, max(steps)), 0, BATCH, point.device)
    for step in range(max(steps) + 1):
        if step in steps:
            yield step, point
        if step < max(steps):
            _, gradient = task.gradient(point, episode(step).query)
            gradient[:, :shared] = 0  # what all share stays
            optimiser.rate = settings.rate * 0.5 * (1 + math.cos(math.pi * step / horizon))
            point = point - optimiser.direction(clip(gradient, settings.clip))


def _score_person(
    model: HeadModel, data: Encoded, found: Sequence[Tensor]
) -> dict[str, float | None]:
    """Means over one person's held-out clips."""
    clips = data.person.held_out
    traces = [judge.mouth_trace(clip.frames) for clip in clips]
    unit = judge.mouth_slope(traces, [clip.opening for clip in clips]) or 1.0
    rows: list[dict[str, float | None]] = []
    for clip_, video, trace, mel in zip(clips, found, traces, data.held_out, strict=True):
        own = judge.mouth_trace(video)
        rows.append(
            {
                "psnr": psnr(video, clip_.frames),
                "ssim": mean_of(
                    ssim(a, b) for a, b in zip(video[::8], clip_.frames[::8], strict=True)
                ),
                "mouth_corr": judge.correlation(own, trace),
                "mouth_error": float((own - trace).abs().mean()) / abs(unit),
                "jitter_error": abs(judge.jitter(video) - judge.jitter(clip_.frames)),
                "identity_similarity": judge.similarity(
                    judge.appearance(video), judge.appearance(data.person.reference[None])
                ),
                **model.judges.scores(video, clip_.frames, mel, data.person.reference),
            }
        )
    return {name: mean_of(row[name] for row in rows) for name in rows[0]}


def _controls(
    model: HeadModel, params: Tensor, people: Sequence[Encoded], found: Sequence[Sequence[Tensor]]
) -> dict[str, Any]:
    """Controls that the scores must be read against."""
    codec = model.backbone.codec
    still: list[float] = []
    coded: list[float] = []
    top: list[bool] = []
    ordinary: list[float] = []
    reserved: list[float] = []
    gallery = torch.stack([judge.appearance(data.person.reference[None]) for data in people])
    for index, data in enumerate(people):
        for clip_, video in zip(data.person.held_out, found[index], strict=True):
            still.append(psnr(data.person.reference.expand_as(clip_.frames), clip_.frames))
            through = codec.decode(codec.encode(clip_.frames.to(params))).cpu().clamp(0, 1)
            coded.append(psnr(through, clip_.frames))
            trace = judge.mouth_trace(clip_.frames)
            closed = judge.mouth_trace(data.person.reference[None])
            unit = abs(judge.mouth_slope([trace], [clip_.opening]) or 1.0)
            error = float((closed - trace).abs().mean()) / unit
            (reserved if _is_reserved(data) else ordinary).append(error)
            top.append(judge.nearest(judge.appearance(video), gallery) == index)
    every = torch.cat([video for videos in found for video in videos])
    true = torch.cat([clip.frames for data in people for clip in data.person.held_out])
    return {
        "psnr_static": mean_of(still),
        "psnr_codec": mean_of(coded),
        "mouth_corr_shuffled": mean_of(_wrong_voices(model, params, people)),
        "mouth_error_static": mean_of(ordinary + reserved),
        "mouth_error_reserved_static": mean_of(reserved),
        "identity_top1": sum(top) / len(top),
        "frechet": model.judges.frechet(every, true),
        "people": len(people),
    }


def _wrong_voices(
    model: HeadModel, params: Tensor, people: Sequence[Encoded]
) -> list[float | None]:
    """Mouth correlations of everybody's clips with videos driven by other people's speech."""
    found: list[float | None] = []
    for turn in range(1, min(WRONG_VOICES, len(people) - 1) + 1):
        others = [people[(index + turn) % len(people)].held_out for index in range(len(people))]
        for data, videos in zip(people, _speak(model, params, people, others), strict=True):
            for clip_, video in zip(data.person.held_out, videos, strict=True):
                length = min(len(video), len(clip_.frames))
                truth = judge.mouth_trace(clip_.frames[:length])
                found.append(judge.correlation(judge.mouth_trace(video[:length]), truth))
    return found


# ---------------------------------------------------------------------- things to look at
def _strip(data: Encoded, videos: Sequence[Tensor], count: int = 8) -> Tensor:
    """One row per video (truth, before, after) of ``count`` frames, the reference in front of
    each."""
    every = max(1, len(videos[0]) // count)
    rows = [torch.cat([data.person.reference, *video[::every][:count]], 1) for video in videos]
    return torch.cat(rows, 0)
