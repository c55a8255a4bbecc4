"""Synchronises the processes of a run, started by `torchrun --standalone --nproc-per-node N -m feathervit train ...`.

`batch_size` is the global batch size for any number of processes, so that the learning rate (Eq. 17) does not depend on it. The
batch is divided into processes x `accumulate` equal shares. Share s = process x accumulate + micro-step has separate images and
a separate random state. N processes therefore compute the same as one process with `accumulate` N, up to the order of sums.
Each share computes the balance losses of the experts separately; the run optimises their mean.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT = timedelta(minutes=5)  # a process that waits longer for another process stops
LOADING = timedelta(days=1)  # limit while the first process downloads and decodes


class Group:
    """The group of the `world` processes of a run, seen from process `rank`. A single process is a group of one."""

    def __init__(self, rank: int = 0, world: int = 1):
        self.rank, self.world = rank, world
        # Flags are exchanged through the CPU, so that an exchange never waits for a GPU.
        self._flags = dist.new_group(backend="gloo", timeout=TIMEOUT) if world > 1 else None
        self._loading = dist.new_group(backend="gloo", timeout=LOADING) if world > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Returns True in all processes if `flag` is true in any of them."""
        return self.each(flag)[0]

    def each(self, *flags: bool) -> list[bool]:
        """Returns `any` of each flag, in one exchange."""
        if self.world == 1:
            return list(flags)
        values = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self._flags)
        return list(map(bool, values.tolist()))

    def add(self, sums: Tensor) -> Tensor:
        """Adds `sums` over all processes."""
        if self.world > 1:
            sums = sums.clone()
            dist.all_reduce(sums)
        return sums

    def wait(self) -> None:
        """Waits for all processes, with a timeout that allows the first process to load data."""
        if self.world > 1:
            dist.barrier(group=self._loading)

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Wraps the objective so that gradients are averaged over processes.

        Counters stay separate per process. The running statistics of batch norm are those of the first process at the start
        of each step. Its results are the results of the run.
        """
        if self.world == 1:
            return objective
        running = any(getattr(module, "track_running_stats", False) for module in objective.modules())
        return nn.parallel.DistributedDataParallel(objective, broadcast_buffers=running)


@contextmanager
def join(device: str) -> Iterator[Group]:
    """Joins the process group of torchrun, and leaves it at the end of the block."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Group()
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    on_cuda = device in ("auto", "cuda") and torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on_cuda else "gloo", timeout=TIMEOUT)
    try:
        yield Group(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
