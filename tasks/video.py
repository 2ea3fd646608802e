"""Video fields: a client holds a clip, or several, and fits a SIREN of (t, y, x) to it.

As in the video experiments of FedMeNF (https://arxiv.org/abs/2508.06301), support and query are the
same pixels. The default clips are made of numbers; ``data.path`` takes GolfDB's swing sequences or
folders of clips.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.adaptation import Adaptation
from tasks.data.layouts import DatasetLayout, Holder
from tasks.data.moving import moving_picture
from tasks.data.pictures import beside
from tasks.data.sources import DatasetFolder, Procedural
from tasks.derivatives import chosen
from tasks.errors import InputError
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.fitting import FieldTask, Source
from tasks.image import check_channels
from tasks.settings import DataSettings, EvaluationSettings, TaskSettings
from tasks.signals import Signal, sampled
from tasks.types import Evaluation, Video

FILMS = 2  # clips that are shown
SLOWER = 4  # times each of their frames is shown: clips are short


def source_of(data: DataSettings) -> Source:
    """Moving pictures, or a data set of clips."""
    if not data.path:
        if not data.size or not data.frames:
            key = "data.frames" if data.size else "data.size"
            raise InputError(
                key,
                0,
                "made clips have neither a length nor a size of their own",
                "set it to 8 or more",
            )
        return Procedural(
            data, lambda number: moving_picture(number, data.frames, data.size, data.channels)
        )

    def load(layout: DatasetLayout, holder: Holder, item: int) -> Signal:
        frames = layout.load_video(holder.items[item], data.size, data.channels, data.frames)
        return sampled(f"{holder.name} {item}", frames)

    return DatasetFolder(data, "video", load)


class VideoTask(FieldTask):
    """:class:`tasks.types.Task` for clips, RGB or grey."""

    def __init__(self, settings: TaskSettings) -> None:
        data = settings.data
        shape = settings.field
        check_channels(data)
        field = Siren(3, data.channels, shape.width, shape.depth, shape.omega, shape.biases)
        super().__init__(field, chosen(SirenDerivatives(field), shape.compiled), source_of(data))

    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        """As for any field, and (``tune``) films of held-out clips: the truth, the shared model,
        the adapted field."""
        found = super().evaluate(model, settings, tune)
        if not tune:
            return found
        adaptation = Adaptation(self, model, settings)
        films = {}
        for index, signal in enumerate(self.held_out()[:FILMS]):
            shown = [signal.truth]
            for params in adaptation.adapted(signal, (0, max(settings.step_list))):
                frames = self.predict(params[None], signal.query.inputs[None].to(params))[0].cpu()
                shown.append(frames.view(signal.shape).clamp(0, 1).nan_to_num(0.0))
            film = beside(shown).expand(*shown[0].shape[:2], -1, 3)
            films[f"clip-{index}"] = Video(film.repeat_interleave(SLOWER, 0), torch.zeros(0))
        return found._replace(videos=films)
