"""What happens to a training batch between storage and the model, drawn for each picture by itself.

The order is the papers': crop, resize and flip (one sampling), policy, cutout (all on uint8), normalise, random erasing,
mixup and CutMix. Every draw is made on the CPU, so that it is the same whatever device the pixels are on and no
kernel waits for the host. On the CPU a batch is worked through in parts that fit its cache; on a GPU as a whole.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..chance import Chance
from ..config import Augmentation
from ..errors import ConfigError
from . import geometry
from .mixing import apply_mix, draw_mix, soft_targets
from .operations import apply_draws
from .policies import draw_policy

_PART = 1 << 21  # values of a part on the CPU
_GREY = 128  # of a cutout square


class Augmenter:
    """Augments batches as an `Augmentation` says; see its fields.

    `img_size` is the side of the model's input in pixels; `mean` and `std` are for pixels in 0-1, one value or one for each
    channel. Raises ConfigError for settings that cannot work.
    """

    def __init__(
        self,
        augment: Augmentation,
        img_size: int,
        num_classes: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        label_smoothing: float = 0.0,
    ):
        _check(augment, img_size)
        self.augment, self.img_size, self.num_classes = augment, img_size, num_classes
        self.label_smoothing = label_smoothing
        # (x / 255 - mean) / std as one product and one difference
        self._scale = torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1)
        self._shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)

    def __call__(
        self, images_BCRR: Tensor, labels_B: Tensor, indices_B: Tensor, chance: Chance, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """The batch as the model sees it: (float32 [B, C, S, S] normalised, targets).

        `images` uint8; `indices` are the pictures' numbers in the data set, on the CPU (the alternating flip is drawn
        from them). Targets are the int64 labels [B], or float32 [B, classes] with mixing or label smoothing.
        """
        a, device = self.augment, images_BCRR.device
        b, c, stored, _ = images_BCRR.shape
        if a.policy != "none" and c not in (1, 3):
            raise ConfigError(
                f"augment.policy {a.policy!r} works on 1 or 3 channels, the pictures have {c}; set it to none"
            )
        generator = chance.generator("augment")

        boxes, offset = self._draw_place(b, stored, generator)
        flip = self._draw_flip(indices_B, chance.seed, epoch, generator)
        draws = None
        if a.policy != "none":
            draws = draw_policy(a.policy, b, self.img_size, generator, a.rand_ops, a.rand_magnitude)
        squares = geometry.draw_squares(b, self.img_size, a.cutout, generator) if a.cutout else None
        erasures = None
        if a.erasing:
            erasures = geometry.draw_erasures(b, self.img_size, a.erasing, a.erasing_scale, generator)

        part = b if device.type != "cpu" else max(1, _PART // (c * max(stored, self.img_size) ** 2))
        x = torch.empty(b, c, self.img_size, self.img_size, device=device)
        for start in range(0, b, part):
            rows = slice(start, start + part)
            place, move, mirror, square, erasure = (
                None if t is None else t[rows].to(device, non_blocking=True)
                for t in (boxes, offset, flip, squares, erasures)
            )
            y = images_BCRR[rows]
            if place is not None:
                y = geometry.resample(y, place, mirror, self.img_size)
                mirror = None
            if mirror is not None or move is not None:
                y = geometry.shift(y, move, mirror)
            if draws is not None:
                y = apply_draws(y, draws[rows])
            if square is not None:
                hole = geometry.inside(square, self.img_size, torch.uint8)
                y = y * (1 - hole) + _GREY * hole
            x[rows] = y
            x[rows].mul_(self._scale.to(device)).sub_(self._shift.to(device))
            if erasure is not None:
                x[rows].mul_(1 - geometry.inside(erasure, self.img_size, torch.float32))

        if not (a.mixup or a.cutmix):
            if not self.label_smoothing:
                return x, labels_B
            return x, soft_targets(labels_B, None, self.num_classes, self.label_smoothing)
        mix = draw_mix(b, self.img_size, a.mixup, a.cutmix, a.mix_prob, a.switch_prob, generator).to(device)
        targets = soft_targets(labels_B, mix.share.to(labels_B.device), self.num_classes, self.label_smoothing)
        return apply_mix(x, mix), targets

    def _draw_place(self, batch: int, stored: int, generator: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
        """(box to resize or None, offset of the window or None) of each picture."""
        a, boxes, offset = self.augment, None, None
        if a.crop == "resized":
            boxes = geometry.draw_crops(batch, stored, a.crop_scale, a.crop_ratio, generator)
        elif stored != self.img_size:
            boxes = torch.tensor([[0, 0, stored, stored]]).expand(batch, 4)
        if a.crop == "pad":
            p = a.crop_padding
            offset = torch.randint(-p, p + 1, (batch, 2), generator=generator)
        return boxes, offset

    def _draw_flip(self, indices_B: Tensor, seed: int, epoch: int, generator: torch.Generator) -> Tensor | None:
        """bool [B]: which pictures are mirrored."""
        if self.augment.flip == "none":
            return None
        if self.augment.flip == "random":
            return torch.rand(len(indices_B), generator=generator) < 0.5
        return first_flip(indices_B, seed) ^ bool(epoch % 2)


def first_flip(indices_B: Tensor, seed: int) -> Tensor:
    """Alternating flip in the first epoch, bool [B]: a fair coin for each (seed, picture), whatever batch it comes in.

    The coin is a bit of splitmix64 (Steele et al. 2014) of the picture's number.
    """
    z = indices_B.cpu().numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(Chance(seed).number("flip"))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy((z >> np.uint64(40)) % np.uint64(2) == 1)


def _check(a: Augmentation, img_size: int) -> None:
    for name, (low, high) in (("crop_scale", a.crop_scale), ("erasing_scale", a.erasing_scale)):
        if not 0 < low <= high <= 1:
            raise ConfigError(
                f"augment.{name} must be two shares of the area with 0 < low <= high <= 1, got {low} {high}"
            )
    if not 0 < a.crop_ratio[0] <= a.crop_ratio[1]:
        raise ConfigError(f"augment.crop_ratio must be two aspect ratios with 0 < low <= high, got {a.crop_ratio}")
    for name in ("erasing", "mix_prob", "switch_prob"):
        if not 0 <= getattr(a, name) <= 1:
            raise ConfigError(f"augment.{name} is a probability, so 0 to 1; got {getattr(a, name)}")
    for name in ("mixup", "cutmix", "cutout", "crop_padding", "rand_ops"):
        if getattr(a, name) < 0:
            raise ConfigError(f"augment.{name} must not be negative, got {getattr(a, name)}")
    if not 0 <= a.rand_magnitude <= 30:
        raise ConfigError(f"augment.rand_magnitude must be a whole number 0 to 30, got {a.rand_magnitude}")
    if a.crop_padding >= img_size and a.crop == "pad":
        raise ConfigError(f"augment.crop_padding {a.crop_padding} must be less than the image size {img_size}")
