"""Maps drawn in colours have a colour bar."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from feathervit.config import RunConfig
from feathervit.plots.attention import write_attention
from feathervit.plots.patches import write_patches
from feathervit.plots.tiles import tiles, with_scale
from tests.models.test_encoder import VARIANTS, build


def bar(image: Image.Image, colours: str) -> list[int]:
    """The columns of the last rows at which the colours from 0 to 1 appear, -1 for a missing colour."""
    pixels = np.asarray(image.convert("RGB"))[-24:]
    wanted = (255 * matplotlib.colormaps[colours]([0.0, 0.25, 0.75, 1.0])[:, :3]).round()
    near = [np.flatnonzero((abs(pixels - colour).max(-1) <= 4).any(0)) for colour in wanted]
    return [int(columns[0]) if len(columns) else -1 for columns in near]


@pytest.mark.parametrize("kind", ["attention", "patches"])
def test_maps_have_a_colour_bar(kind, tmp_path):
    path, colours = tmp_path / "out.png", "inferno" if kind == "attention" else "RdBu_r"
    if kind == "attention":
        images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
        write_attention(build(VARIANTS["latent"]).eval(), images, RunConfig(img_size=8), path)
    else:
        write_patches(build(in_chans=1), path)
    places = bar(Image.open(path), colours)
    assert places[0] >= 0
    assert all(np.diff(places) > 0)


def test_a_scale_keeps_the_image_and_shows_its_texts():
    image = tiles([torch.full((2, 1, 8, 8), 90, dtype=torch.uint8)])
    drawn = with_scale(image, "0", "a long text at the end of the bar")
    assert np.array_equal(np.asarray(drawn)[: image.height, : image.width], np.asarray(image))
    ink = np.flatnonzero((np.asarray(drawn.convert("L"))[image.height :] < 100).any(0))
    assert ink[0] < 20
    assert image.width < ink[-1] < drawn.width - 2  # the text is not cut off
