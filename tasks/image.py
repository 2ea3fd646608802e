"""Image fields: each client holds one picture and fits a SIREN to it.

Support and query batches are drawn, uniformly with replacement, from all pixels of the one private picture, as in
the image experiments of FedMeNF (https://arxiv.org/abs/2508.06301). Pictures of one cohort may differ in size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from tasks.adaptation import evaluate_adaptation
from tasks.data import bundled, folder
from tasks.data.pictures import Picture
from tasks.errors import InputError
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.randomness import Key, generator
from tasks.settings import DataSettings, EvaluationSettings, TaskSettings
from tasks.types import Batch, Episode, Evaluation

PIXELS_AT_ONCE = 1 << 16  # rendering is cut into blocks of this many pixels, so memory stays bounded


@lru_cache(maxsize=1024)
def _client_picture(data: DataSettings, client: int) -> Picture:
    if not data.path:
        return bundled.private_picture(client, data.size, data.channels)
    files = folder.image_files(data.path)
    if client >= len(files) - data.held_out:
        raise InputError("data.path", data.path, f"holds no image for client {client}", "lower clients.total")
    return folder.load(files[client], data.size, data.channels)


class ImageTask:
    """:class:`tasks.types.Task` for single pictures, RGB or grey, of any size."""

    def __init__(self, settings: TaskSettings) -> None:
        data, field = settings.data, settings.field
        if data.channels not in (1, 3):
            raise InputError("data.channels", data.channels, "pictures are RGB or grey", "use 3 or 1")
        self.data = data
        self.field = Siren(2, data.channels, field.width, field.depth, field.omega)
        self.layout = self.field.layout
        self.derivatives = SirenDerivatives(self.field)

    def check(self, clients: int) -> None:
        """Read everything once before work starts; raises :class:`InputError` naming the file that is wrong."""
        if self.data.path:
            private, test = folder.split(self.data.path, self.data.held_out, clients)
            for file in (*private, *test):
                folder.load(file, self.data.size, self.data.channels)

    def init(self, seed: int) -> Tensor:
        return self.field.init(generator("init", seed))

    def client_data(self, client: int) -> Picture:
        return _client_picture(self.data, client)

    def held_out(self) -> Sequence[Picture]:
        count, size, channels = self.data.held_out, self.data.size, self.data.channels
        if not self.data.path:
            return bundled.held_out_pictures(count, size, channels)
        return [folder.load(file, size, channels) for file in folder.image_files(self.data.path)[-count:]]

    def episodes(
        self,
        cohort: Sequence[Picture],
        keys: Sequence[Key],
        count: int,
        inner_steps: int,
        batch_size: int,
        device: torch.device,
    ) -> Callable[[int], Episode]:
        coordinates = torch.cat([picture.coordinates for picture in cohort]).to(device)
        values = torch.cat([picture.values for picture in cohort]).to(device)
        offset, draws = 0, []
        for picture, key in zip(cohort, keys, strict=True):
            pixels = len(picture.values)
            shape = (count, inner_steps + 1, batch_size)
            draws.append(torch.randint(pixels, shape, generator=generator(*key)).add_(offset))
            offset += pixels
        pixel = torch.stack(draws, dim=2).to(device)  # [count, K + 1, C, B]

        def episode(step: int) -> Episode:
            batches = [Batch(coordinates[index], values[index]) for index in pixel[step]]
            return Episode(batches[:-1], batches[-1])

        return episode

    def working_set(self, batch_size: int, inner_steps: int) -> int:
        return self.field.working_set(batch_size, inner_steps)

    @torch.no_grad()
    def predict(self, params: Tensor, inputs: Tensor) -> Tensor:
        """``params [C, P], inputs [C, N, 2] -> [C, N, channels]``, in blocks of bounded memory."""
        block = max(1, PIXELS_AT_ONCE // len(params))
        return torch.cat([self.field(params, part) for part in inputs.split(block, dim=1)], dim=1)

    def render(self, params: Tensor, cohort: Sequence[Picture]) -> Sequence[Tensor]:
        return [
            self.predict(row[None], picture.coordinates[None].to(row)).reshape(picture.truth.shape).cpu()
            for row, picture in zip(params, cohort, strict=True)
        ]

    def evaluate(self, model: Tensor, settings: EvaluationSettings, tune: bool) -> Evaluation:
        return evaluate_adaptation(self.derivatives, self.predict, model, self.held_out(), settings, tune)
