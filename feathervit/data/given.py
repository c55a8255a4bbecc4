"""Reads images and labels passed from Python. Raises ConfigError for invalid input, never a raw exception.

Images are an array or a tensor, or any series or iterable of paths, bytes, open files, PIL images and arrays. Their sizes may
differ. Labels are any sequence of integers or of texts. Only `channel_axis` determines the axis of the channels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import ConfigError
from ..files import expanded
from .image import Source

Array = np.ndarray | torch.Tensor
COLOURS = (1, 3)  # channels of grey and colour images


def as_images(given: Any, what: str = "images") -> Array | list[Source | Array]:
    """Returns an array or tensor unchanged, and other input as a list of paths, bytes, PIL images and arrays.

    `what` names the images in errors. Raises ConfigError.
    """
    given = _plain(given, what)
    if isinstance(given, (np.ndarray, torch.Tensor)) and given.ndim:
        return given
    if isinstance(given, (str, os.PathLike, bytes, bytearray, Image.Image)) or hasattr(given, "read"):
        return [_element(given, what)]
    return [_element(item, f"{what}[{i}]") for i, item in enumerate(_listed(given, what))]


def stacked(images: Array | list[Source | Array]) -> Array | list[Source | Array]:
    """Stacks a list of arrays of one shape and type into one array. Returns other input unchanged."""
    alike = isinstance(images, list) and all(isinstance(x, np.ndarray) for x in images)
    return np.stack(images) if alike and len({(x.shape, x.dtype) for x in images}) == 1 else images


def kept(given: Any, depth: int = 2) -> Any:
    """Replaces generators and open files, which can be read only once, with lists and bytes.

    Also replaces them inside lists, pairs and dicts. Raises ConfigError.
    """
    if hasattr(given, "read"):
        return _content(given, "a file")
    if isinstance(given, Mapping):
        return {name: kept(value) for name, value in given.items()}
    if isinstance(given, Iterator):
        given = _listed(given, "the data")
    if isinstance(given, (tuple, list)) and depth:
        return type(given)([kept(x, depth - 1) for x in given])
    return given


def as_labels(given: Any, what: str = "labels") -> np.ndarray:
    """Returns labels as an array of integers or of texts, with one axis.

    Raises ConfigError for labels of other types, and for missing labels.
    """
    wanted = f"{what} must be integers or texts, one per image"
    given = _plain(given, what)
    if isinstance(given, torch.Tensor):
        given = np.array(given.tolist())
    if isinstance(given, np.ndarray):
        if given.ndim != 1:
            raise ConfigError(f"{wanted}, got an array of shape {list(given.shape)}")
        if given.dtype.kind in "iuU" and not np.ma.is_masked(given):
            return given
        values = given.tolist()
    elif isinstance(given, (str, bytes, bytearray)):
        raise ConfigError(f"{wanted}, got one text")
    else:
        values = [x.item() if isinstance(x, torch.Tensor) and x.ndim == 0 else x for x in _listed(given, what)]
    missing = [i for i, value in enumerate(values) if _is_missing(value)]
    if missing:
        raise ConfigError(
            f"{len(missing)} of {len(values)} {what} are missing, the first at {missing[0]}; leave them out"
        )
    kinds = {_kind(value) for value in values}
    if kinds == {"bool"}:
        return np.array(list(map(str, values)))
    if len(kinds) == 1 and kinds <= {"int", "str"}:
        return np.array(values)
    if kinds == {"bytes"}:
        return np.array([os.fsdecode(value) for value in values])
    raise ConfigError(f"{wanted}, got {' and '.join(sorted(kinds)) or 'none'}")


def channel_axis(shape: tuple[int, ...], channels: int | None = None) -> int:
    """Returns the axis of the channels among the last three axes of `shape`: -3 or -1.

    It is the axis of length `channels`. If `channels` is None, it is the axis of length 1 or 3, or else the axis that leaves
    square images. Raises ConfigError if both or neither axis qualifies.
    """
    a, b, c = shape[-3:]
    known = COLOURS if channels is None else (channels,)
    could = (a in known, c in known)
    if could == (False, False) and channels is None:
        could = (b == c, a == b)
    if could == (True, True) and (a, b, c) != (1, 1, 1):
        raise ConfigError(
            f"in images of shape {list(shape)} the channels may be first or last; give PIL images, or images of another size"
        )
    if could == (False, False):
        wanted = _wanted(channels) if channels else "cannot find the channels"
        raise ConfigError(f"{wanted}: got images of shape {list(shape)}; give [N, H, W, C] or [N, C, H, W]")
    return -3 if could[0] else -1


def channels_first(x: Array, channels: int | None = None) -> torch.Tensor:
    """Converts a batch [N, H, W] of grey images, [N, H, W, C] or [N, C, H, W] to uint8 [N, C, H, W]. Raises ConfigError."""
    x = _levels(x)
    if x.ndim == 3 and x.shape[2] in COLOURS:
        raise ConfigError(
            f"images of shape {list(x.shape)} may be one image; give [N, H, W], [N, H, W, C] or [N, C, H, W]"
        )
    if x.ndim == 3:
        return x[:, None].contiguous()
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise ConfigError(f"images must be [N, H, W], [N, H, W, C] or [N, C, H, W], got shape {list(x.shape)}")
    return x.movedim(channel_axis(tuple(x.shape), channels), -3).contiguous()


def one_or_more(x: Array, channels: int) -> torch.Tensor:
    """Converts images with `channels` channels to uint8 [N, C, H, W]. Raises ConfigError.

    The images are a batch as in `channels_first`, or one image [H, W], [H, W, C] or [C, H, W].
    """
    x = _levels(x)
    if x.ndim == 2 and channels == 1:
        return x[None, None]
    # [H, W, 3] is one colour image, not H grey images.
    if x.ndim == 3 and channels == 1 and x.shape[0] != 1 and x.shape[2] not in (1, 3, 4):
        return x[:, None]
    if x.ndim == 3:
        x = x[None]
    if x.ndim != 4:
        raise ConfigError(f"{_wanted(channels)}, got an array of shape {list(x.shape)}")
    return x.movedim(channel_axis(tuple(x.shape), channels), -3)


def as_image(x: Array) -> Image.Image:
    """Converts an array, uint8 [H, W], [H, W, C] or [C, H, W], to a grey or RGB image. Raises ConfigError."""
    x = _levels(x)
    if x.ndim == 3:
        x = x.movedim(channel_axis(tuple(x.shape)), -1)
    if x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[2] not in COLOURS) or 0 in x.shape:
        raise ConfigError(f"images of different sizes must be grey or RGB, got an array of shape {list(x.shape)}")
    return Image.fromarray(np.ascontiguousarray(x.squeeze(2).numpy() if x.ndim == 3 and x.shape[2] == 1 else x.numpy()))


# ---------------------------------------------------------------------------------------------------------------------


def _wanted(channels: int) -> str:
    return f"images must have {channels} channel{'s' * (channels > 1)}"


def _plain(given: Any, what: str) -> Any:
    """Converts a pandas or polars series to an array, and arrays of objects and texts to lists. Moves tensors to the CPU.

    Raises ConfigError for tables and for tensors without values.
    """
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):
        raise ConfigError(f"{what} are a table; give its columns: (table['path'], table['label'])")
    if (
        not isinstance(given, (np.ndarray, torch.Tensor, str, bytes))
        and hasattr(given, "__array__")
        and not (isinstance(given, (Image.Image, np.generic)))
    ):
        try:
            given = np.asarray(given)
        except Exception as error:  # libraries raise exceptions of any type
            raise ConfigError(
                f"{what} of type {type(given).__name__} cannot be converted to an array: {error}"
            ) from error
    if isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind == "S":
        return [os.fsdecode(x) for x in given.tolist()]
    if isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind in "OUT":
        return given.tolist()
    return _on_cpu(given, what) if isinstance(given, torch.Tensor) else given


def _on_cpu(x: torch.Tensor, what: str) -> torch.Tensor:
    if x.is_meta or x.layout != torch.strided:
        raise ConfigError(f"{what} are a tensor on {x.device} of layout {x.layout}; give a dense one with values")
    return x.detach().cpu()


def _listed(given: Any, what: str) -> list[Any]:
    if isinstance(given, (Set, Mapping)):
        raise ConfigError(f"{what} are a {type(given).__name__}, which has no order; give a list")
    if not isinstance(given, Iterable) and not hasattr(given, "__getitem__"):
        raise ConfigError(f"{what} must be an array, or a list of paths or images, got {type(given).__name__}")
    try:
        return list(given)
    except Exception as error:  # raised by the caller's generator
        raise ConfigError(f"{what} cannot be listed: {type(error).__name__}: {error}") from error


def _element(item: Any, what: str) -> Source | Array:
    if isinstance(item, (str, os.PathLike)):
        return expanded(item)
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    if isinstance(item, Image.Image):
        return item
    if hasattr(item, "read"):
        return _content(item, what)
    if np.ma.is_masked(item):
        raise ConfigError(f"{what} has masked values; fill them in")
    try:
        x = np.asarray(_on_cpu(item, what) if isinstance(item, torch.Tensor) else item)
    except Exception as error:  # a ragged list, or an error raised by the item
        raise ConfigError(f"{what} is not an image: {error}") from error
    if x.dtype.kind not in "biuf" or x.ndim < 2:
        raise ConfigError(
            f"{what} must be a path, bytes, an open file, a PIL image or an array, got {type(item).__name__}"
        )
    return x


def _content(file: Any, what: str) -> bytes:
    try:
        data = file.read()
    except Exception as error:  # closed, or opened for writing
        raise ConfigError(f"{what} cannot be read: {error}") from error
    if not isinstance(data, bytes):
        raise ConfigError(f"{what} is a file opened as text; open it with 'rb'")
    return data


def _levels(x: Array) -> torch.Tensor:
    if np.ma.is_masked(x):
        raise ConfigError("images are an array with masked values; fill them in")
    if x.dtype not in (torch.uint8, np.uint8):
        raise ConfigError(
            f"images must be uint8 (0 to 255), got {x.dtype}: multiply values in 0-1 by 255, round, convert"
        )
    return x if isinstance(x, torch.Tensor) else torch.from_numpy(np.require(x, requirements="CW"))


def _is_missing(value: Any) -> bool:
    """Returns whether a value is None, NaN, or a missing value of pandas.

    A missing value of pandas differs from itself or cannot be compared.
    """
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):
        return True


def _kind(value: Any) -> str:
    for name, kinds in (("bool", (bool, np.bool_)), ("int", (int, np.integer)), ("str", str), ("bytes", bytes)):
        if isinstance(value, kinds):
            return name
    return type(value).__name__
