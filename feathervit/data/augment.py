"""Augments training batches, with separate random draws for each image.

The operations follow the order of the papers: crop, resize and flip (one sampling), policy, cutout (all on uint8), normalise,
random erasing, mixup and CutMix. `Augmenter.draw` makes all draws on the CPU, so that they do not depend on the device of the
images. `Augmenter.apply` applies the draws of one or several batches; on a GPU it needs no other data from the host. On the CPU
a batch is processed in parts, with one thread per part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from ..chance import Chance
from ..config import Augmentation
from ..config.bounds import check_bounds
from ..device import use_threads
from ..errors import ConfigError
from . import geometry
from .mixing import Mix, apply_mix, draw_mix, soft_targets
from .moving import to_device
from .operations import Plan, apply_policy, plan_policy
from .policies import Draws, draw_policy

_PART = 3 << 19  # values per part of a batch on the CPU
_GREY = 128  # grey level of cutout and of `fill` grey


@dataclass(frozen=True)
class Drawn:
    """Holds the draws of each image of one or several batches, on the CPU until `to_device`.

    None means that an operation is not applied. `noise` float32 [values] fills the erased boxes, one after another. `policy`
    is a `Plan` after `planned`.
    """

    crop: Tensor | None = None
    offset: Tensor | None = None
    flip: Tensor | None = None
    policy: Draws | Plan | None = None
    hole: Tensor | None = None
    erasure: Tensor | None = None
    noise: Tensor | None = None
    mix: Mix | None = None

    @staticmethod
    def join(parts: Sequence[Drawn]) -> Drawn:
        """Concatenates the draws of several batches."""
        if len(parts) == 1:
            return parts[0]
        joined = {f.name: [getattr(part, f.name) for part in parts] for f in fields(Drawn)}
        for name, values in joined.items():
            first = values[0]
            if isinstance(first, Tensor):
                joined[name] = torch.cat(values)
            elif first is None:
                joined[name] = None
            else:  # a dataclass; its fields that are not tensors are the same in all parts
                tensors = {f.name: [getattr(v, f.name) for v in values] for f in fields(first)}
                joined[name] = replace(
                    first, **{k: torch.cat(v) for k, v in tensors.items() if isinstance(v[0], Tensor)}
                )
        return Drawn(**joined)

    def part(self, rows: slice, channels: int) -> Drawn:
        """Returns the draws of some images, without mixing, which needs complete batches."""
        cut = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("noise", "mix")}
        cut = {name: value[rows] for name, value in cut.items() if value is not None}
        if self.noise is not None:
            ends = (self.erasure[:, 2] * self.erasure[:, 3] * channels).cumsum(0).tolist()
            cut["noise"] = self.noise[ends[rows.start - 1] if rows.start else 0 : ends[rows.stop - 1]]
        return Drawn(**cut)

    def planned(self, size: int) -> Drawn:
        """Returns the same draws, with the policy planned for images `size` pixels wide."""
        return replace(self, policy=plan_policy(self.policy, size)) if isinstance(self.policy, Draws) else self


class Augmenter:
    """Augments batches according to an `Augmentation`.

    `img_size` is the side of the model's input in pixels. `mean` and `std` are for pixels in 0-1, one value or one per
    channel. Raises ConfigError for invalid settings.
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
        scale = 1 / (255 * torch.tensor(std).view(-1, 1, 1))
        shift = (torch.tensor(mean) / torch.tensor(std)).view(-1, 1, 1)
        fill = {"black": None, "grey": torch.tensor([float(_GREY)]), "mean": (255 * torch.tensor(mean)).round()}
        self._constants = {torch.device("cpu"): (scale, shift, fill[augment.fill])}

    def __call__(
        self, images_BCRR: Tensor, labels_B: Tensor, indices_B: Tensor, chance: Chance, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Returns the input of the model: (float32 [B, C, S, S] normalised, targets).

        `images` are uint8. `indices` are the positions of the images in the dataset, on the CPU; the alternating flip
        depends on them. Targets are the int64 labels [B], or float32 [B, classes] with mixing or label smoothing.
        """
        c, stored = images_BCRR.shape[1:3]
        return self.apply(images_BCRR, labels_B, self.draw(indices_B, stored, c, chance, epoch))

    def draw(self, indices_B: Tensor, stored: int, channels: int, chance: Chance, epoch: int) -> Drawn:
        """Draws the augmentation of a batch of images `stored` pixels wide, on the CPU."""
        a, size, batch = self.augment, self.img_size, len(indices_B)
        if a.policy != "none" and channels not in (1, 3):
            raise ConfigError(
                f"augment.policy {a.policy!r} works on 1 or 3 channels, but the images have {channels}; set it to none"
            )
        generator = chance.generator("augment")
        crop = offset = flip = policy = hole = erasure = noise = mix = None
        if a.crop == "resized":
            crop = geometry.draw_crops(batch, stored, a.crop_scale, a.crop_ratio, generator)
        elif stored != size:
            crop = torch.tensor([[0, 0, stored, stored]]).expand(batch, 4)
        if a.crop == "pad":
            offset = torch.randint(-a.crop_padding, a.crop_padding + 1, (batch, 2), generator=generator)
        if a.flip == "random":
            flip = torch.rand(batch, generator=generator) < 0.5
        elif a.flip == "alternating":
            flip = first_flip(indices_B, chance.seed) ^ bool(epoch % 2)
        if a.policy != "none":
            policy = draw_policy(a.policy, batch, size, generator, a.rand_ops, a.rand_magnitude, a.rand_std)
        if a.cutout:
            centre = torch.randint(size, (batch, 2), generator=generator)
            hole = geometry.clip_boxes(centre, torch.full((batch, 2), a.cutout), size)
        if a.erasing:
            erasure = geometry.draw_erasures(batch, size, a.erasing, a.erasing_scale, generator)
            if a.erasing_fill == "noise":
                values = int((erasure[:, 2] * erasure[:, 3]).sum()) * channels
                noise = torch.randn(values, generator=generator)
        if a.mixup or a.cutmix:
            mix = draw_mix(batch, size, a.mixup, a.cutmix, a.mix_prob, a.switch_prob, generator)
        return Drawn(crop, offset, flip, policy, hole, erasure, noise, mix)

    def apply(self, images_NCRR: Tensor, labels_N: Tensor, drawn: Drawn, batches: int = 1) -> tuple[Tensor, Tensor]:
        """Applies `drawn` to the images of one or several batches of equal size. Returns (images, targets) as `__call__`.

        `drawn` may be on the CPU, or planned and on the images' device.
        """
        n, c = images_NCRR.shape[:2]
        x = torch.empty(n, c, self.img_size, self.img_size, device=images_NCRR.device)
        if x.device.type == "cpu":
            self._fill_in_parts(x, images_NCRR, drawn)
        else:
            drawn = to_device(drawn.planned(self.img_size), x.device)
            self._fill(x, images_NCRR, drawn)
        if drawn.mix is None and not self.label_smoothing:
            return x, labels_N
        share = None if drawn.mix is None else drawn.mix.share
        targets = soft_targets(labels_N, share, self.num_classes, self.label_smoothing, batches)
        return x if drawn.mix is None else apply_mix(x, drawn.mix, batches), targets

    def _fill_in_parts(self, x: Tensor, images: Tensor, drawn: Drawn) -> None:
        """Applies `drawn` in parts, with one thread per part: the operations are too short for all threads at once.

        A part holds complete images, so the result is bit-identical for any number of threads.
        """
        threads = torch.get_num_threads()
        parts = _parts(max(x.numel(), images.numel()), len(x), threads)

        def fill(rows: slice) -> None:
            self._fill(x[rows], images[rows], drawn.part(rows, x.shape[1]).planned(self.img_size))

        with use_threads(1):
            if min(threads, len(parts)) == 1:
                for rows in parts:
                    fill(rows)
            else:
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(fill, parts))

    def _fill(self, x_BCSS: Tensor, images_BCRR: Tensor, drawn: Drawn) -> None:
        """Applies `drawn` to the images and writes the result into `x`. All tensors are on one device."""
        a, device = self.augment, x_BCSS.device
        if device not in self._constants:
            self._constants[device] = to_device(self._constants[torch.device("cpu")], device)
        scale, shift, fill = self._constants[device]
        y, size = images_BCRR, self.img_size
        if drawn.crop is not None:
            cubic = a.crop == "resized" and a.crop_filter == "bicubic"
            y = geometry.resample(y, drawn.crop, drawn.flip, size, offset_B2=drawn.offset, cubic=cubic)
        elif drawn.flip is not None or drawn.offset is not None:
            y = geometry.shift(y, 0 if drawn.offset is None else a.crop_padding, drawn.offset, drawn.flip)
        if drawn.policy is not None:
            y = apply_policy(y, drawn.policy, fill)
        if drawn.hole is not None:
            y = torch.where(geometry.inside(drawn.hole, size), _GREY, y)
        x_BCSS.copy_(y).mul_(scale).sub_(shift)
        if drawn.erasure is not None:
            hole = geometry.inside(drawn.erasure, size)
            if drawn.noise is None:
                x_BCSS.mul_((~hole).float())
            else:
                x_BCSS.masked_scatter_(hole.expand_as(x_BCSS), drawn.noise)


def _parts(values: int, batch: int, threads: int) -> list[slice]:
    """Splits a batch into slices of about _PART values. The number of slices is one, or a multiple of the threads."""
    count = -(-values // _PART)
    count = min(batch, -(-count // threads) * threads if count > 1 else 1)
    return [slice(batch * i // count, batch * (i + 1) // count) for i in range(count)]


def first_flip(indices_B: Tensor, seed: int) -> Tensor:
    """Returns the alternating flip of the first epoch, bool [B]: a fair coin per (seed, image), independent of the batch.

    The coin is a bit of splitmix64 (Steele et al. 2014) of the index of the image.
    """
    z = indices_B.cpu().numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(Chance(seed).number("flip"))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy((z >> np.uint64(40)) % np.uint64(2) == 1)


def _check(a: Augmentation, img_size: int) -> None:
    check_bounds(a, "augment.")
    for name, (low, high) in (("crop_scale", a.crop_scale), ("erasing_scale", a.erasing_scale)):
        if not 0 < low <= high <= 1:
            raise ConfigError(
                f"augment.{name} must be two shares of the area with 0 < low <= high <= 1, got {low} {high}"
            )
    if not 0 < a.crop_ratio[0] <= a.crop_ratio[1] < math.inf:
        raise ConfigError(f"augment.crop_ratio must be two aspect ratios with 0 < low <= high, got {a.crop_ratio}")
    if a.crop_padding >= img_size and a.crop == "pad":
        raise ConfigError(f"augment.crop_padding {a.crop_padding} must be less than the image size {img_size}")
