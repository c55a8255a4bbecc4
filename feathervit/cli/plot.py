"""The verbs of `plot`, which draw figures of a model, and `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ..errors import CheckpointError

SHOWN = 8  # number of images of the data to draw
COUNTED = 512  # number of images of the data for the use of the experts


@dataclass
class PlotReconstructions:
    """Draw original, masked and reconstructed images of a masked auto-encoder, as a PNG."""

    checkpoint: Positional[str]
    """A weights file, or the folder of a pre-training run."""
    images: Positional[tuple[str, ...]] = ()
    """Image files; if not given, some of the training data (test, else val, else train)."""
    out: str = "reconstructions.png"
    """The PNG file to write."""


def plot_reconstructions(args: PlotReconstructions, _: dict) -> int:
    from ..checkpoint import load_weights
    from ..models import MaskedAutoencoder
    from ..models.loading import load_model
    from ..plots.reconstructions import write_reconstructions
    from ..plots.subject import own_data, read_images

    stored = load_weights(args.checkpoint)
    model, config = load_model(stored, args.checkpoint), stored.config
    if not isinstance(model, MaskedAutoencoder):
        raise CheckpointError(f"{args.checkpoint} is a classifier; reconstructions need a run of feathervit pretrain")
    images = read_images(args.images, stored) if args.images else own_data(config).some(SHOWN).images
    print(write_reconstructions(model, images, config, Path(args.out)))
    return 0


@dataclass
class PlotRouting:
    """Draw the experts of each patch in each layer, and the use of the experts by class, as a PNG."""

    checkpoint: Positional[str]
    """A weights file or a run folder, of pre-training or a classifier."""
    images: Positional[tuple[str, ...]] = ()
    """Image files; if not given, some of the training data (test, else val, else train), and the use by class."""
    out: str = "routing.png"
    """The PNG file to write."""


def plot_routing(args: PlotRouting, _: dict) -> int:
    from ..plots.routing import write_routing
    from ..plots.subject import load_encoder

    encoder, stored = load_encoder(args.checkpoint)
    images, names, data = _subject(encoder, stored, args.images)
    labelled = None if data is None else data.some(COUNTED)
    print(write_routing(encoder, images, stored.config, Path(args.out), labelled, names))
    return 0


@dataclass
class PlotAttention:
    """Draw which patches the read-out token attends to, in the last layer and through all layers (rollout), as a PNG."""

    checkpoint: Positional[str]
    """A weights file or a run folder, of pre-training or a classifier."""
    images: Positional[tuple[str, ...]] = ()
    """Image files; if not given, some of the training data (test, else val, else train)."""
    out: str = "attention.png"
    """The PNG file to write."""


def plot_attention(args: PlotAttention, _: dict) -> int:
    from ..plots.attention import write_attention
    from ..plots.subject import load_encoder

    encoder, stored = load_encoder(args.checkpoint)
    images, names, _ = _subject(encoder, stored, args.images)
    print(write_attention(encoder, images, stored.config, Path(args.out), names))
    return 0


def _subject(encoder: Any, stored: Any, paths: tuple[str, ...]) -> tuple[Any, list[str], Any]:
    """Returns the images of a plot, their captions, and the data that they come from (None: from files).

    Images of the data are of several classes.
    """
    from ..plots.subject import own_data, read_images, row_names, varied

    if paths:
        images = read_images(paths, stored)
        return images, row_names(encoder, images, stored), None
    data = own_data(stored.config)
    shown = varied(data, SHOWN)
    return shown.images, row_names(encoder, shown.images, stored, shown.labels), data


@dataclass
class PlotPatches:
    """Draw the filters of the patch embedding, as a PNG."""

    checkpoint: Positional[str]
    """A weights file or a run folder, of pre-training or a classifier."""
    out: str = "patches.png"
    """The PNG file to write."""


def plot_patches(args: PlotPatches, _: dict) -> int:
    from ..plots.patches import write_patches
    from ..plots.subject import load_encoder

    encoder, _ = load_encoder(args.checkpoint)
    print(write_patches(encoder, Path(args.out)))
    return 0


@dataclass
class PlotPositions:
    """Draw how similar the learned positions of the patches are, as a PNG."""

    checkpoint: Positional[str]
    """A weights file or a run folder, of pre-training or a classifier."""
    out: str = "positions.png"
    """The PNG file to write."""


def plot_positions(args: PlotPositions, _: dict) -> int:
    from ..plots.positions import write_positions
    from ..plots.subject import load_encoder

    encoder, stored = load_encoder(args.checkpoint)
    print(write_positions(encoder, stored.config, Path(args.out)))
    return 0


@dataclass
class Report:
    """Write the report of a run into its folder, as one HTML page and PNGs: figures, mistakes, curves, data, settings."""

    run: Positional[str]
    """The run folder."""


def report(args: Report, _: dict) -> int:
    from ..plots.report import report as write

    print(write(args.run))
    return 0
