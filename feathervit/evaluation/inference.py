"""From stored images or picture files to probabilities: the same way in validation, evaluation and prediction.

`load` gives a `Predictor`, which goes the whole way from a picture to class names. Nothing here draws randomness.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..config import RunConfig
from ..data.picture import as_input, fit_square, open_picture, resize, to_stored
from ..errors import CheckpointError, ConfigError, DataError
from ..models.fast import accelerate
from ..training.checkpoint import Checkpoint, load_model, load_weights
from ..training.setup import autocast

BATCH = 500
UNSURE = "unsure"


@torch.inference_mode()
def logits(
    model: nn.Module, images_NCRR: Tensor, config: RunConfig, device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Logits, float32 [N, K] on the CPU, of stored uint8 images [N, C, R, R]. Sets evaluation mode."""
    model.eval()
    out = []
    for images_BCRR in images_NCRR.split(BATCH):
        x_BCSS = as_input(images_BCRR.to(device), config)
        with autocast(device, dtype):
            logits_BK = model(x_BCSS)
        out.append(logits_BK.float().cpu())
    return torch.cat(out)


@dataclass(frozen=True)
class Prediction:
    """Class names with their probabilities, most probable first.

    `sure`: whether the first is at least as probable as was asked for. `classes[0]` is the best guess in any case, `label` is
    it only where it is sure, else "unsure".
    """

    source: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    sure: bool = True

    @property
    def label(self) -> str:
        return self.classes[0] if self.sure else UNSURE


class Predictor:
    """A trained model with everything needed to use it on pictures.

    `model` is the network in evaluation mode, `class_names` its classes, `config` the run it came from. `temperature` divides
    its logits: 1 unless the checkpoint was calibrated.
    """

    def __init__(self, checkpoint: Checkpoint, where: str | Path, device: str = "cpu"):
        if not checkpoint.class_names:
            raise CheckpointError(
                f"{where} is a pre-trained auto-encoder that knows no classes; fine-tune it first: feathervit train --from"
            )
        self.device = torch.device(device)
        self.model = load_model(checkpoint, where).to(self.device, memory_format=torch.channels_last)
        if self.device.type == "cpu":
            accelerate(self.model, torch.float32)
        self.config, self.class_names = checkpoint.config, checkpoint.class_names
        self.in_chans, self.temperature = checkpoint.in_chans, checkpoint.temperature

    def probabilities(self, images_NCRR: Tensor) -> Tensor:
        """Class probabilities, float32 [N, K] on the CPU, of stored uint8 images [N, C, R, R]."""
        return (logits(self.model, images_NCRR, self.config, self.device) / self.temperature).softmax(-1)

    def predict(self, pictures: Any, top: int = 5, min_confidence: float = 0.0) -> list[Prediction]:
        """The `top` classes of each picture; one whose best has a probability under `min_confidence` is labelled "unsure".

        `pictures`: a path or a list of paths; a PIL image; images as an array or tensor, uint8: [H, W] or [N, H, W] for
        one channel, [H, W, C] or [N, H, W, C], [C, H, W] or [N, C, H, W]; or a list of such, whose sizes may differ.
        Raises DataError for a picture that cannot be read, ConfigError for arrays of another shape or type and for a
        confidence that is not from 0 to 1.
        """
        if isinstance(pictures, (str, Path)):
            pictures = [pictures]
        if isinstance(pictures, (list, tuple)) and all(isinstance(p, (str, Path)) for p in pictures):
            sources = [str(p) for p in pictures]
            squares = [self.read(p) for p in pictures]
        else:
            one_by_one = isinstance(pictures, (list, tuple))  # their sizes may differ
            squares = [
                square
                for part in (pictures if one_by_one else [pictures])
                for square in resize(fit_square(self._images(part), self.config.images.fit), self.config.img_size)
            ]
            sources = [f"images[{i}]" for i in range(len(squares))]
        return self.classify(squares, sources, top, min_confidence)

    def classify(
        self, squares: list[Tensor], sources: list[str], top: int = 5, min_confidence: float = 0.0
    ) -> list[Prediction]:
        """`predict` for pictures as `read` gives them, uint8 [C, S, S] each; `sources` names them."""
        if not 0 <= min_confidence <= 1:
            raise ConfigError(f"the least confidence must be a share from 0 to 1, got {min_confidence}")
        if not squares:
            return []
        p_NK = self.probabilities(torch.stack(squares))
        values_NK, index_NK = p_NK.topk(min(max(top, 1), len(self.class_names)), dim=-1)
        return [
            Prediction(source, tuple(self.class_names[i] for i in index), tuple(values), values[0] >= min_confidence)
            for source, index, values in zip(sources, index_NK.tolist(), values_NK.tolist(), strict=True)
        ]

    def read(self, path: str | Path) -> Tensor:
        """A picture file as the model sees it: uint8 [C, S, S]. Raises DataError when it cannot be read."""
        if self.in_chans not in (1, 3):
            raise DataError(f"the model takes {self.in_chans} channels; a picture file has 1 or 3, give arrays instead")
        return to_stored(Path(path), self.config.img_size, self.in_chans, self.config.images.fit)

    def _images(self, pictures: Any) -> Tensor:
        if isinstance(pictures, Image.Image):
            if self.in_chans not in (1, 3):
                raise ConfigError(
                    f"the model takes {self.in_chans} channels; a PIL image has 1 or 3, give arrays instead"
                )
            return open_picture(pictures, self.in_chans)[None]
        x = torch.from_numpy(np.require(pictures, requirements="CW")) if not isinstance(pictures, Tensor) else pictures
        if x.dtype != torch.uint8:
            raise ConfigError(f"images must be uint8 (0-255), got {x.dtype}")
        c, shape = self.in_chans, list(x.shape)
        if x.ndim == 2 and c == 1:
            return x[None, None]
        if x.ndim == 4 and c == x.shape[1]:
            return x
        if x.ndim == 4 and c == x.shape[3]:
            return x.permute(0, 3, 1, 2)
        if x.ndim == 3 and c == x.shape[0]:
            return x[None]
        if x.ndim == 3 and c == x.shape[2]:
            return x.permute(2, 0, 1)[None]
        if x.ndim == 3 and c == 1 and x.shape[2] not in (3, 4):  # a colour picture is not as many grey rows
            return x[:, None]
        raise ConfigError(f"images of {c} channel{'s' * (c > 1)} are wanted, got an array of shape {shape}")


def load(path: str | Path, device: str = "cpu") -> Predictor:
    """The predictor of a checkpoint file, or of a run folder (its best weights, else its last). Raises CheckpointError."""
    return Predictor(load_weights(path), path, device)
