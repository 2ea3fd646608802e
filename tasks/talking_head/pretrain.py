"""Training the shared backbone, centrally, on public people: here the parametric ones, whom no
client knows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tasks.errors import InputError
from tasks.randomness import generator, seed_of
from tasks.talking_head import people
from tasks.talking_head.audio import tokens
from tasks.talking_head.backbone import Backbone, fresh
from tasks.talking_head.codec import PatchPCA
from tasks.talking_head.diffusion import denoising, noisy, schedule

Progress = Callable[[int, int, float], None]  # step, steps, loss
NEW_RATE = 1e-3  # at least this for layers that start from nothing
SEEN = 4  # the codec is fitted to every fourth frame
RISING = 0.1  # share of the steps in which the step size rises
PUBLIC = 1_000_003  # the population seed of public people; clients and held-out people have others


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a small backbone."""

    size: int = 64
    factor: int = 8
    channels: int = 32
    widths: tuple[int, ...] = (32, 64)
    unet: str = "frame"
    people: int = 160
    frames: int = 16  # of each person's one clip
    steps: int = 300
    batch: int = 64
    rate: float = 2e-3
    dropout: float = 0.05  # how often speech is withheld, for classifier-free guidance
    min_snr: float = 0.0
    seed: int = 0


def check(recipe: Recipe, fitted: bool = True) -> None:
    """Raise :class:`InputError` unless pictures divide into latent cells and (``fitted``) a codec
    can be fitted."""
    size = recipe.size
    cell = recipe.factor
    if size < 4 * cell or size % (2 * cell):
        raise InputError(
            "data.size",
            size,
            f"must be a multiple of {2 * cell}, two latent cells of {cell} pixels, and at least "
            f"{4 * cell}",
            f"for example {8 * cell}",
        )
    numbers = 3 * cell**2
    patches = recipe.people * len(range(0, recipe.frames, SEEN)) * (size // cell) ** 2
    if fitted and recipe.channels > numbers:
        raise InputError(
            "talking-head.channels",
            recipe.channels,
            f"a cell of {cell} x {cell} pixels holds {numbers} numbers",
            f"set it to {numbers} or fewer, or make talking-head.patch larger",
        )
    if fitted and recipe.channels > patches:
        raise InputError(
            "talking-head.pretrain-people",
            recipe.people,
            f"their pictures have {patches} cells, too few for {recipe.channels} components "
            "(talking-head.channels)",
            "make it larger",
        )


def going_on(recipe: Recipe, start: Backbone, asked: Collection[str]) -> Recipe:
    """``recipe`` with the shape that the weights of ``start`` have.

    Raises :class:`InputError` where one of the config keys ``asked`` for by hand says otherwise.
    """
    shape: dict[str, Any] = {
        "unet": "motion" if start.motion else "frame",
        "factor": start.codec.factor,
        "channels": start.codec.channels,
    }
    for key, field in (("unet", "unet"), ("patch", "factor"), ("channels", "channels")):
        wanted = getattr(recipe, field)
        if f"talking-head.{key}" in asked and wanted != shape[field]:
            raise InputError(
                f"talking-head.{key}",
                wanted,
                f"the given weights have {shape[field]!r}",
                "leave it out, or train a backbone from nothing (without --from)",
            )
    return replace(recipe, **shape, widths=tuple(start.unet.config.block_out_channels))


@dataclass(frozen=True)
class Corpus:
    """Encoded public clips: ``residual [N, T, c, h, w]``, ``reference [N, c, h, w]``, ``mel [N, T,
    TOKENS, BINS]``."""

    residual: Tensor
    reference: Tensor
    mel: Tensor


def public_people(recipe: Recipe) -> list[Any]:
    """One clip each of that many people of the public population."""
    return [
        people.person(
            PUBLIC + recipe.seed, number, "ordinary", 1, 0, recipe.frames, recipe.size, lead=0.0
        )
        for number in range(recipe.people)
    ]


@torch.no_grad()
def encode(cohort: Sequence[Any], codec: Any) -> Corpus:
    """Latents of one clip per person; the codec's ``residual_scale`` is not applied yet."""
    clips = [person.train[0] for person in cohort]
    latents = torch.stack([codec.encode(clip.frames) for clip in clips])
    reference = codec.encode(torch.stack([person.reference for person in cohort]))
    mel = torch.stack([tokens(clip.audio, len(clip.frames)) for clip in clips])
    return Corpus(latents - reference[:, None], reference, mel)


def pretrain(
    recipe: Recipe, progress: Progress | None = None, start: Backbone | None = None
) -> Backbone:
    """A backbone trained on public people: ``recipe.steps`` steps of AdamW, one cycle; ``start``
    goes on from one.

    ``about["history"]`` then lists all that the weights came from, the oldest first.
    """
    cohort = public_people(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("backbone", recipe.seed))
        if start is None:
            codec = PatchPCA.fit(
                torch.cat([p.train[0].frames[::SEEN] for p in cohort]),
                recipe.factor,
                recipe.channels,
            )
            backbone = fresh(codec, recipe.unet, recipe.widths, {})
        else:
            backbone = start
            about = start.about
            steps = (about.get("recipe") or {}).get("steps")
            parent = {"digest": start.digest, "trained": about.get("trained"), "steps": steps}
            about["history"] = [*about.get("history", []), parent]
    corpus = encode(cohort, backbone.codec)
    population = f"population {PUBLIC + recipe.seed}"
    backbone.codec.residual_scale = float(corpus.residual.std())
    _train(backbone, corpus, recipe, progress or (lambda *_: None))
    backbone.about |= {
        "trained": f"{recipe.steps} steps on {recipe.people} parametric people ({population})",
        "recipe": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(recipe).items()
        },
    }
    return backbone.requires_grad_(False).eval()


