"""Arrays as a data set: `(images, labels)`, or a dict of such pairs by split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..errors import DataError, UnknownNameError
from .columns import splits_of
from .imageset import ArrayPictures, Found
from .names import SPLITS


def find_arrays(source: Any, labelled: bool = True) -> Found:
    """A pair (images, labels), or {"train": pair, "val": pair, "test": pair} of which train must be there.

    images: uint8 [N, H, W], [N, H, W, C] or [N, C, H, W] (see `channels_first`). labels: N integers or strings; the
    classes are train's labels, sorted. Where labels are not needed, images alone do as well. Raises DataError.
    """
    pairs = dict(source) if isinstance(source, Mapping) else {"train": source}
    if not labelled:
        pairs = {name: pair if _is_pair(pair) else _without_labels(pair) for name, pair in pairs.items()}
    names = splits_of("the dict of arrays", map(str, pairs))
    if unknown := [str(name) for name in pairs if str(name) not in names.values()]:
        raise UnknownNameError("split", unknown[0], SPLITS)
    pairs = {split: pairs[name] for split, name in names.items()}
    if "train" not in pairs:
        raise DataError(f"the dict of arrays holds {', '.join(pairs) or 'nothing'}; it needs 'train'")
    labels = {split: _labels(split, _pair(split, pair)[1]) for split, pair in pairs.items()}
    values = np.unique(labels["train"]).tolist()
    place = {value: i for i, value in enumerate(values)}
    splits = {}
    for split, pair in pairs.items():
        strange = sorted(set(labels[split].tolist()) - set(values), key=str)
        if strange:
            raise UnknownNameError("class", str(strange[0]), map(str, values), f"it is in {split} and not in train")
        images = channels_first(_pair(split, pair)[0])
        if len(images) != len(labels[split]) or not len(images):
            raise DataError(
                f"{split}: {len(images)} images and {len(labels[split])} labels; one label an image is needed"
            )
        index = np.array([place[value] for value in labels[split].tolist()], dtype=np.int64)
        splits[split] = ArrayPictures(images, index, [f"arrays/{split}[{i}]" for i in range(len(images))])
    return Found("arrays", tuple(map(str, values)), splits, dict.fromkeys(splits, "arrays"))


def channels_first(images: Any) -> torch.Tensor:
    """uint8 [N, C, H, W] from [N, H, W], [N, H, W, C] or [N, C, H, W].

    The axis of length 1 or 3 is the channels'. Where both could be, torch tensors are read as channels first and other
    arrays as channels last; where neither is, the axis that leaves square pictures. Raises DataError.
    """
    first = isinstance(images, torch.Tensor)
    x = images.detach().cpu() if first else np.asarray(images)
    if x.dtype not in (torch.uint8, np.uint8):
        raise DataError(f"images must be uint8, 0 to 255, got {x.dtype}: multiply 0-1 by 255, round, convert")
    x = x if first else torch.from_numpy(np.ascontiguousarray(x))
    if x.dim() == 3:
        return x[:, None].contiguous()
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise DataError(f"images must be [N, H, W], [N, H, W, C] or [N, C, H, W], got shape {list(x.shape)}")
    _, a, b, c = x.shape
    could = (a in (1, 3), c in (1, 3))
    if could == (False, False):
        could = (b == c, a == b)
    if could == (False, False):
        raise DataError(
            f"cannot tell the channels of images of shape {list(x.shape)}; give [N, H, W, 3] or [N, 3, H, W]"
        )
    if could != (True, True):
        first = could[0]
    return (x if first else x.permute(0, 3, 1, 2)).contiguous()


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, (tuple, list)) and len(pair) == 2 and np.ndim(pair[1]) == 1


def _without_labels(images: Any) -> tuple[Any, np.ndarray]:
    images = np.stack(images) if isinstance(images, (tuple, list)) else images
    return images, np.zeros(len(images), dtype=np.int64)


def _pair(split: str, pair: Any) -> tuple[Any, Any]:
    if isinstance(pair, (str, bytes)) or not hasattr(pair, "__len__") or len(pair) != 2:
        raise DataError(f"{split} must be a pair (images, labels), got {type(pair).__name__}")
    return pair[0], pair[1]


def _labels(split: str, labels: Any) -> np.ndarray:
    values = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        kind = f"{values.dtype} of shape {list(values.shape)}"
        raise DataError(f"{split}: labels must be a flat list of integers or of strings, got {kind}")
    return values
