"""Writes copies of images with the predicted class and its probability below them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps
from torchvision.transforms.functional import to_pil_image

from ..config import RunConfig
from ..data.image import open_image, quiet
from ..errors import ConfigError
from ..evaluation.inference import Prediction
from ..files import make_folder, write_bytes
from ..text import shown
from .tiles import font, png_bytes

LEAST, MOST = 192, 1024  # px, minimum and maximum of the longer side of a copy
SIZE = 16  # px, font size


def draw_predictions(predictions: Sequence[Prediction], folder: str | Path, config: RunConfig) -> None:
    """Writes a labelled copy of each image of `predictions` into `folder`, as PNGs.

    Subfolders are kept, relative to the common parent folder of the images. `config`: the configuration of the model, for
    reading the files. Raises ConfigError if a copy would replace an image, and RunFolderError if writing fails.
    """
    folder, sources = Path(folder), [Path(p.source).absolute() for p in predictions]
    if not sources:
        return
    shared = os.path.commonpath([path.parent for path in sources])
    names = [path.relative_to(shared) for path in sources]
    short = [name.with_suffix(".png") for name in names]
    places = [
        folder / (own if short.count(own) == 1 else name.with_name(name.name + ".png"))
        for name, own in zip(names, short, strict=True)
    ]
    if any(path.exists() and path.resolve() in {source.resolve() for source in sources} for path in places):
        raise ConfigError(f"a copy in {folder} would replace an image; name another folder with --draw")
    for prediction, source, place in zip(predictions, sources, places, strict=True):
        with quiet():
            pixels = open_image(source, 3, config.images.scale, config.reading.max_image_gib)
        make_folder(place.parent)
        write_bytes(place, png_bytes(with_label(to_pil_image(pixels), prediction)))


def with_label(image: Image.Image, prediction: Prediction) -> Image.Image:
    """Returns the image, resized to between LEAST and MOST px, with a probability bar and the label below it."""
    times = -(-LEAST // max(image.size))
    image = image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
    image.thumbnail((MOST, MOST))
    text = shown(f"{prediction.label} {100 * prediction.probabilities[0]:.1f} %")
    if not prediction.sure:
        text = shown(f"{prediction.label} ({prediction.classes[0]} {100 * prediction.probabilities[0]:.1f} %)")
    letters = font(SIZE)
    width = max(image.width, int(letters.getlength(text)) + SIZE)
    canvas = Image.new("RGB", (width, image.height + 2 * SIZE), "white")
    canvas.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    bar = (0, image.height, round(width * prediction.probabilities[0]) - 1, image.height + 3)
    if bar[2] > 0:
        draw.rectangle(bar, fill="#0072B2" if prediction.sure else "#7F7F7F")
    draw.text((width // 2, image.height + SIZE + 2), text, fill="black", font=letters, anchor="mm")
    return ImageOps.expand(canvas, 1, "#d0d0d0")
