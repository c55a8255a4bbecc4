"""Progressive resizing: training begins with small images, which cost less, and ends with images of the model's size.

Source: fast.ai's entry to DAWNBench (2018); MosaicML Composer's ProgressiveResizing has the same schedule.
"""

from __future__ import annotations

import copy
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import RunConfig
from ..errors import ConfigError

MULTIPLE = 8  # sides in pixels are multiples of it
FULL_SHARE = 0.2  # of the steps, at the end, see images of the model's size


def side(done: float, img_size: int, initial_scale: float) -> int:
    """The side of training images in pixels when the share `done` of all steps is over; it grows linearly, in multiples of 8.

    `initial_scale`: the first side as a share of `img_size`.
    """
    grown = initial_scale + (1 - initial_scale) * done / (1 - FULL_SHARE)
    if grown >= 1:
        return img_size
    return min(img_size, max(MULTIPLE, int(grown * img_size + 1e-6) // MULTIPLE * MULTIPLE))


class Resizing:
    """The sizes of the training images of a run of `steps` steps on images of `channels` channels.

    Raises ConfigError for another objective than classification, and for a model whose weights depend on the image size.
    """

    def __init__(self, config: RunConfig, model: nn.Module, channels: int, steps: int):
        self.img_size, self.scale, self.steps = config.img_size, config.augment.initial_scale, steps
        self.model, self._now = model, config.img_size
        if self.scale < 1:
            self._check(config, channels)

    def side(self, step: int) -> int:
        """The side in pixels at a step."""
        return self.img_size if self.scale == 1 else side(step / self.steps, self.img_size, self.scale)

    def shares(self) -> dict[int, float]:
        """Each side of the run and the share of its steps."""
        count = Counter(map(self.side, range(self.steps)))
        return {side: n / self.steps for side, n in count.items()}

    def fit(self, x_BCSS: Tensor, side: int) -> Tensor:
        """The images at this side; the model takes only such images from then on."""
        if side != self._now:
            _set_size(self.model, side)
            self._now = side
        if x_BCSS.shape[-1] == side:
            return x_BCSS
        return F.interpolate(x_BCSS, size=(side, side), mode="bilinear", antialias=True)

    def restore(self) -> None:
        """Has the model take images of its own size again."""
        if self._now != self.img_size:
            _set_size(self.model, self.img_size)
            self._now = self.img_size

    def _check(self, config: RunConfig, channels: int) -> None:
        if config.objective != "classification":
            raise ConfigError(
                f"augment.initial_scale {self.scale} is for objective classification, not {config.objective}; set it to 1"
            )
        first, small = self.side(0), copy.deepcopy(self.model).eval()
        try:
            _set_size(small, first)
            with torch.no_grad():
                small(torch.zeros(1, channels, first, first, device=next(small.parameters()).device))
        except Exception as error:  # any model may come here, and raise anything
            raise ConfigError(
                f"{config.model} cannot take images of {first} px; set augment.initial_scale to 1"
            ) from error
        shapes = [[tensor.shape for tensor in model.state_dict().values()] for model in (self.model, small)]
        if shapes[0] != shapes[1]:
            raise ConfigError(
                f"augment.initial_scale {self.scale}: {config.model} has positions of one image size; set it to 1"
            )


def _set_size(model: nn.Module, side: int) -> None:
    if hasattr(model, "set_input_size"):  # others take any size
        model.set_input_size(img_size=side)
