"""Defines the teacher of a distillation: a frozen model that receives the same augmented images as the student.

Legend: B batch, C channels, S image side, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import load_weights
from ..config import RunConfig
from ..errors import CheckpointError, ConfigError, UnknownNameError
from ..models.loading import load_model


class Teacher(nn.Module):
    """Applies the teacher `model` to images normalised for the student. Converts their size and normalisation."""

    def __init__(self, model: nn.Module, config: RunConfig, img_size: int, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.model, self.img_size = model.eval().requires_grad_(False), img_size
        images, teacher_stats = config.images, [torch.tensor(values).view(-1, 1, 1) for values in (mean, std)]
        student_mean, student_std = (torch.tensor(values).view(-1, 1, 1) for values in (images.mean, images.std))
        # computes ((x s + m) - M) / S as one product and one sum
        self.register_buffer("scale", student_std / teacher_stats[1], persistent=False)
        self.register_buffer("shift", (student_mean - teacher_stats[0]) / teacher_stats[1], persistent=False)

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)  # always in evaluation mode: no dropout, constant statistics

    @torch.no_grad()
    def forward(self, x_BCSS: Tensor) -> Tensor:
        """Returns logits [B, K] in float32."""
        x_BCSS = x_BCSS * self.scale + self.shift
        if x_BCSS.shape[-1] != self.img_size:
            x_BCSS = F.interpolate(x_BCSS, (self.img_size, self.img_size), mode="bilinear", antialias=True)
        return self.model(x_BCSS).float()


def load_teacher(config: RunConfig, class_names: tuple[str, ...], in_chans: int) -> Teacher:
    """Loads the teacher `config.teacher`: a run folder, a weights file, or timm:NAME with its weights.

    Raises CheckpointError or ConfigError if its classes or channels differ from those of the data.
    """
    name = config.teacher
    if not name:
        raise ConfigError("objective distillation needs a teacher: give --teacher CHECKPOINT or timm:NAME")
    if name.startswith("timm:"):
        name = name.removeprefix("timm:")
        if not timm.is_model(name):
            raise UnknownNameError("timm model", name, timm.list_models(pretrained=True))
        try:
            model = timm.create_model(name, pretrained=True, in_chans=in_chans)
        except (RuntimeError, OSError, ValueError) as error:
            raise ConfigError(f"the weights of timm:{name} cannot be loaded: {error}") from error
        if model.num_classes != len(class_names):
            raise ConfigError(
                f"timm:{name} has {model.num_classes} classes, the data has {len(class_names)}; train it on the data first "
                f"(feathervit train --model timm:{name}) and give that run as the teacher"
            )
        known = timm.data.resolve_model_data_config(model)
        return Teacher(model, config, known["input_size"][-1], known["mean"], known["std"])
    stored = load_weights(name)
    if stored.class_names != class_names or stored.in_chans != in_chans:
        raise CheckpointError(
            f"the teacher {name} has {len(stored.class_names)} classes and {stored.in_chans} channels, the data has "
            f"{len(class_names)} and {in_chans}, or the classes differ; a teacher must be trained on the same classes"
        )
    images = stored.config.images
    return Teacher(load_model(stored, name), config, stored.config.img_size, images.mean, images.std)
