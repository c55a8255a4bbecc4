"""Collects intermediate tensors of a forward pass, by name."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor


class Taken(dict[str, Tensor]):
    """Dict of intermediate tensors of a forward pass, by name. It stores only the given `kinds`."""

    def __init__(self, kinds: Collection[str]):
        super().__init__()
        self.kinds = frozenset(kinds)

    def __setitem__(self, name: str, value: Tensor) -> None:
        if name.rpartition(".")[2] in self.kinds:
            super().__setitem__(name, value)
