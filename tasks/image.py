"""Image fields: a client holds one picture, or several, and fits a SIREN to it.

As in the image experiments of FedMeNF (https://arxiv.org/abs/2508.06301), support and query are the
same pixels. Pictures of different clients may differ in size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.data import bundled
from tasks.data.layouts import DatasetLayout, Holder
from tasks.data.sources import DatasetFolder, PictureFolder, Procedural, is_picture_folder
from tasks.derivatives import chosen
from tasks.errors import InputError
from tasks.fields.siren import Siren, SirenDerivatives
from tasks.fitting import FieldTask, Source
from tasks.settings import DataSettings, TaskSettings
from tasks.signals import Signal, sampled


def check_channels(data: DataSettings) -> None:
    """Refuse anything but RGB and grey."""
    if data.channels not in (1, 3):
        raise InputError("data.channels", data.channels, "pictures are RGB or grey", "use 3 or 1")


def source_of(data: DataSettings) -> Source:
    """Bundled photographs, a folder of pictures, or a data set of pictures."""
    if not data.path:
        return Procedural(
            data,
            lambda number: bundled.private_picture(number, data.size, data.channels),
            lambda index: bundled.held_out_picture(index, data.size, data.channels),
        )
    if is_picture_folder(data):
        return PictureFolder(data)

    def load(layout: DatasetLayout, holder: Holder, item: int) -> Signal:
        values = layout.load_pictures(holder.items[item], data.size, data.channels)
        return sampled(f"{holder.name} {item}", values)

    return DatasetFolder(data, "pictures", load)


class ImageTask(FieldTask):
    """:class:`tasks.types.Task` for pictures, RGB or grey, of any size."""

    bounds_gradients = True

    def __init__(self, settings: TaskSettings) -> None:
        data = settings.data
        shape = settings.field
        check_channels(data)
        field = Siren(2, data.channels, shape.width, shape.depth, shape.omega, shape.biases)
        super().__init__(field, chosen(SirenDerivatives(field), shape.compiled), source_of(data))
        self.siren = field
        self.size = data.size

    @property
    def outputs_of_a_picture(self) -> int:
        return self.size**2 * self.siren.outputs

    def outputs(self, model: Tensor) -> tuple[Tensor, Tensor]:
        # from whole numbers by one division: the same bits on every computer
        steps = 2 * torch.arange(self.size, dtype=torch.float64) - (self.size - 1)
        line = steps / max(self.size - 1, 1)
        rows, columns = torch.meshgrid(line, line, indexing="ij")
        return self.siren.linearised(model, torch.stack([rows.flatten(), columns.flatten()], 1))

    def outputs_error(self, model: Tensor) -> float:
        return self.siren.jacobian_error(model)
