"""What happens to a training batch between storage and the model, drawn for each picture by itself.

The order is the papers': crop, resize and flip (one sampling), policy, cutout (all on uint8), normalise, random erasing,
mixup and CutMix. Every draw is made on the CPU, so that it is the same whatever device the pixels are on and no
kernel waits for the host. On the CPU a batch is worked through in parts, one thread to each; on a GPU as a whole.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..chance import Chance
from ..config import Augmentation
from ..errors import ConfigError
from . import geometry
from .mixing import apply_mix, draw_mix, soft_targets
from .operations import apply_draws
from .policies import Draws, draw_policy

_PART = 3 << 19  # values in a part of a batch on the CPU
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
        self._scale = 1 / (255 * torch.tensor(std).view(-1, 1, 1))
        self._shift = (torch.tensor(mean) / torch.tensor(std)).view(-1, 1, 1)

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

        x = torch.empty(b, c, self.img_size, self.img_size, device=device)
        with _one_thread() as threads:
            drawn = self._draw(b, stored, indices_B, chance.seed, epoch, generator)
            parts = _parts(max(x.numel(), images_BCRR.numel()), b, threads) if device.type == "cpu" else [slice(None)]

            def fill(rows: slice) -> None:
                self._fill(x[rows], images_BCRR[rows], drawn.part(rows, device))

            if min(threads, len(parts)) == 1:
                for rows in parts:
                    fill(rows)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(fill, parts))

        if not (a.mixup or a.cutmix):
            if not self.label_smoothing:
                return x, labels_B
            return x, soft_targets(labels_B, None, self.num_classes, self.label_smoothing)
        mix = draw_mix(b, self.img_size, a.mixup, a.cutmix, a.mix_prob, a.switch_prob, generator).to(device)
        targets = soft_targets(labels_B, mix.share.to(labels_B.device), self.num_classes, self.label_smoothing)
        return apply_mix(x, mix), targets

    def _draw(
        self, batch: int, stored: int, indices_B: Tensor, seed: int, epoch: int, generator: torch.Generator
    ) -> _Drawn:
        a, size, out = self.augment, self.img_size, _Drawn()
        if a.crop == "resized":
            out.crop = geometry.draw_crops(batch, stored, a.crop_scale, a.crop_ratio, generator)
        elif stored != size:
            out.crop = torch.tensor([[0, 0, stored, stored]]).expand(batch, 4)
        if a.crop == "pad":
            out.offset = torch.randint(-a.crop_padding, a.crop_padding + 1, (batch, 2), generator=generator)
        if a.flip == "random":
            out.flip = torch.rand(batch, generator=generator) < 0.5
        elif a.flip == "alternating":
            out.flip = first_flip(indices_B, seed) ^ bool(epoch % 2)
        if a.policy != "none":
            out.policy = draw_policy(a.policy, batch, size, generator, a.rand_ops, a.rand_magnitude)
        if a.cutout:
            out.hole = geometry.draw_squares(batch, size, a.cutout, generator)
        if a.erasing:
            out.erasure = geometry.draw_erasures(batch, size, a.erasing, a.erasing_scale, generator)
        return out

    def _fill(self, x_BCSS: Tensor, images_BCRR: Tensor, drawn: _Drawn) -> None:
        """Writes into `x` what `drawn` makes of the images."""
        y, flip = images_BCRR, drawn.flip
        if drawn.crop is not None:
            y, flip = geometry.resample(y, drawn.crop, flip, self.img_size), None
        if flip is not None or drawn.offset is not None:
            y = geometry.shift(y, drawn.offset, flip)
        if drawn.policy is not None:
            y = apply_draws(y, drawn.policy)
        if drawn.hole is not None:
            hole = geometry.inside(drawn.hole, self.img_size, torch.uint8)
            y = y * (1 - hole) + _GREY * hole
        x_BCSS.copy_(y).mul_(self._scale.to(y.device, non_blocking=True)).sub_(
            self._shift.to(y.device, non_blocking=True)
        )
        if drawn.erasure is not None:
            x_BCSS.mul_(1 - geometry.inside(drawn.erasure, self.img_size, torch.float32))


@dataclass
class _Drawn:
    """What each picture of a batch drew, on the CPU; None: nothing of the kind happens."""

    crop: Tensor | None = None
    offset: Tensor | None = None
    flip: Tensor | None = None
    policy: Draws | None = None
    hole: Tensor | None = None
    erasure: Tensor | None = None

    def part(self, rows: slice, device: torch.device) -> _Drawn:
        """The draws of some rows; all but the policy's, whose order the host must know, on `device`."""
        mine = {name: value[rows] for name, value in vars(self).items() if value is not None}
        return _Drawn(**{k: v if k == "policy" else v.to(device, non_blocking=True) for k, v in mine.items()})


@contextlib.contextmanager
def _one_thread() -> Iterator[int]:
    """Torch works with one thread inside; gives the number that it had.

    The operations here are many and short: whole parts of a batch on a thread each are faster than every operation on
    all threads, and (a part being whole pictures) the bits are the same for any number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that are started inside take this over
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _parts(values: int, batch: int, threads: int) -> list[slice]:
    """Stretches of a batch of about _PART values each; where there are several, a multiple of the threads."""
    count = -(-values // _PART)
    count = min(batch, -(-count // threads) * threads if count > 1 else 1)
    return [slice(batch * i // count, batch * (i + 1) // count) for i in range(count)]


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
    if not 0 < a.crop_ratio[0] <= a.crop_ratio[1] < math.inf:
        raise ConfigError(f"augment.crop_ratio must be two aspect ratios with 0 < low <= high, got {a.crop_ratio}")
    for name in ("erasing", "mix_prob", "switch_prob"):
        if not 0 <= getattr(a, name) <= 1:
            raise ConfigError(f"augment.{name} is a probability, so 0 to 1; got {getattr(a, name)}")
    for name in ("mixup", "cutmix", "cutout", "crop_padding", "rand_ops"):
        if not 0 <= getattr(a, name) < math.inf:
            raise ConfigError(f"augment.{name} must not be negative nor infinite, got {getattr(a, name)}")
    if not 0 <= a.rand_magnitude <= 30:
        raise ConfigError(f"augment.rand_magnitude must be a whole number 0 to 30, got {a.rand_magnitude}")
    if a.crop_padding >= img_size and a.crop == "pad":
        raise ConfigError(f"augment.crop_padding {a.crop_padding} must be less than the image size {img_size}")
