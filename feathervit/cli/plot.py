"""The verbs of `plot`, which draw figures of a model, and `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ..errors import CheckpointError

SHOWN = 8  # number of images of the data to draw
COUNTED = 512  # number of images of the data for the use of the experts


@dataclass(kw_only=True)
class PlotFlags:
    """The flags of every plot."""

    checkpoint: Positional[str]
    """A weights file or a run folder."""
    out: str
    """The PNG file to write."""


@dataclass(kw_only=True)
class ImagePlotFlags(PlotFlags):
    """The flags of every plot of images."""

    images: Positional[tuple[str, ...]] = ()
    """Image files; if not given, some of the training data (test, else val, else train)."""


@dataclass(kw_only=True)
class PlotReconstructions(ImagePlotFlags):
    """Draw original, masked and reconstructed images of a masked auto-encoder, as a PNG."""

    out: str = "reconstructions.png"

    def execute(self) -> int:
        from ..checkpoint import load_weights
        from ..models import MaskedAutoencoder
        from ..models.loading import load_model
        from ..plots.reconstructions import write_reconstructions
        from ..plots.subject import own_data, read_images

        stored = load_weights(self.checkpoint)
        model, config = load_model(stored, self.checkpoint), stored.config
        if not isinstance(model, MaskedAutoencoder):
            raise CheckpointError(
                f"{self.checkpoint} is a classifier; reconstructions need a run of feathervit pretrain"
            )
        images = read_images(self.images, stored) if self.images else own_data(config).some(SHOWN).images
        print(write_reconstructions(model, images, config, Path(self.out)))
        return 0


@dataclass(kw_only=True)
class PlotRouting(ImagePlotFlags):
    """Draw the experts of each patch in each layer, and the use of the experts by class, as a PNG."""

    out: str = "routing.png"

    def execute(self) -> int:
        from ..plots.routing import write_routing

        encoder, config, images, names, data = _subject(self)
        labelled = None if data is None else data.some(COUNTED)
        print(write_routing(encoder, images, config, Path(self.out), labelled, names))
        return 0


@dataclass(kw_only=True)
class PlotAttention(ImagePlotFlags):
    """Draw which patches the read-out token attends to, in the last layer and through all layers (rollout), as a PNG."""

    out: str = "attention.png"

    def execute(self) -> int:
        from ..plots.attention import write_attention

        encoder, config, images, names, _ = _subject(self)
        print(write_attention(encoder, images, config, Path(self.out), names))
        return 0


def _subject(flags: ImagePlotFlags) -> tuple[Any, Any, Any, list[str], Any]:
    """Returns the encoder of a plot, its configuration, images, their captions, and their data (None: from files).

    Images of the data are of several classes.
    """
    from ..plots.subject import load_encoder, own_data, read_images, row_names, varied

    encoder, stored = load_encoder(flags.checkpoint)
    if flags.images:
        images = read_images(flags.images, stored)
        return encoder, stored.config, images, row_names(encoder, images, stored), None
    data = own_data(stored.config)
    shown = varied(data, SHOWN)
    return encoder, stored.config, shown.images, row_names(encoder, shown.images, stored, shown.labels), data


@dataclass(kw_only=True)
class PlotPatches(PlotFlags):
    """Draw the filters of the patch embedding, as a PNG."""

    out: str = "patches.png"

    def execute(self) -> int:
        from ..plots.patches import write_patches
        from ..plots.subject import load_encoder

        encoder, _ = load_encoder(self.checkpoint)
        print(write_patches(encoder, Path(self.out)))
        return 0


@dataclass(kw_only=True)
class PlotPositions(PlotFlags):
    """Draw how similar the learned positions of the patches are, as a PNG."""

    out: str = "positions.png"

    def execute(self) -> int:
        from ..plots.positions import write_positions
        from ..plots.subject import load_encoder

        encoder, stored = load_encoder(self.checkpoint)
        print(write_positions(encoder, stored.config, Path(self.out)))
        return 0


@dataclass
class Report:
    """Write the report of a run into its folder, as one HTML page and PNGs: figures, mistakes, curves, data, settings."""

    run: Positional[str]
    """The run folder."""

    def execute(self) -> int:
        from ..plots.report import report as write

        print(write(self.run))
        return 0
