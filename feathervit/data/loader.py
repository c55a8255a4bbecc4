"""Samples the order of images as a pure function of (seed, step, rank).

Each epoch is one permutation without replacement. Step t uses the t-th slice of it, and each process a part of that slice, so
that the batches of the processes are disjoint. With `repeats` k, a batch contains k views of each of its images, and an epoch
shows every image k times. Images left over at the end of an epoch are dropped; they differ between epochs. A batch is smaller
only if the dataset is smaller than one global batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..chance import Chance
from ..errors import ConfigError, DataError


class Sampler:
    """Samples the indices of each step's batch, for process `rank` of `world`.

    `n`: images in the dataset. `batch_size`: views in a batch of one process, a multiple of `repeats`. A partial batch is
    divided evenly; if its size is not a multiple of `world`, some images are seen by two processes. `labels` int64 [n]: an
    epoch shows equally many images per class (None: every image once). Raises ConfigError for incompatible sizes, and
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
                f"batch size {batch_size} is not a multiple of augment.repeats {repeats}; choose a multiple, so "
                "that a batch holds all views of its images"
            )
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank, self.world, self.repeats = rank, world, repeats
        self.images = batch_size // repeats  # distinct images in a batch of one process
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
        """Returns n indices, with equal numbers per class up to a difference of one.

        Repeats images of small classes, and uses only a part of large classes.
        """
        one_more = torch.randperm(len(self.classes), generator=generator) < self.n % len(self.classes)
        parts = []
        for members, more in zip(self.classes, one_more.tolist(), strict=True):
            quota = self.n // len(self.classes) + more
            rounds = [
                members[torch.randperm(len(members), generator=generator)] for _ in range(-(-quota // len(members)))
            ]
            parts += [torch.cat(rounds)[:quota]] if quota else []
        return torch.cat(parts)[torch.randperm(self.n, generator=generator)]

    def batch(self, step: int) -> Tensor:
        """Returns the batch of this process at `step`: indices, int64 [B] on the CPU. Views of an image are adjacent."""
        epoch, t = divmod(step, self.steps_per_epoch)
        start = t * self.images * self.world
        left = self.n - start
        share = min(self.images, -(-left // self.world))
        mine = torch.arange(share) + self.rank * share
        # A share exceeds a partial batch only if the batch does not divide evenly. It then wraps around to the start.
        return self.permutation(epoch)[start + mine % left].repeat_interleave(self.repeats)
