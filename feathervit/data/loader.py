"""Samples the order of images as a pure function of (seed, step, rank).

Each epoch is one permutation without replacement. Step t takes the t-th slice of it, and each process takes a part of that
slice, so the processes' batches are disjoint. With `repeats` k a batch holds k views of each of its images, and an epoch
shows every image k times. The images left over at the end of an epoch are dropped; they differ between epochs. Only a dataset
smaller than one global batch gives a smaller batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..chance import Chance
from ..errors import ConfigError, DataError


class Sampler:
    """Samples the indices of each step's batch, for process `rank` of `world`.

    `n`: images in the dataset. `batch_size`: views in a batch of one process, a multiple of `repeats`. A partial batch is
    divided evenly. If its images do not divide by `world`, two processes see some of them. `labels` int64 [n]: an epoch shows
    equally many images of each class (None: every image once). Raises ConfigError for sizes that do not fit together,
    DataError for an empty dataset.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        repeats: int = 1,
        labels: Tensor | None = None,
    ):
        if n < 1:
            raise DataError("the training set holds no images; check the data folder and its classes")
        if repeats < 1 or batch_size < 1 or batch_size % repeats:
            raise ConfigError(
                f"batch size {batch_size} is not a multiple of augment.repeats {repeats}; choose one that is, so "
                "that a batch holds all views of each of its images"
            )
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank, self.world, self.repeats = rank, world, repeats
        self.images = batch_size // repeats  # different images in a batch of one process
        self.steps_per_epoch = max(1, n // (self.images * world))
        self.classes = [] if labels is None else [(labels == k).nonzero()[:, 0] for k in labels.unique()]
        self._order: tuple[int, Tensor] | None = None

    def permutation(self, epoch: int) -> Tensor:
        """Returns the order of an epoch, int64 [n]. It is the same on every process."""
        if self._order is None or self._order[0] != epoch:
            generator = Chance(self.seed, epoch).generator("order")
            self._order = (
                epoch,
                self._balanced(generator) if self.classes else torch.randperm(self.n, generator=generator),
            )
        return self._order[1]

    def _balanced(self, generator: torch.Generator) -> Tensor:
        """Returns n indices with equally many of each class, to within one.

        Images of small classes repeat, and only a part of large classes is used.
        """
        one_more = torch.randperm(len(self.classes), generator=generator) < self.n % len(self.classes)
        parts = []
        for own, more in zip(self.classes, one_more.tolist(), strict=True):
            quota = self.n // len(self.classes) + more
            rounds = [own[torch.randperm(len(own), generator=generator)] for _ in range(-(-quota // len(own)))]
            parts += [torch.cat(rounds)[:quota]] if quota else []
        return torch.cat(parts)[torch.randperm(self.n, generator=generator)]

    def batch(self, step: int) -> Tensor:
        """Returns the indices of this process's batch at `step`, int64 [B] on the CPU. An image's views are side by side."""
        epoch, t = divmod(step, self.steps_per_epoch)
        start = t * self.images * self.world
        left = self.n - start
        share = min(self.images, -(-left // self.world))
        mine = torch.arange(share) + self.rank * share
        # Shares reach past the end of a partial batch only if it does not divide evenly. They continue at its start.
        return self.permutation(epoch)[start + mine % left].repeat_interleave(self.repeats)
