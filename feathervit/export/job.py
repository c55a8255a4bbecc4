"""Collects the input of an export: the checkpoint, and separate images for calibration and for the check.

Legend: N images, C channels, R stored side, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..checkpoint import Checkpoint, load_weights
from ..data.cache import FileImages
from ..data.finding import find
from ..data.image import Source, as_input, open_image
from ..data.imageset import evenly
from ..errors import DataError, FeatherVitError
from ..evaluation.evaluate import labelled
from ..evaluation.inference import Predictor
from ..files import same_data
from ..models import Encoder
from .verify import agreement

CALIBRATION, CHOOSING, CHECKING, ORIGINALS, ROUTED = 200, 500, 2000, 100, 200  # maximum numbers of images


@dataclass(frozen=True)
class Images:
    """Holds uint8 images [N, C, R, R], their labels [N], and the name of their split, such as "digits/test"."""

    pixels: Tensor
    labels: np.ndarray
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, most: int) -> Images:
        index = evenly(len(self), most)
        return Images(self.pixels[torch.from_numpy(index)], self.labels[index], self.name)


@dataclass(frozen=True)
class Job:
    """Holds a checkpoint to export, and its images. `calibration`, `choosing` and `checking` are disjoint.

    `originals`: some of the source files of `checking`; empty for arrays. `shared`: whether all three sets come from one
    split, either "train" or the only split. `trained`: reads the training data, if `data` has no images to calibrate on.
    `held_out`: whether the model was not trained on `checking`; None: unknown.
    """

    predictor: Predictor
    checkpoint: Checkpoint
    folder: Path
    data: Any
    checking: Images
    originals: Sequence[Source]
    shared: bool
    trained: Predictor | None
    held_out: bool | None
    say: Callable[[str], None]
    input: str = "image"  # or "tensor"
    min_agreement: float | None = None  # in 8 bits; None: the accuracy is checked instead
    batch: int | None = None  # fixed batch size of an ONNX file; None: any size
    samples: int = 0  # number of held-out images in the page
    push: str | None = None  # OWNER/NAME on the hub, if the folder will be uploaded

    @cached_property
    def calibration(self) -> Images:
        """Images for the calibration of ranges. They are loaded on first use, because most targets do not need them."""
        return self._training(CALIBRATION, 0)

    @cached_property
    def choosing(self) -> Images:
        """Images for the choice of the quantisation method."""
        return self._training(CHOOSING, 1)

    def _training(self, most: int, share: int) -> Images:
        split, of = (None, 4) if self.shared else ("train", 2)
        predictor, data = (self.trained, None) if self.trained else (self.predictor, self.data)
        return _load(predictor, data, split, lambda _, count: _spread(count, most, (share,), of), self.say)[0]

    @property
    def facts(self) -> dict[str, Any]:
        """The metadata of an exported file."""
        return facts(self.predictor) | {"input": self.input, "feathervit": __version__}

    def before(self, images: Images) -> np.ndarray:
        """Returns the probabilities of the original model, float32 [N, K]."""
        return self.predictor.probabilities(images.pixels).numpy()

    def tensors(self, images: Images) -> np.ndarray:
        """Converts images to the input of the model: resized, normalised, float32 [N, C, S, S]."""
        return as_input(images.pixels, self.predictor.config).numpy()

    def feed(self, images: Images, kind: str) -> np.ndarray:
        """Converts images to the input of an exported file. `kind`: "image" or "tensor"."""
        return (
            self.tensors(images) if kind == "tensor" else self._values(images.pixels.permute(0, 2, 3, 1).contiguous())
        )

    def _values(self, levels: Tensor) -> np.ndarray:
        """Converts uint8 levels to the input of an exported file: unchanged, or float32 values up to the scale."""
        scale = self.predictor.config.images.scale
        return levels.numpy() if scale is None else (levels.float() * (scale / 255)).numpy()

    def on_originals(self, run: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
        """Compares an exported file with the model on image files of original size, one at a time.

        The model receives the files as read by the package. `run` maps an image [1, H, W, C] to probabilities [1, K].
        """
        if not self.originals or self.input == "tensor":
            return {}
        scale, gib = self.predictor.config.images.scale, self.predictor.config.reading.max_image_gib
        pixels = (open_image(source, self.predictor.in_chans, scale, gib) for source in self.originals)
        exported_NK = np.concatenate([run(self._values(x.permute(1, 2, 0)[None].contiguous())) for x in pixels])
        squares_NCSS = torch.stack([self.predictor.read(source) for source in self.originals])
        model_NK = self.predictor.probabilities(squares_NCSS).numpy()
        return {"originals": {"n": len(squares_NCSS), **agreement(model_NK, exported_NK)}}

    def routing(self, run: Callable[[Images], Sequence[np.ndarray]]) -> dict[str, Any]:
        """Compares the routing of models with experts: share of tokens with the same top expert, and experts used per layer.

        The results show whether an exporter made a router constant. `run` maps images to the gates of each layer.
        """
        images, model = self.checking.some(ROUTED), self.predictor.model
        if not isinstance(model, Encoder):
            return {}
        with torch.inference_mode():
            gates = model.intermediates(torch.from_numpy(self.tensors(images)), ("gate",)).values()
        if not gates:
            return {}
        same, tokens, used = 0, 0, []
        for gate, exported_gate in zip(gates, run(images), strict=True):
            expert = exported_gate.argmax(-1)
            expected = gate[:, : expert.shape[1]].argmax(-1).numpy()  # the last layer may compute only the first tokens
            same, tokens = same + int((expected == expert).sum()), tokens + expert.size
            used.append(len(np.unique(expert)))
        return {"same_expert": same / tokens, "experts_used": used}


def facts(predictor: Predictor) -> dict[str, Any]:
    """Returns the description of a model and its preprocessing for programs that run it."""
    config = predictor.config
    return {
        "model": config.model,
        "class_names": list(predictor.class_names),
        "img_size": config.img_size,
        "patch_size": config.patch_size,
        "channels": predictor.in_chans,
        "fit": config.images.fit,
        "mean": list(config.images.mean),
        "std": list(config.images.std),
        "scale": config.images.scale,
        "temperature": predictor.temperature,
        "threshold": predictor.other.threshold if predictor.other else None,  # of the answer "other"
    }


def prepare(
    checkpoint: str | Path, data: Any, reading: Mapping[str, Any], say: Callable[[str], None], **options: Any
) -> Job:
    """Loads the checkpoint and its images. `reading`: fields of `ReadingConfig`; `options`: the last fields of `Job`.

    Raises CheckpointError, DataError and ConfigError.
    """
    path, weights = Path(checkpoint), load_weights(checkpoint)
    predictor = Predictor(weights.read_as(reading, data), checkpoint)
    source = find(data if data is not None else weights.config.data, reading=predictor.config.reading)
    own = data is None or same_data(data, weights.config.data)
    trained = None if own or "train" in source.splits else _training_data(weights, checkpoint)

    def is_shared(split: str) -> bool:
        return split == "train" or ("train" not in source.splits and trained is None)

    def pick(split: str, count: int) -> np.ndarray:
        return _spread(count, CHECKING, (2, 3), 4) if is_shared(split) else _spread(count, CHECKING)

    checking, sources = _load(predictor, data, None, pick, say)
    split = checking.name.rpartition("/")[2]
    place = {
        name: (images.items, i)
        for images in source.splits.values()
        if isinstance(images, FileImages)
        for i, name in enumerate(images.sources)
    }
    selected = evenly(len(sources), ORIGINALS) if place else ()
    originals = [items[i] for items, i in (place[sources[number]] for number in selected)]
    folder = path if path.is_dir() else path.parent
    held_out = split != "train" or (False if own else None)
    shared = is_shared(split)
    return Job(predictor, weights, folder, data, checking, originals, shared, trained, held_out, say, **options)


def _training_data(weights: Checkpoint, checkpoint: str | Path) -> Predictor | None:
    """Returns a predictor that reads the training data as in training, or None if the data is missing."""
    try:
        found = find(weights.config.data, reading=weights.config.reading)
    except FeatherVitError:
        return None
    return Predictor(weights, checkpoint) if "train" in found.splits else None


def _load(
    predictor: Predictor,
    data: Any,
    split: str | None,
    pick: Callable[[str, int], np.ndarray],
    say: Callable[[str], None],
) -> tuple[Images, list[str]]:
    """Loads the images selected by `pick`, and their sources. Skips unreadable images with a message."""
    counts = []

    def choose(name: str, count: int) -> np.ndarray:
        index = pick(name, count)
        if not len(index):
            raise DataError(
                f"{count} images are too few for the checks, the calibration and the choice; give more with --data"
            )
        counts.append(len(index))
        return index

    images = labelled(predictor, data, split, skip_unreadable=True, pick=choose)
    if len(images) < counts[0]:
        say(f"  {counts[0] - len(images)} of {counts[0]} images of {images.name} cannot be read and are skipped")
    return Images(images.images, images.labels.numpy(), images.name), images.sources


def _spread(count: int, most: int, shares: tuple[int, ...] = (0,), of: int = 1) -> np.ndarray:
    """Returns at most `most` evenly spaced numbers below `count` whose remainder modulo `of` is in `shares`."""
    index = np.flatnonzero(np.isin(np.arange(count) % of, shares))
    return index[evenly(len(index), most)]
