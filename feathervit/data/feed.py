"""Makes the augmented batches of a run. Each batch is a function of (seed, step, rank).

On the CPU, a batch is made when it is needed. On a GPU, batches are made in groups of several steps, one group ahead. A thread
draws the augmentation of a group, and one pinned copy moves all draws. A separate stream augments the images while the model
trains on the previous group. Groups are ranges of absolute steps, so that a resumed run makes the same groups.

Legend: G batches of a group, B batch, C channels, R stored side, S image side.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..chance import Chance
from .augment import Augmenter, Drawn
from .loader import Sampler
from .moving import to_device

_VALUES_AHEAD = 1 << 24  # float32 values of a group on a GPU: 64 MiB, and the same for the previous group
_SHARE = 0.5  # share of the free GPU memory for the images; the model and activations need the rest


def fits(images_NCRR: Tensor, device: torch.device) -> bool:
    """Returns whether a set of images fits on `device`.

    On a CUDA device, it may use at most half of the free memory.
    """
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images_NCRR.nbytes <= _SHARE * free


@dataclass(frozen=True)
class _Group:
    """Holds the indices, draws and images of G batches on the CPU.

    `indices` int64 [G B]. `images` uint8 [G B, C, R, R], or None if all images are on the device.
    """

    indices: Tensor
    drawn: Drawn
    images: Tensor | None


class Feed:
    """Makes augmented batches of `images` uint8 [N, C, R, R] and `labels` int64 [N] on `device`.

    `samplers`: one per micro-step. The draws of a micro-step use the rank of its sampler. `ahead`: batches per group. None:
    one on the CPU, elsewhere as many as fit in 64 MiB. `resident`: whether all images are on the device.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        samplers: list[Sampler],
        augmenter: Augmenter,
        seed: int,
        device: torch.device,
        ahead: int | None = None,
    ):
        self.samplers, self.augmenter, self.seed, self.device = samplers, augmenter, seed, device
        self.resident = fits(images, device)
        self.images = images.to(device) if self.resident else images
        self.labels = labels.to(device)
        if ahead is None:
            values = samplers[0].batch_size * images.shape[1] * max(images.shape[-1], augmenter.img_size) ** 2
            ahead = 1 if device.type == "cpu" else max(1, _VALUES_AHEAD // values)
        self.ahead = ahead
        self._number, self._batches = -1, (labels, labels)  # the group in use
        self._begun: dict[int, tuple[Tensor, Tensor]] = {}  # the next groups, on the device
        self._drawing: dict[int, Future[_Group]] = {}
        self._thread = ThreadPoolExecutor(1) if device.type != "cpu" else None
        self._stream = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def batch(self, step: int, micro: int = 0) -> tuple[Tensor, Tensor]:
        """Returns (images float32 [B, C, S, S], targets) of a micro-step, on the device; see `Augmenter`."""
        number, place = divmod(step * len(self.samplers) + micro, self.ahead)
        if number != self._number:
            self._batches, self._number = self._take(number), number
        x, targets = self._batches
        size = len(x) // self.ahead
        rows = slice(place * size, (place + 1) * size)
        return x[rows], targets[rows]

    def _take(self, number: int) -> tuple[Tensor, Tensor]:
        """Returns the group `number`. On a GPU, also starts the next group and the draws of the group after it."""
        if self._thread is None:
            return self._make(self._draw(number))
        self._begin(number)
        batches = self._begun.pop(number)
        self._begun.clear()
        if self._stream is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._stream)
            for tensor in batches:
                tensor.record_stream(current)  # it was allocated in another stream
        self._begin(number + 1)
        self._drawing = {number + 2: self._thread.submit(self._draw, number + 2)}
        return batches

    def _begin(self, number: int) -> None:
        """Starts to make a group on the device."""
        if number in self._begun:
            return
        # Only this thread may use the samplers.
        drawing = self._drawing.get(number) or self._thread.submit(self._draw, number)
        with torch.cuda.stream(self._stream) if self._stream is not None else nullcontext():
            self._begun[number] = self._make(drawing.result())

    def _draw(self, number: int) -> _Group:
        channels, stored = self.images.shape[1:3]
        indices, parts = [], []
        for place in range(self.ahead):
            step, micro = divmod(number * self.ahead + place, len(self.samplers))
            sampler = self.samplers[micro]
            index_B, epoch = sampler.batch(step), step // sampler.steps_per_epoch
            indices.append(index_B)
            chance = Chance(self.seed, step, sampler.rank)
            parts.append(self.augmenter.draw(index_B, stored, channels, chance, epoch))
        index, drawn = torch.cat(indices), Drawn.join(parts)
        if self.device.type != "cpu":
            drawn = drawn.planned(self.augmenter.img_size)
        return _Group(index, drawn, None if self.resident else self.images.index_select(0, index))

    def _make(self, group: _Group) -> tuple[Tensor, Tensor]:
        group = to_device(group, self.device)
        images = self.images.index_select(0, group.indices) if group.images is None else group.images
        return self.augmenter.apply(images, self.labels[group.indices], group.drawn, batches=self.ahead)
