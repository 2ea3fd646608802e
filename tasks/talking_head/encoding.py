"""A person's clips as the denoiser takes them: latents and speech tokens, computed once and
kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.recordings.clips import Clip
from tasks.randomness import Key, generator, secrets_of
from tasks.talking_head.audio import tokens
from tasks.talking_head.codec import Codec
from tasks.talking_head.diffusion import noisy
from tasks.talking_head.model import Noised
from tasks.talking_head.person import Person
from tasks.types import ClientData


@dataclass(frozen=True)
class Encoded(ClientData):
    """One person's clips as latents and tokens. ``residual`` and ``mel`` hold one tensor per
    training clip: ``[T, c, h, w]`` and ``[T, TOKENS, BINS]``."""

    person: Person
    reference: Tensor  # [c, h, w]
    residual: tuple[Tensor, ...]
    mel: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]  # mel of the held-out clips

    @property
    def name(self) -> str:
        return self.person.name

    @property
    def examples(self) -> int:
        return self.person.examples

    @property
    def truth(self) -> Tensor:
        """The reference picture, which lists of people show."""
        return self.person.reference


@torch.no_grad()
def encode(person: Person, codec: Codec, device: torch.device) -> Encoded:
    """Through the codec and the mel filters, once; kept on ``device``."""
    reference = codec.encode(person.reference[None].to(device))[0]
    residual = tuple(
        (codec.encode(clip.frames.to(device)) - reference) / codec.residual_scale
        for clip in person.train
    )
    return Encoded(
        person, reference, residual, heard(person.train, device), heard(person.held_out, device)
    )


def heard(clips: Sequence[Clip], device: torch.device) -> tuple[Tensor, ...]:
    """Speech tokens of each clip."""
    return tuple(tokens(clip.audio.to(device), len(clip.frames)) for clip in clips)


def draw(
    cohort: Sequence[Encoded],
    keys: Sequence[Key],
    count: int,
    batches: int,
    frames: int,
    window: int,
    alphas: Tensor,
) -> NoisedBatches:
    """All random choices of a cohort's coming steps.

    Args:
        cohort: C people.
        keys: name of each one's own random stream, C of them.
        count: number of steps.
        batches: number of batches per step.
        frames: per person and batch, rounded up to whole clips.
        window: consecutive frames of a clip.
        alphas: the schedule.
    """
    clips = max(1, -(-frames // window))
    shape = (count, batches, clips)
    picks = []
    for data, key in zip(cohort, keys, strict=True):
        stream = generator(*key)
        lengths = torch.tensor([len(mel) for mel in data.mel])
        clip = torch.randint(len(lengths), shape, generator=stream)
        room = (lengths[clip] - window + 1).clamp(min=1)
        first = (torch.rand(shape, generator=stream) * room).long()
        step = torch.randint(len(alphas), shape, generator=stream)
        noise = int(torch.randint(2**62, (), generator=stream))
        picks.append((clip, first, step, (*secrets_of(key), noise)))
    return NoisedBatches(cohort, picks, window, alphas)


class NoisedBatches:
    """Drawn batches, assembled by :meth:`batch`; noise is drawn only then: memory stays that of one
    batch.

    Args:
        cohort: C people.
        picks: of each: clips, first frames, steps ``[count, batches, clips]``; name of the noise.
        window: consecutive frames of a clip.
        alphas: the schedule.
    """

    def __init__(
        self,
        cohort: Sequence[Encoded],
        picks: list[tuple[Tensor, Tensor, Tensor, Key]],
        window: int,
        alphas: Tensor,
    ) -> None:
        self.cohort = cohort
        self.picks = picks
        self.window = window
        self.alphas = alphas

    def batch(self, step: int, index: int) -> Noised:
        """The cohort's samples ``[C, B, ...]`` of batch ``index`` in step ``step``."""
        rows = []
        for data, (clip, first, steps, name) in zip(self.cohort, self.picks, strict=True):
            residual = []
            mel = []
            for which, start in zip(
                clip[step, index].tolist(), first[step, index].tolist(), strict=True
            ):
                span = slice(start, start + self.window)
                residual.append(data.residual[which][span])
                mel.append(data.mel[which][span])
            latents = torch.cat(residual)
            stream = generator("noise", *name, step, index)
            noise = torch.randn(latents.shape, generator=stream).to(latents)
            at = steps[step, index].repeat_interleave(self.window).to(latents.device)
            sample, target = noisy(latents, noise, self.alphas[at])
            beside = data.reference.expand(len(latents), -1, -1, -1)
            rows.append(Noised(sample, target, latents, beside, torch.cat(mel), at))
        if len(rows) == 1:  # no copy, and the reference stays one picture
            return Noised(*(part[None] for part in rows[0]))
        return Noised(*(torch.stack(parts) for parts in zip(*rows, strict=True)))
