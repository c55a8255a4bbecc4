"""Moves many small tensors to a device in one copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")
_ALIGNED = 16  # bytes: alignment of each tensor in the buffer


def to_device(tree: Tree, device: torch.device) -> Tree:
    """Moves the tensors in `tree` (tuples, dictionaries and dataclasses) to `device`. Other values stay unchanged.

    Tensors on the CPU move in one copy. A copy to a CUDA device uses pinned memory, so that the host does not wait.
    """
    tensors = [t for t in _tensors(tree) if t.device.type == "cpu"]
    if device.type == "cpu" or not tensors:
        return tree
    moved = unpack(pack(tensors, pin=device.type == "cuda").to(device, non_blocking=True), tensors)
    return _rebuilt(tree, dict(zip(map(id, tensors), moved, strict=True)))


def pack(tensors: list[Tensor], pin: bool = False) -> Tensor:
    """Packs tensors into one byte buffer."""
    buffer = torch.empty(sum(map(_room, tensors)), dtype=torch.uint8, pin_memory=pin)
    for place, tensor in zip(unpack(buffer, tensors), tensors, strict=True):
        place.copy_(tensor)
    return buffer


def unpack(buffer: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Returns views of a buffer from `pack`, with the shapes and types of the tensors `like`."""
    views, start = [], 0
    for tensor in like:
        size = tensor.numel() * tensor.element_size()
        views.append(buffer[start : start + size].view(tensor.dtype).view(tensor.shape))
        start += _room(tensor)
    return views


def _room(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED


def _children(tree: object) -> dict:
    """Returns the children of a container by name or position."""
    if isinstance(tree, dict):
        return tree
    if isinstance(tree, tuple):
        return dict(enumerate(tree))
    if dataclasses.is_dataclass(tree):
        return {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
    return {}


def _tensors(tree: object) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    for child in _children(tree).values():
        yield from _tensors(child)


def _rebuilt(tree: object, moved: dict[int, Tensor]) -> object:
    if isinstance(tree, Tensor):
        return moved.get(id(tree), tree)
    children = {key: _rebuilt(child, moved) for key, child in _children(tree).items()}
    if isinstance(tree, dict):
        return children
    if isinstance(tree, tuple):
        return tuple(children.values())
    return dataclasses.replace(tree, **children) if children else tree