def _train(backbone: Backbone, corpus: Corpus, recipe: Recipe, progress: Progress) -> None:
    draw = generator("pretrain", recipe.seed)
    alphas = schedule()
    # A motion denoiser knows positions in a clip as far as it was trained.
    window = recipe.frames if backbone.motion else 1
    # In adopted weights these start from nothing: they get a step size of their own.
    new = [*backbone.unet.conv_in.parameters(), *backbone.hearing.parameters()]
    known = [
        parameter
        for name, parameter in backbone.unet.named_parameters()
        if not name.startswith("conv_in.")
    ]
    trained = [*known, *new]
    for parameter in trained:
        parameter.requires_grad_(True)
    backbone.unet.train()
    rates = [recipe.rate, max(recipe.rate, NEW_RATE)]
    groups = [{"params": known, "lr": rates[0]}, {"params": new, "lr": rates[1]}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.99))
    # OneCycleLR divides by the length of the rise: too few steps have none
    rising = RISING if RISING * recipe.steps > 1 else 0.0
    plan = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rates, total_steps=recipe.steps, pct_start=rising
    )
    clips = max(1, recipe.batch // window)
    for step in range(recipe.steps):
        person = torch.randint(len(corpus.reference), (clips,), generator=draw)
        first = torch.randint(recipe.frames - window + 1, (clips,), generator=draw)
        at = (
            person[:, None].expand(-1, window).flatten(),
            (first[:, None] + torch.arange(window)).flatten(),
        )
        t = torch.randint(len(alphas), (clips,), generator=draw).repeat_interleave(window)
        residual = corpus.residual[at] / backbone.codec.residual_scale
        sample, target = noisy(residual, torch.randn(residual.shape, generator=draw), alphas[t])
        # Classifier-free guidance needs a model that was trained without speech now and then.
        spoken = torch.rand(clips, generator=draw) >= recipe.dropout
        heard = corpus.mel[at] * spoken.repeat_interleave(window)[:, None, None]
        velocity = backbone(sample, corpus.reference[at[0]], heard, t, window)
        loss = denoising(velocity, target, alphas[t], recipe.min_snr).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        plan.step()
        progress(step + 1, recipe.steps, float(loss.detach()))
